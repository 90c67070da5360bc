"""SynFlow as it is defined: gradients of the sum of all outputs of the network of magnitudes, fed with ones, in onnxruntime.

Single precision cannot hold the values of a deep network of magnitudes, and onnxruntime has no convolution in double precision for
CPUs. So every layer is rescaled by a power of two, near what the channel network says of its level, and where branches meet they
are brought to one scale. This changes no score, which is taken as a share of the flow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from onnx_reconvene import runtime
from onnx_reconvene.autodiff import differentiate
from onnx_reconvene.errors import ModelError
from onnx_reconvene.flow import weight_values
from onnx_reconvene.graph import from_model, plain_source
from onnx_reconvene.groups import Analysis
from onnx_reconvene.names import clear_equal_names, name_of
from onnx_reconvene.operators import elementwise
from onnx_reconvene.precision import HALF, in_single_precision
from onnx_reconvene.shapes import Shape
from onnx_reconvene.synflow.rules import unreached, walked
from onnx_reconvene.synflow.steps import Floats
from onnx_reconvene.synflow.walk import Walk

Arrays = dict[str, NDArray[np.float32]]
Rewrite = Callable[["Magnitudes", gs.Node, NodeProto], None]
LOSS = "synflow/loss"
TINY = 1e-30  # a root has no derivative at zero
RANGE = 126  # powers of two; what lies further below the rest of a sum does not show in single precision


@dataclass
class Magnitudes:
    """A network of magnitudes in the making. Its weights, and the factors between scales, are inputs."""

    walk: Walk
    nodes: list[NodeProto] = field(default_factory=list)
    constants: Arrays = field(default_factory=dict)
    scale: dict[str, str] = field(default_factory=dict)  # of each tensor: that whose level sets its scale
    factors: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = field(
        default_factory=dict
    )  # from the mean of scales to the largest

    def flows(self, node: gs.Node) -> list[str]:
        """Return the names of the inputs that are not constant."""
        return [t.name for t in node.inputs if t.name in self.walk.ids]

    def shape(self, name: str) -> Shape:
        """Return the shape of a tensor."""
        return self.walk.analysis.shapes[name]

    def emit(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Append a node and return its output."""
        self.nodes.append(helper.make_node(op, inputs, [output], **attributes))
        return output

    def constant(self, name: str, value: NDArray[Any] | float) -> str:
        """Add a constant and return its name."""
        self.constants[name] = np.asarray(value, np.float32)
        return name

    def rescaled(self, tensor: str, sources: Iterable[str], goals: Iterable[str], output: str) -> str:
        """Bring a tensor from the geometric mean of the scales of sources to the largest scale of goals."""
        factor = f"{output}/factor"
        self.factors[factor] = tuple(self.scale[name] for name in sources), tuple(self.scale[name] for name in goals)
        return self.emit("Mul", [tensor, factor], output)

    def finish(self, tensor: str, sources: Iterable[str], out: str) -> None:
        """Bring what a node has made of sources to a scale of its own."""
        self.scale[out] = out
        self.rescaled(tensor, sources, [out], out)

    def forward(self, name: str, out: str) -> None:
        """Pass a tensor on, as often as its new shape has it."""
        self.scale[out] = self.scale[name]
        if self.shape(name) == self.shape(out):
            self.emit("Identity", [name], out)
        else:
            self.emit("Add", [name, self.constant(f"{out}/zeros", np.zeros(self.shape(out)))], out)


def unchanged(net: Magnitudes, node: gs.Node, proto: NodeProto) -> None:
    """What moves, picks or averages is as it is."""
    net.nodes.append(proto)
    net.scale.update(dict.fromkeys(proto.output, net.scale[net.flows(node)[0]]))


def identity(net: Magnitudes, node: gs.Node, proto: NodeProto) -> None:
    """An activation passes what it gets."""
    net.forward(net.flows(node)[0], proto.output[0])


