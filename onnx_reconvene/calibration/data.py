"""Samples for criteria that look at data: from files, folders, functions and Python objects, read in batches.

A source is read again for every pass over it, a batch at a time, so memory does not grow with the number of samples.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_reconvene.calibration import images
from onnx_reconvene.calibration.archives import array_chunks, npz_chunks
from onnx_reconvene.errors import UsageError, blaming
from onnx_reconvene.roles import batch_axis
from onnx_reconvene.shapes import dtype_of

Array = NDArray[Any]
T = TypeVar("T")
Batch = dict[str, Array]  # arrays [samples, ...] by name: the inputs, and what else there is, such as labels
LABELS = ("labels", "label", "targets", "target", "y")
RAW_PIXELS = 32.0  # standardized data do not reach this


@dataclass(frozen=True)
class Input:
    """An input of the network: its declared sizes, None where free, the axis of samples first; its element type; and the axis
    along which the network takes samples."""

    name: str
    shape: tuple[int | None, ...]
    dtype: np.dtype[Any]
    axis: int = 0

    def feed(self, samples: Array) -> Array:
        """Return samples [samples, ...] as the network takes them."""
        return np.ascontiguousarray(np.moveaxis(samples, 0, self.axis)) if self.axis else samples

    def sizes(self, *samples_first: T) -> tuple[T, ...]:
        """Return sizes, that of the axis of samples first, in the order of the network."""
        return (*samples_first[1 : self.axis + 1], samples_first[0], *samples_first[self.axis + 1 :]) if samples_first else ()


def inputs_of(graph: gs.Graph, sizes: Mapping[str, Sequence[int]]) -> list[Input]:
    """Return the inputs of graph that data are for; sizes gives the shape of those that declare none."""

    def declared(tensor: gs.Tensor) -> list[int | None]:
        if tensor.shape is None:
            return [None, *sizes[tensor.name][1:]]
        return [int(size) if isinstance(size, int | np.integer) else None for size in tensor.shape]

    def described(tensor: gs.Tensor) -> Input:
        shape, axis = declared(tensor), batch_axis(graph, tensor)
        return Input(tensor.name, (*shape[axis : axis + 1], *shape[:axis], *shape[axis + 1 :]), dtype_of(tensor), axis)

    return [described(tensor) for tensor in graph.inputs if tensor.name not in graph.input_values]


class Data:
    """A source of samples for a network with these inputs."""

    def __init__(self, source: Any, inputs: Sequence[Input], image: Mapping[str, str] | None = None) -> None:
        """source: the path of an .npz (arrays by input name, labels if any) or .npy (the only input), of a folder of images, or
        "package.module:function"; or an array, a mapping of arrays, a function or an iterable that can be read again (list,
        torch DataLoader) of dicts, tuples (inputs, then labels) or arrays, each a batch or a single sample.

        image: how images are prepared, see `images.Preparation`. Raises UsageError where source is nothing of the kind, or fails.
        """
        self.inputs = inputs
        self._axes = {i.name: i.axis for i in inputs if i.axis}
        self.remarks: list[str] = []
        self.name = f"--data {os.fspath(source)}" if isinstance(source, str | os.PathLike) else "data"
        if any(i.shape and i.shape[0] == 0 for i in inputs):
            raise UsageError(f"{self.name}: the network takes batches of 0 samples, so it cannot be run on any")
        with blaming(self.name):
            self._chunks = self._open(source, image or {})

    def batches(self, size: int, limit: int) -> Iterator[Batch]:
        """Yield the first `limit` samples in batches of `size`, the last of which may be smaller.

        Raises UsageError where the source fails.
        """
        with blaming(self.name):
            yield from self._batches(size, limit)

    def _batches(self, size: int, limit: int) -> Iterator[Batch]:
        waiting: list[Batch] = []
        held, left = 0, limit
        for chunk in self._chunks(size):
            bound = self._bound(chunk)
            waiting.append({name: array[:left] for name, array in bound.items()})
            held, left = held + (count := _count(waiting[-1])), left - count
            while held >= size:
                whole = _joined(waiting)
                yield {name: array[:size] for name, array in whole.items()}
                waiting, held = [{name: array[size:] for name, array in whole.items()}], held - size
            if not left:
                break
        if held:
            yield _joined(waiting)

    def remark(self, text: str) -> None:
        """Note once what the user should know."""
        if text not in self.remarks:
            self.remarks.append(text)

    def too_few(self, size: int) -> UsageError:
        """Return the error for data that make no whole batch of this size."""
        return UsageError(f"{self.name}: holds fewer samples than the {size} that the network takes at once")

    def first(self) -> Batch:
        """Return a batch of one sample. Raises UsageError where there is none."""
        for batch in self.batches(1, 1):
            return batch
        raise UsageError(f"{self.name}: holds no samples")

    def _open(self, source: Any, image: Mapping[str, str]) -> Callable[[int], Iterable[Any]]:
        if isinstance(source, str | os.PathLike):
            return self._named(os.fspath(source), image)
        if isinstance(source, np.ndarray):
            return array_chunks({self._only(): source}, "data", self._axes)
        if isinstance(source, Mapping):
            return array_chunks({name: np.asarray(array) for name, array in source.items()}, "data", self._axes)
        if isinstance(source, Iterator):
            raise UsageError("data: an iterator can be read but once; give a list, a DataLoader or the function that makes it")
        if callable(source):
            return lambda size: source()
        if isinstance(source, Iterable):
            return lambda size: source
        raise UsageError(f"data: {type(source).__name__} is no path, array, mapping, function or iterable")

    def _named(self, source: str, image: Mapping[str, str]) -> Callable[[int], Iterable[Any]]:
        if os.path.isdir(source):
            preparation = images.preparation(self.inputs[0].shape, image)
            self.remarks.append(str(preparation))
            return images.chunks(source, self._only(), preparation)
        if source.endswith(".npz"):
            return npz_chunks(source, self._axes)
        if source.endswith(".npy"):
            return array_chunks({self._only(): np.load(source, mmap_mode="r")}, self.name, self._axes)
        if ":" in source and not os.path.exists(source):
            function = _imported(source)
            return lambda size: function()
        raise UsageError(f"{self.name}: no .npz, .npy, folder of images or package.module:function" + _missing(source))

    def _only(self) -> str:
        if len(self.inputs) > 1:
            names = ", ".join(i.name for i in self.inputs)
            raise UsageError(f"--data: the network has inputs {names}; give an .npz or a function that names each")
        return self.inputs[0].name

    def _bound(self, item: Any) -> Batch:
        """Return what a source yields as arrays by name, checked against the inputs of the network."""
        given = self._by_name(item)
        single = any(i.name in given and given[i.name].ndim == len(i.shape) - 1 for i in self.inputs)
        result: Batch = {}
        for wanted in self.inputs:
            if wanted.name not in given:
                raise UsageError(f"{self.name}: has {', '.join(given) or 'nothing'}, but not the input '{wanted.name}'")
            result[wanted.name] = self._fitted(wanted, given.pop(wanted.name))
        count = _count(result)
        for name, array in given.items():
            result[name] = array[None] if not array.ndim or (single and len(array) > 1) else array
        wrong = {name: len(array) for name, array in result.items() if len(array) != count}
        if wrong:
            raise UsageError(f"{self.name}: {count} samples of '{self.inputs[0].name}', but {wrong} of others")
        return result

    def _by_name(self, item: Any) -> Batch:
        if isinstance(item, Mapping):
            given = {str(name): _array(value) for name, value in item.items()}
        elif isinstance(item, tuple | list):
            names = [*(i.name for i in self.inputs), "labels"]
            if len(item) > len(names):
                raise UsageError(f"{self.name}: yields {len(item)} arrays, but the network has {len(self.inputs)} inputs")
            given = dict(zip(names, map(_array, item), strict=False))
        else:
            given = {self._only(): _array(item)}
        others = [name for name in given if name not in LABELS]
        if len(self.inputs) == len(others) == 1 and self.inputs[0].name not in given:
            given[self.inputs[0].name] = given.pop(others[0])
        return given

    def _fitted(self, wanted: Input, array: Array) -> Array:
        """Return array as the input takes it, samples first. Raises UsageError with the reason where it does not fit."""
        where = f"{self.name}: '{wanted.name}'"
        if array.ndim == len(wanted.shape) and wanted.axis:
            array = np.moveaxis(array, wanted.axis, 0)
        if array.ndim == len(wanted.shape) - 1 and array.dtype.kind in "fiub":
            array = array[None]
        fits = array.ndim == len(wanted.shape) and all(
            d in (None, n) for d, n in zip(wanted.shape[1:], array.shape[1:], strict=False)
        )
        if not fits:
            shape, takes = (
                "x".join(wanted.sizes("n", *("n" if d is None else str(d) for d in sizes)))
                for sizes in (array.shape[1:], wanted.shape[1:])
            )
            raise UsageError(f"{where} has shape {shape}, but the network takes {takes}")
        if array.dtype.kind != wanted.dtype.kind:
            scale = "; scale it as for training" if array.dtype.kind in "iu" else ""
            raise UsageError(f"{where} is {array.dtype}, but the network takes {wanted.dtype}{scale}")
        if array.dtype.kind == "f":
            if not np.isfinite(array).all():
                raise UsageError(f"{where} holds NaN or infinity")
            largest = float(np.abs(array).max(initial=0.0))
            if largest > RAW_PIXELS and not any("reaches" in remark for remark in self.remarks):
                self.remarks.append(f"'{wanted.name}' reaches {largest:.4g}: is it scaled as for training?")
        return np.ascontiguousarray(array, wanted.dtype)


def _count(batch: Batch) -> int:
    return min(len(array) for array in batch.values())


def _joined(chunks: Sequence[Batch]) -> Batch:
    first = chunks[0]
    return first if len(chunks) == 1 else {name: np.concatenate([chunk[name] for chunk in chunks]) for name in first}


def _array(value: Any) -> Array:
    return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)


def files_of(source: str, samples: int) -> list[str]:
    """Return the files that the first so many samples of a source come from: of a folder its images, of a function its module.

    Raises UsageError where the package of that fails.
    """
    if os.path.isdir(source):
        return images.paths_in(source)[:samples]
    if os.path.exists(source) or ":" not in source:
        return [source] if os.path.isfile(source) else []
    with blaming(f"--data {source}"):
        _look_here()
        found = importlib.util.find_spec(source.partition(":")[0])
    return [found.origin] if found is not None and found.has_location and found.origin is not None else []


def _look_here() -> None:
    """Let modules in the current folder be found."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())


def _imported(source: str) -> Callable[[], Iterable[Any]]:
    module, _, name = source.partition(":")
    _look_here()
    function: Callable[[], Iterable[Any]] = getattr(importlib.import_module(module), name)
    if not callable(function):
        raise UsageError(f"--data {source}: is no function")
    return function


def _missing(source: str) -> str:
    return "" if os.path.exists(source) else " (there is no such file)"
