"""What a network has learned or will learn: its stored numbers, each with the part it plays and the fans of its layer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, helper, numpy_helper

from onnx_reconvene.graph import Source
from onnx_reconvene.homes import NO_PARAMETERS
from onnx_reconvene.plain import bodies, nodes_in

CONVOLUTIONS = ("Conv", "FusedConv", "DeformConv")
PRODUCTS = ("Gemm", "FusedGemm", "MatMul", "FusedMatMul")
RECURRENT = ("RNN", "GRU", "LSTM")
NORMS = ("GroupNormalization", "InstanceNormalization", "LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
SCALING = ("Add", "BiasGelu", "Div", "Mul", "PRelu", "SkipLayerNormalization", "SkipSimplifiedLayerNormalization", "Sub")
FEW = 8  # numbers that are no layer's and fewer than these tell nothing


@dataclass(frozen=True)
class Parameter:
    """A stored tensor and the part it plays where a node reads it.

    part: "weight" of a layer, "bias" of one, "start" (of a norm: one value for all, that of `start` if given) or "table".
    """

    name: str
    values: NDArray[Any]
    part: str
    node: NodeProto
    fans: Mapping[str, float] = field(default_factory=dict)  # how many numbers go in and out, by the names of `initializers`
    reads: float = 0  # how many products one output of the layer sums
    start: float | None = None
    scale_free: bool = False  # a weight whose scale a BatchNormalization takes away again


def parameters(source: Source) -> list[Parameter]:
    """Return the parameters of a network in plain form, one for each part that a tensor plays."""
    return list(_Reader(source).read())


class _Reader:
    """The nodes of a network and the floating-point tensors that they read."""

    def __init__(self, source: Source) -> None:
        self.nodes = list(nodes_in(source.model.graph))
        self.maker = {name: node for node in self.nodes for name in node.output}
        self._normalized = _normalized(source.model.graph, self.nodes)
        self._stored = {t.name: t for t in source.model.graph.initializer}
        self._arrays = dict(source.arrays)

    def values(self, name: str) -> NDArray[Any] | None:
        """Return a stored tensor of at least one number, None where nothing is stored under this name, or no numbers."""
        if name not in self._arrays and name in self._stored:
            self._arrays[name] = numpy_helper.to_array(self._stored[name])
        array = self._arrays.get(name)
        return array if array is not None and array.size and array.dtype.kind not in "OSU" else None

    def read(self) -> Iterator[Parameter]:
        """Yield the parameters of layers and norms, then what is left."""
        found: set[str] = set()
        for node in self.nodes:
            for parameter in self._of(node):
                if is_float(parameter.values):
                    found.add(parameter.name)
                    yield parameter
        for node in self.nodes:
            for name in node.input if node.op_type not in NO_PARAMETERS else ():
                values = self.values(name) if name not in found else None
                if values is not None and values.size >= FEW and (is_float(values) or is_quantized(values)):
                    found.add(name)
                    vector = node.op_type in SCALING and sum(n > 1 for n in values.shape) < 2
                    a, b = _matrix(values.shape)
                    yield Parameter(name, values, "start" if vector else "table", node, _fans(a, b))

    def _of(self, node: NodeProto) -> Iterator[Parameter]:
        """Yield what node reads as a layer, as a norm, or as the bias of the layer before it."""
        op = node.op_type
        if op in CONVOLUTIONS or op == "ConvTranspose" or op in PRODUCTS:
            yield from self._layer(node)
        elif op in RECURRENT:
            yield from self._recurrent(node)
        elif op == "BatchNormalization":
            for name, start in zip(node.input[1:5], (None, 0.0, 0.0, 1.0), strict=True):
                yield from self._parameter(node, name, "start", start=start)
        elif op in NORMS:
            for name, start in zip(node.input[1:3], (None, 0.0), strict=False):
                yield from self._parameter(node, name, "start", start=start)
        elif op == "Add":
            yield from self._added(node)

    def _parameter(self, node: NodeProto, name: str, part: str, **more: Any) -> Iterator[Parameter]:
        values = self.values(name)
        if values is not None:
            yield Parameter(name, values, part, node, **more)

    def _layer(self, node: NodeProto) -> Iterator[Parameter]:
        for side, given in enumerate(node.input[:2]):
            name, turned = self._moved_from(given)
            values = self.values(name)
            if values is not None and values.ndim > 1:
                fans, reads = _layer_fans(node, values.shape, turned != (side == 0 or bool(attribute(node, "transB", 0))))
                yield Parameter(name, values, "weight", node, fans, reads, scale_free=node.output[0] in self._normalized)
                if node.op_type not in ("MatMul", "FusedMatMul") and len(node.input) > 2:
                    yield from self._parameter(node, node.input[2], "bias", fans=fans)

    def _added(self, node: NodeProto) -> Iterator[Parameter]:
        """Yield the vector that is added to what a product of matrices returns."""
        for name, other in (tuple(node.input), tuple(node.input)[::-1]):
            product, values = self.maker.get(other), self.values(name)
            if product is not None and values is not None and product.op_type in PRODUCTS and sum(n > 1 for n in values.shape) < 2:
                for weight in [p for p in self._layer(product) if p.part == "weight"]:
                    yield Parameter(name, values, "bias", node, weight.fans)

    def _recurrent(self, node: NodeProto) -> Iterator[Parameter]:
        hidden = float(attribute(node, "hidden_size", 0))
        for name, part in zip(node.input[1:4], ("weight", "weight", "bias"), strict=False):
            values = self.values(name)
            if values is not None:
                fans = {"hidden units": hidden, **(_fans(values.shape[-1], hidden) if part == "weight" else {})}
                yield Parameter(name, values, part, node, fans, values.shape[-1])

    def _moved_from(self, name: str) -> tuple[str, bool]:
        """Return the stored tensor of which another is the transpose, and whether it is."""
        turned = False
        while name in self.maker and self.maker[name].op_type in ("Identity", "Transpose"):
            turned ^= self.maker[name].op_type == "Transpose"
            name = self.maker[name].input[0]
        return name, turned


def _normalized(graph: GraphProto, nodes: list[NodeProto]) -> set[str]:
    """Return the values that only BatchNormalizations read, as what they normalize."""
    norms = {node.input[0] for node in nodes if node.op_type == "BatchNormalization"}
    others = {name for node in nodes for name in node.input[node.op_type == "BatchNormalization" :]}
    return norms - others - {value.name for g in (graph, *(body for node in nodes for body in bodies(node))) for value in g.output}


def _layer_fans(node: NodeProto, shape: tuple[int, ...], outputs_first: bool) -> tuple[dict[str, float], float]:
    """Return the fans of a convolution or product whose weight has this shape, as torch counts them, and how many products one
    output sums. outputs_first: whether the outputs of a matrix lie along the first of its axes."""
    if node.op_type in PRODUCTS:
        fan_out, fan_in = _matrix(shape)[:: 1 if outputs_first else -1]
        return _fans(fan_in, fan_out), fan_in
    groups, kernel = int(attribute(node, "group", 1)), math.prod(shape[2:])
    fans = _fans(shape[1] * kernel, shape[0] * kernel, groups)
    if node.op_type == "ConvTranspose":
        return {**fans, "inputs": shape[0]}, shape[0] // groups * kernel
    return fans, shape[1] * kernel


def _matrix(shape: tuple[int, ...]) -> tuple[float, float]:
    """Return the sizes of the last two axes."""
    first, second = (1, 1, *shape)[-2:]
    return first, second


def _fans(fan_in: float, fan_out: float, groups: int = 1) -> dict[str, float]:
    return {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2, "fan_out of a group": fan_out / groups}


def is_float(values: NDArray[Any]) -> bool:
    """Return True if values are floating-point numbers of at least 16 bits."""
    return values.dtype.kind == "f" or values.dtype.name == "bfloat16"


def is_quantized(values: NDArray[Any]) -> bool:
    """Return True if values are numbers of a type that weights are quantized to."""
    return values.dtype.name.lstrip("u") in ("int2", "int4", "int8") or values.dtype.name.startswith("float8")


def attribute(node: NodeProto, name: str, default: Any) -> Any:
    """Return an attribute of node, or default where it has none."""
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)