def layer(net: Magnitudes, node: gs.Node, proto: NodeProto) -> None:
    """A layer loses its bias and is rescaled."""
    flows, out = net.flows(node), proto.output[0]
    if len(flows) > 1:
        multiply(net, node, proto)
        return
    copy = NodeProto()
    copy.CopyFrom(proto)
    copy.input[2:] = [net.constant(f"{out}/bias", 0.0)] if node.op == "Gemm" and len(proto.input) > 2 else []  # older ones need it
    copy.output[0] = f"{out}/unscaled"
    net.nodes.append(copy)
    net.finish(copy.output[0], flows, out)


def add(net: Magnitudes, node: gs.Node, proto: NodeProto) -> None:
    """Terms are brought to one scale; constant ones are left out."""
    flows, out = net.flows(node), proto.output[0]
    if node.op == "Where" and node.inputs[0].name in net.walk.ids:
        flows = flows[1:] or flows
    if len(flows) == 1:
        net.forward(flows[0], out)
        return
    net.scale[out] = out
    terms = [net.rescaled(name, [name], [out], f"{out}/term{k}") for k, name in enumerate(flows)]
    net.emit("Mean" if node.op == "Mean" else "Sum", terms, out)


def concat(net: Magnitudes, node: gs.Node, proto: NodeProto) -> None:
    """Parts are brought to one scale; constant ones are zero."""
    out = proto.output[0]
    net.scale[out] = out
    parts = []
    for k, name in enumerate(proto.input):
        part = f"{out}/part{k}"
        flows = name in net.walk.ids
        parts.append(net.rescaled(name, [name], [out], part) if flows else net.constant(part, np.zeros(net.shape(name))))
    net.emit("Concat", parts, out, axis=node.attrs["axis"])


def multiply(net: Magnitudes, node: gs.Node, proto: NodeProto) -> None:
    """A product of activations is its own root; constant factors count by magnitude."""
    flows, out = net.flows(node), proto.output[0]
    if len(flows) == 1:
        (factor,) = [t for t in node.inputs if t.name not in flows]
        times(net, flows[0], np.abs(net.walk.value(factor)), out)
        return
    product = net.emit(node.op, flows, f"{out}/product")
    if node.op == "MatMul":
        product = net.emit("Mul", [product, net.constant(f"{out}/one_over", 1 / net.shape(flows[0])[-1])], f"{out}/mean")
    positive = net.emit("Max", [product, net.constant(f"{out}/least", TINY)], f"{out}/positive")
    net.finish(net.emit("Sqrt", [positive], f"{out}/root"), flows, out)


def times(net: Magnitudes, name: str, factor: NDArray[Any], out: str) -> None:
    """Scale a tensor by a constant."""
    net.finish(net.emit("Mul", [name, net.constant(f"{out}/magnitude", factor)], f"{out}/unscaled"), [name], out)


def divide(net: Magnitudes, node: gs.Node, proto: NodeProto) -> None:
    """A constant divisor counts by magnitude; an activation does nothing."""
    flows, out = net.flows(node), proto.output[0]
    if node.inputs[1].name in flows:
        net.forward(flows[0], out)
        return
    magnitude = np.abs(np.asarray(net.walk.value(node.inputs[1]), np.float64))
    times(net, flows[0], np.divide(1, magnitude, out=np.zeros_like(magnitude), where=magnitude > 0), out)


def batch_norm(net: Magnitudes, node: gs.Node, proto: NodeProto) -> None:
    """|scale| / sqrt(variance + epsilon), without shift."""
    scale, variance = (np.asarray(net.walk.value(node.inputs[i]), np.float64) for i in (1, 4))
    factor = np.abs(scale) / np.sqrt(variance + node.attrs.get("epsilon", 1e-5))
    times(net, proto.input[0], factor.reshape(-1, *[1] * (len(net.shape(proto.input[0])) - 2)), proto.output[0])


