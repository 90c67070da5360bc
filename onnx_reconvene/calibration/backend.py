"""Who computes: a network with a loss goes in, a function from feeds to numbers comes out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from onnx_reconvene import runtime
from onnx_reconvene.autodiff import differentiate
from onnx_reconvene.autodiff.builder import Builder, Tensor, total
from onnx_reconvene.autodiff.rewriting import BOUNDS, gain_and_shift, is_normalization, sole_readers, with_pools_first
from onnx_reconvene.errors import ModelError, UsageError
from onnx_reconvene.graph import Source, from_source
from onnx_reconvene.process import workplace
from onnx_reconvene.reference import store

Array = NDArray[Any]
Feeds = Mapping[str, Array]
Run = Callable[[Feeds], list[Array]]


@dataclass(frozen=True)
class Network:
    """A network whose inputs have fixed sizes; `loss` names a scalar in it."""

    source: Source
    loss: str


@dataclass(frozen=True)
class Tap:
    """A tensor to be summed over its positions: over all axes but that of its channels and, if it has one, that of samples."""

    tensor: str
    channels: int
    samples: int | None  # an axis on which samples are outermost; None where the sum runs over them, too


class Backend(Protocol):
    """What a gradient backend offers."""

    def gradients(self, network: Network, names: Sequence[str]) -> Run:
        """Return a function that returns the gradients of the loss by these tensors."""

    def products(self, network: Network, names: Sequence[str]) -> Run:
        """Return a function that returns the products of the Hessian of the loss by these tensors with vectors, which are fed
        under the names that `vector` gives."""

    def contractions(self, network: Network, taps: Sequence[Tap], samples: int) -> Run:
        """Return a function that returns, per tap, the sums of tensor * dloss/dtensor, [samples or 1, channels]."""


def vector(name: str) -> str:
    """Return the input by which `Backend.products` is fed the vector for a tensor."""
    return f"{name}/vector"


@dataclass(frozen=True)
class OnnxRuntime:
    """Gradients as nodes of the network itself, run in plain onnxruntime."""

    threads: int = 0  # its own choice

    def gradients(self, network: Network, names: Sequence[str]) -> Run:
        """Return a function that returns the gradients of the loss by these tensors."""
        derivative = differentiate(from_source(network.source), names, network.loss)
        return compiled(derivative.source, [derivative.outputs[name] for name in names], self.threads)

    def products(self, network: Network, names: Sequence[str]) -> Run:
        """Return a function that returns the products of the Hessian with vectors: the gradients of sum(gradient * vector)."""
        first = differentiate(from_source(network.source), names, network.loss)
        for name in names:
            value = next(v for v in first.source.model.graph.output if v.name == first.outputs[name])
            first.source.model.graph.input.add(name=vector(name), type=value.type)
        builder = Builder(first.source, {})
        along = [builder.tensor(first.outputs[name]) * builder.tensor(vector(name)) for name in names]
        product = builder.copy(total([x.sum(range(x.rank), keepdims=False) for x in along]), "gradient_along_vector")
        second = differentiate(from_source(grown(builder, first.source)), names, product.name)
        return compiled(second.source, [second.outputs[name] for name in names], self.threads)

    def contractions(self, network: Network, taps: Sequence[Tap], samples: int) -> Run:
        """Return a function that returns the sums of tensor * dloss/dtensor over positions."""
        source = with_pools_first(network.source)
        reader = sole_readers(source.model.graph, [])
        readings = [reading(reader, tap) for tap in taps]
        derivative = differentiate(from_source(source), [own.varied for own in readings], network.loss)
        builder = Builder(derivative.source, {})
        terms = [
            contraction(builder, own, derivative.outputs[own.varied], tap, samples) for own, tap in zip(readings, taps, strict=True)
        ]
        outputs = [x.name for own in terms for x in own.tensors]
        run = compiled(grown(builder, derivative.source), outputs, self.threads, planned=True)

        def contracted(feeds: Feeds) -> list[Array]:
            found = iter(run(feeds))
            return [own.value(*islice(found, len(own.tensors))) for own in terms]

        return contracted


@dataclass(frozen=True)
class Reading:
    """How to come by the sums of x dloss/dx: as those of y dloss/dv, y a tensor whose value is that of v wherever dloss/dv is not
    zero, and v = x or, where a normalization v = a x + b alone reads x, with y - b for y. The largest elements of windows of v
    may stand for v, as it is to them that the gradient flows."""

    value: str
    varied: str
    normalization: onnx.NodeProto | None = None


def reading(reader: Mapping[str, onnx.NodeProto], tap: Tap) -> Reading:
    """Return how to come by the sums of tensor * dloss/dtensor with the least to keep, given who alone reads a tensor: a
    convolution, its normalization and a Relu remain one where only their result is asked for."""

    def after(tensor: str, *operators: str) -> str:
        node = reader.get(tensor)
        return str(node.output[0]) if node is not None and node.op_type in operators and node.input[0] == tensor else tensor

    node = reader.get(tap.tensor) if tap.channels == 1 else None
    normalization = node if node is not None and is_normalization(node) else None
    varied = normalization.output[0] if normalization is not None else tap.tensor
    if tap.channels == 1 and tap.samples in (0, None):
        varied = after(varied, "MaxPool")
    return Reading(after(varied, *BOUNDS), varied, normalization)


@dataclass(frozen=True)
class Contraction:
    """What the sums of x dloss/dx follow from: tensors p or p, q, b of a network, and how often to count p or p - b q."""

    tensors: Sequence[Tensor]
    times: int

    def value(self, p: Array, q: Array | None = None, b: Array | None = None) -> Array:
        """Return the sums, [samples or 1, channels], in the memory of p."""
        if q is not None:
            q *= b
            p -= q
        p *= self.times
        return p


def contraction(builder: Builder, own: Reading, gradient: str, tap: Tap, samples: int) -> Contraction:
    """Append what the sums of tensor * dloss/dtensor need. onnxruntime begins with the last output: given tensor after tensor
    from first to last, it computes their sums while the gradient of each is at hand."""
    g = builder.tensor(gradient)
    product, times = averaged(builder.tensor(own.value) * g, tap, samples)
    if own.normalization is None:
        return Contraction([product], times)
    return Contraction([product, averaged(g, tap, samples)[0], gain_and_shift(own.normalization, builder)[1]], times)


def averaged(x: Tensor, tap: Tap, samples: int) -> tuple[Tensor, int]:
    """Return what `summed` does, over a number, and that number: images are averaged, as onnxruntime computes that, unlike a sum,
    in the layout of its convolutions. The reshape keeps the order of outputs from being that of its own nodes."""
    per_sample = tap.samples == 0 and x.shape[0] == samples
    if x.rank < 3 or tap.channels != 1 or not (per_sample or tap.samples is None):
        return summed(x, tap, samples), 1
    means, positions = x.apply("GlobalAveragePool").reshape(*x.shape[:2]), math.prod(x.shape[2:])
    return (means, positions) if per_sample or x.shape[0] == 1 else (means.mean([0]), positions * x.shape[0])


def summed(x: Tensor, tap: Tap, samples: int) -> Tensor:
    """Return x, a function of the tensor of tap element by element, summed over positions, [samples or 1, channels]."""
    kept = {tap.channels, tap.samples}
    found = x.sum([axis for axis in range(x.rank) if axis not in kept], keepdims=False)
    if tap.samples is None:
        return found.reshape(1, -1)
    if tap.samples > tap.channels:
        found = found.transpose(1, 0)
    length, channels = found.shape
    return found if length == samples else found.reshape(samples, length // samples, channels).sum([1], keepdims=False)


def _torch() -> Backend:
    from onnx_reconvene.calibration.torch_backend import Torch

    return Torch()


BACKENDS: dict[str, Callable[[], Backend]] = {"ort": OnnxRuntime, "torch": _torch}


def backend(name: str) -> Backend:
    """Return the backend of this name. Raises UsageError where it is missing."""
    if name not in BACKENDS:
        raise UsageError(f"--gradients {name}: not available here; choose {' or '.join(BACKENDS)}")
    return BACKENDS[name]()


def grown(builder: Builder, source: Source) -> Source:
    """Return source with the nodes that were appended to builder."""
    model = builder.model
    model.graph.node.extend(builder.nodes)
    model.ir_version = max(model.ir_version, 8)
    del model.graph.value_info[:]
    model.graph.value_info.extend(builder.stated())
    for value in model.graph.output:
        value.type.CopyFrom(builder.type_of(value.name))
    return Source(model, source.arrays, source.path)


def compiled(source: Source, outputs: Sequence[str], threads: int = 0, planned: bool = False) -> Run:
    """Return a function that runs a network in onnxruntime and returns these tensors; threads: 0 for its own choice. planned: from
    the second run on all feature maps lie in one block of memory, which is faster but takes more where outputs are large.

    Raises ModelError where it does not run.
    """
    import onnxruntime as ort

    model = onnx.ModelProto()
    model.CopyFrom(source.model)
    del model.graph.output[:]
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in dict.fromkeys(outputs))
    chosen = runtime.options(threads)
    chosen.enable_mem_pattern = planned
    with workplace("running the network") as folder:
        try:
            path = store(Source(model, source.arrays), folder, "network")
            session = runtime.session(path, chosen)
        except Exception as error:  # onnxruntime raises exceptions of its own
            raise ModelError(f"onnxruntime does not load the network: {_line(error)}") from error
    read = {value.name for value in session.get_inputs()}
    giving_back = ort.RunOptions()
    giving_back.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    first = iter([giving_back] if planned else [])  # or else the block would lie beside the memory of that run

    def run(feeds: Feeds) -> list[Array]:
        try:
            found = session.run(list(outputs), {name: array for name, array in feeds.items() if name in read}, next(first, None))
        except Exception as error:
            raise ModelError(f"onnxruntime does not run the network on these data: {_line(error)}") from error
        return [np.asarray(array) for array in found]

    return run


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
