"""A network run piece by piece over all batches of data, each piece once: what later pieces read waits in files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, helper

from onnx_reconvene.calibration.backend import compiled
from onnx_reconvene.graph import Source, put_values
from onnx_reconvene.plain import bodies, nodes_in

Array = NDArray[Any]


class Stream:
    """A network that has been run up to some node, on every batch; `values` are those of its parameters that differ from source."""

    def __init__(self, source: Source, batches: Iterable[tuple[int, Mapping[str, Array]]], folder: str) -> None:
        self.values: dict[str, Array] = {}
        self._source, self._folder = source, folder
        self._nodes = list(source.model.graph.node)
        self._place = {name: k for k, node in enumerate(self._nodes) for name in node.output}
        self._next = 0
        self._number: dict[str, int] = {}  # of a tensor, to name files by
        self._waiting: set[str] = set()
        self.samples = self._count = 0
        for samples, feeds in batches:
            self._store(self._count, feeds)
            self._count += 1
            self.samples += samples

    def before(self, node: NodeProto) -> None:
        """Run all nodes before this one."""
        self._advance(self._place[node.output[0]])

    def after(self, name: str) -> None:
        """Run all nodes up to the one that makes this tensor."""
        self._advance(self._place[name] + 1, [name])

    def read(self, name: str) -> Iterator[Array]:
        """Yield a tensor that waits to be read, batch by batch."""
        for batch in range(self._count):
            yield np.load(self._path(batch, name))

    def peek(self, node: NodeProto) -> Iterator[Array]:
        """Yield what the next node is going to return, batch by batch."""
        yield from (found for (found,) in self._results([node], [node.output[0]]))

    def _advance(self, stop: int, wanted: Sequence[str] = ()) -> None:
        """Run the nodes up to `stop`, and drop what no node behind reads."""
        part, later = self._nodes[self._next : stop], set(wanted).union(*map(_reads, self._nodes[stop:]))
        made = [name for node in part for name in node.output if name in later]
        if made:
            for batch, found in enumerate(self._results(part, made)):
                self._store(batch, dict(zip(made, found, strict=True)))
        for name in self._waiting - later:
            for batch in range(self._count):
                os.remove(self._path(batch, name))
        self._waiting &= later
        self._next = max(stop, self._next)

    def _results(self, part: Sequence[NodeProto], names: Sequence[str]) -> Iterator[list[Array]]:
        """Yield, batch by batch, what a part of the network makes of what waits."""
        given = sorted(self._waiting.intersection(name for node in part for name in _reads(node)))
        run: Callable[[Mapping[str, Array]], list[Array]] | None = None
        for batch in range(self._count):
            feeds = {name: np.load(self._path(batch, name)) for name in given}
            run = run or compiled(self._part(part, feeds), names)
            yield run(feeds)

    def _part(self, part: Sequence[NodeProto], feeds: Mapping[str, Array]) -> Source:
        """Return some nodes as a network of their own."""
        read = {name for node in part for name in _reads(node)}
        model = onnx.ModelProto()
        model.CopyFrom(self._source.model)
        model.ir_version = max(model.ir_version, 8)  # below 4 every initializer has to be an input, too
        graph = model.graph
        stored = [t for t in self._source.model.graph.initializer if t.name in read]
        for field in (graph.node, graph.input, graph.initializer, graph.value_info):
            del field[:]
        graph.node.extend(part)
        graph.initializer.extend(stored)
        for name, array in feeds.items():
            sizes = [f"{name}/{axis}" for axis in range(array.ndim)]
            graph.input.append(helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), sizes))
        arrays = {t.name: self._source.arrays[t.name] for t in stored if t.name in self._source.arrays}
        for tensor in graph.initializer:
            if tensor.name in self.values:
                arrays.pop(tensor.name, None)
                put_values(tensor, self.values[tensor.name], arrays)
        return Source(model, arrays)

    def _store(self, batch: int, tensors: Mapping[str, Array]) -> None:
        for name, array in tensors.items():
            self._waiting.add(name)
            np.save(self._path(batch, name), array)

    def _path(self, batch: int, name: str) -> str:
        return os.path.join(self._folder, f"{self._number.setdefault(name, len(self._number))}-{batch}.npy")


def _reads(node: NodeProto) -> set[str]:
    """Return the tensors that a node and the bodies in it read."""
    return set(node.input).union(*(inner.input for body in bodies(node) for inner in nodes_in(body)))