def channel_norm(net: Magnitudes, node: gs.Node, proto: NodeProto) -> None:
    """|scale| of each channel, or of each block of them, with statistics of one."""
    scale, shape = np.abs(net.walk.value(node.inputs[1])), net.shape(proto.input[0])
    factor = np.repeat(scale, shape[1] // scale.size)
    times(net, proto.input[0], factor.reshape(-1, *[1] * (len(shape) - 2)), proto.output[0])


def einsum(net: Magnitudes, node: gs.Node, proto: NodeProto) -> None:
    """A layer, where it reads one activation and a weight."""
    if len(net.flows(node)) > 1:
        raise unknown(node)
    layer(net, node, proto)


def layer_norm(net: Magnitudes, node: gs.Node, proto: NodeProto) -> None:
    """|scale|, with statistics of one."""
    times(net, proto.input[0], np.abs(net.walk.value(node.inputs[1])), proto.output[0])


UNCHANGED = ["AveragePool", "Cast", "DepthToSpace", "Expand", "Flatten", "Gather", "GlobalAveragePool", "GlobalMaxPool", "Identity"]
UNCHANGED += ["MaxPool", "Pad", "ReduceMax", "ReduceMean", "ReduceSum", "Reshape", "Resize", "Slice", "SpaceToDepth", "Split"]
UNCHANGED += ["Squeeze", "Tile", "Transpose", "Unsqueeze", "Upsample"]
ACTIVATIONS = [op for op in elementwise.UNARY if op != "Cast"] + ["Hardmax", "LogSoftmax", "LpNormalization", "LRN", "PRelu", "Pow"]
ACTIVATIONS += ["CastLike", "MeanVarianceNormalization", "Softmax"]

REWRITES: dict[str, Rewrite] = {
    **dict.fromkeys(UNCHANGED, unchanged),
    **dict.fromkeys(ACTIVATIONS, identity),
    **dict.fromkeys(["Add", "Max", "Mean", "Min", "Sub", "Sum", "Where"], add),
    **dict.fromkeys(["Conv", "ConvTranspose", "Gemm", "MatMul"], layer),
    **dict.fromkeys(["GroupNormalization", "InstanceNormalization"], channel_norm),
    **dict.fromkeys(["LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"], layer_norm),
    "BatchNormalization": batch_norm,
    "Concat": concat,
    "Div": divide,
    "Einsum": einsum,
    "Mul": multiply,
}


def unknown(node: gs.Node) -> ModelError:
    """Return the error to raise where a node has no exact form."""
    return ModelError(f"node '{name_of(node)}': synflow-exact has no rule for {node.op}; criterion synflow may have one")


class ExactNetwork:
    """The network of magnitudes with the gradients of its weights, in onnxruntime, in single precision.

    Raises ModelError where an operator has no exact form.
    """

    def __init__(self, analysis: Analysis) -> None:

        self._analysis = analysis
        self._walk, self._channels = walked(analysis)
        for group in unreached(analysis, self._channels):
            raise ModelError(f"node '{group.layers[0]}': synflow-exact has no rule for a layer like this; choose another criterion")
        sources = {name for layer in analysis.layers for name in layer.sources} & analysis.flow.weights.keys()
        stored = {name: weight_values(analysis.flow.weights[name]) for name in sorted(sources)}
        self._weights = {name: np.abs(v) for name, v in stored.items() if v is not None and v.ndim > 1 and v.dtype.kind == "f"}
        self._units = {name: list(analysis.bearings(name).values()) for name in self._weights}
        self._net = Magnitudes(self._walk)
        derivative = differentiate(from_model(self._model()), list(self._weights), LOSS, analysis.sizes)
        self._gradients = [derivative.outputs[name] for name in self._weights]
        model = derivative.source.model
        for tensor in model.graph.initializer:
            if tensor.name in derivative.source.arrays:
                tensor.raw_data = derivative.source.arrays[tensor.name].tobytes()
        self._session = runtime.session(model.SerializeToString(), runtime.options(severity=3))

    def _model(self) -> onnx.ModelProto:
        net, graph = self._net, self._analysis.graph
        net.scale.update((tensor.name, tensor.name) for tensor in graph.inputs)
        bare = in_single_precision(plain_source(graph), (*HALF, TensorProto.DOUBLE))
        result, protos = bare.model, list(bare.model.graph.node)
        result.ir_version = max(result.ir_version, 8)  # below 4 every initializer has to be an input, too
        for node, proto in zip(graph.nodes, protos, strict=True):
            if any(t.name in self._walk.ids for t in node.outputs):
                if node.op not in REWRITES:
                    raise unknown(node)
                REWRITES[node.op](net, node, proto)
            elif not any(t.name in self._weights for t in node.outputs):
                net.nodes.append(proto)
        self._add_loss()
        for tensor in [t for t in result.graph.initializer if t.name in self._weights]:
            result.graph.initializer.remove(tensor)
        for tensor in result.graph.initializer:
            if tensor.name in bare.arrays:
                tensor.raw_data = bare.arrays[tensor.name].tobytes()
        del result.graph.node[:], result.graph.output[:], result.graph.value_info[:]
        result.graph.node.extend(net.nodes)
        clear_equal_names(result.graph.node)
        result.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in net.constants.items())
        fed = {**{name: value.shape for name, value in self._weights.items()}, **dict.fromkeys(net.factors, ())}
        kept = [value for value in result.graph.input if value.name not in fed]
        del result.graph.input[:]
        result.graph.input.extend(kept)
        result.graph.input.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in fed.items())
        result.graph.output.append(helper.make_tensor_value_info(LOSS, TensorProto.FLOAT, ()))
        return result

    def _add_loss(self) -> None:
        net = self._net
        outputs = [t.name for t in self._analysis.graph.outputs if t.name in self._walk.ids]
        sums = []
        for name in outputs:
            scaled = net.rescaled(name, [name], outputs, f"{LOSS}/{name}/scaled")
            sums.append(net.emit("ReduceSum", [scaled], f"{LOSS}/{name}", keepdims=0))
        net.emit("Sum", sums, LOSS)

    def elements(self, keep: NDArray[np.bool_]) -> Arrays:
        """Return the score of each element of each weight, |w| times the derivative, as a share of the flow, when only the units
        that keep [units] holds are left."""
        known = np.append(keep, True)
        weights = {name: self._masked(name, known) for name in self._weights}
        sizes = self._analysis.sizes
        types = {value.name: np.float32 if "float" in value.type else np.int64 for value in self._session.get_inputs()}
        data = {name: np.ones(shape, types[name]) for name, shape in sizes.items() if name in types}
        loss, *gradients = self._session.run([LOSS, *self._gradients], {**data, **weights, **self._factors(keep)})
        total = float(loss) or 1.0
        return {name: weights[name] * g / np.float32(total) for name, g in zip(self._weights, gradients, strict=True)}

    def _masked(self, name: str, known: NDArray[np.bool_]) -> NDArray[np.float32]:
        result = np.asarray(self._weights[name], np.float32)
        for units in self._units[name]:
            result = result * known[units]
        return result

    def _factors(self, keep: NDArray[np.bool_]) -> Arrays:
        """Return the factors between scales, powers of two next to the levels of the channel network."""
        levels = self._channels.levels(keep)
        exponent = {name: self._level(levels[ids]) for name, ids in self._walk.ids.items()}
        factors = {}
        for factor, (sources, goals) in self._net.factors.items():
            power = np.mean([exponent[name] for name in sources]) - max(exponent[name] for name in goals)
            factors[factor] = np.asarray(2.0**power if power > -RANGE else 0, np.float32)
        return factors

    def _level(self, levels: Floats) -> int:
        largest = float(levels.max(initial=-np.inf))
        return round(largest) if np.isfinite(largest) else 0
