"""How each operator maps channels to channels: the table of rules.

Choices where SynFlow says nothing:

- a product of activations (a gate, attention) is their geometric mean, which conserves the flow: half through each operand. What
  is written x * sigmoid(x) is the identity then, as any activation is. Matrices are averaged over what they are summed over;
- a normalization has its scale, and statistics of one: LayerNormalization |gamma|; BatchNormalization, whose statistics are
  stored, |gamma| / sqrt(var + epsilon); dividing by an activation does nothing;
- softmax is an activation; differences, maxima and minima are sums;
- a layer reads the mean along all axes with channels but the one it sums over;
- a map is resized to the nearest positions; where positions are picked by data, or sorted, or where attention and recurrence mix
  them, it is averaged;
- a recurrent layer adds up its gates, and makes one step: W x + R W x;
- a constant factor that cannot be evaluated, as a mask, counts as one;
- an operator without a rule spreads the mean of all it reads evenly. Its node is listed in `ChannelNetwork.averaged`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_reconvene.groups import Analysis, Group
from onnx_reconvene.operators import along_axis, elementwise, normalization
from onnx_reconvene.synflow.layers import attention, conv, conv_transpose, einsum, gemm, matmul, recurrent, windowed
from onnx_reconvene.synflow.movement import (
    concat,
    depth_to_space,
    gather,
    pad,
    reshape,
    resize,
    slice_,
    space_to_depth,
    split,
    tile,
    transpose,
)
from onnx_reconvene.synflow.network import ChannelNetwork
from onnx_reconvene.synflow.steps import Ids, Window
from onnx_reconvene.synflow.walk import Rule, Walk


def passed(walk: Walk, node: gs.Node) -> None:
    """f(x) -> x, where f treats channels alike, each by itself"""
    name = next(t.name for t in node.inputs if t.name in walk.ids)
    for tensor in node.outputs:
        if tensor.name:
            walk.put(tensor, walk.ids[name], walk.places[name])


def spread(walk: Walk, node: gs.Node) -> None:
    """f(x) -> the mean of x over its map, where f treats channels alike, but not positions"""
    for tensor in node.outputs:
        if tensor.name:
            walk.put(tensor, walk.flows(node)[0])


def aligned(walk: Walk, node: gs.Node) -> tuple[list[Ids], Ids]:
    """Return the states of inputs that are not constant, and their places, as arrays that are broadcastable to the output."""
    rank = len(walk.shape(node.outputs[0]))
    names = [t.name for t in node.inputs if t.name in walk.ids]
    if node.op == "Where" and len(names) > 1 and names[0] == node.inputs[0].name:
        names = names[1:]
    arrays = [(walk.ids[name], walk.places[name]) for name in names]
    return walk.together(
        [(i.reshape((1,) * (rank - i.ndim) + i.shape), p.reshape((1,) * (rank - p.ndim) + p.shape)) for i, p in arrays]
    )


def expand(walk: Walk, node: gs.Node) -> None:
    """x[..., 1, ...] -> y[..., n, ...]"""
    (ids, *_), places = aligned(walk, node)
    walk.put(node.outputs[0], ids, places)


def add(walk: Walk, node: gs.Node) -> None:
    """a + b -> the sum of levels; what is constant is a bias"""
    terms, places = aligned(walk, node)
    share = 1 / len(terms) if node.op == "Mean" else 1.0
    walk.put(node.outputs[0], walk.sum(terms, share) if len(terms) > 1 else terms[0], places)


def multiply(walk: Walk, node: gs.Node) -> None:
    """a * b -> the geometric mean of levels; what is constant is a scale"""
    (out,) = node.outputs
    factors, places = aligned(walk, node)
    ids = walk.product(factors) if len(factors) > 1 else factors[0]
    for tensor in [t for t in node.inputs if t.name not in walk.ids]:
        ids = walk.scaled(ids, walk.magnitude(tensor), out)
    walk.put(out, ids, places)


def skip_norm(walk: Walk, node: gs.Node) -> None:
    """(x + skip) * |scale|, ..., the sum itself"""
    terms, places = aligned(walk, node)
    total = walk.sum(terms)
    walk.put(node.outputs[0], walk.scaled(total, walk.magnitude(node.inputs[2]), node.outputs[0]), places)
    for tensor in node.outputs[1:]:
        if tensor.name and len(walk.shape(tensor)) == total.ndim:
            walk.put(tensor, total, places)


def decided(walk: Walk, node: gs.Node) -> None:
    """truth values and positions carry no flow: what they make counts as constant"""


def divide(walk: Walk, node: gs.Node) -> None:
    """a / b -> a over the magnitude of a constant b; a where b is an activation, b where a is constant"""
    (out,) = node.outputs
    (ids, *_), places = aligned(walk, node)
    if node.inputs[1].name not in walk.ids:
        magnitude = walk.magnitude(node.inputs[1])
        ids = walk.scaled(ids, np.divide(1, magnitude, out=np.zeros_like(magnitude), where=magnitude > 0), out)
    walk.put(out, ids, places)


def batch_norm(walk: Walk, node: gs.Node) -> None:
    """x[n,c,...] * |scale[c]| / sqrt(variance[c] + epsilon)"""
    scale, variance = (np.asarray(walk.value(node.inputs[i]), np.float64) for i in (1, 4))
    factor = scale / np.sqrt(variance + node.attrs.get("epsilon", 1e-5))
    scale_channels(walk, node, factor)


def channel_norm(walk: Walk, node: gs.Node) -> None:
    """x[n,c,...] * |scale[c]|, or a scale for each block of c"""
    scale = np.abs(walk.value(node.inputs[1]))
    scale_channels(walk, node, np.repeat(scale, walk.shape(node.outputs[0])[1] // scale.size))


def scale_channels(walk: Walk, node: gs.Node, factor: NDArray[Any]) -> None:
    """Give the output of a node its input times a factor for each channel."""
    out, name = node.outputs[0], node.inputs[0].name
    walk.put(out, walk.scaled(walk.ids[name], factor.reshape(-1, *[1] * (len(walk.shape(out)) - 2)), out), walk.places[name])


def layer_norm(walk: Walk, node: gs.Node) -> None:
    """x[..., normalized] * |scale[normalized]|"""
    out = node.outputs[0]
    ids = walk.ids[node.inputs[0].name]
    if len(node.inputs) > 1 and node.inputs[1].name not in walk.ids:
        ids = walk.scaled(ids, walk.magnitude(node.inputs[1]), out)
    walk.put(out, ids, walk.places[node.inputs[0].name])


def pooled(walk: Walk, node: gs.Node) -> None:
    """the maximum or mean of x[n,c,...] over a window"""
    kernel = node.attrs["kernel_shape"]
    ids, window = windowed(walk, node, 0, kernel)
    inside = (window.index < window.size).sum(0).astype(np.float64)
    counted = np.full(inside.shape, float(len(window.index))) if node.attrs.get("count_include_pad", 0) else np.maximum(inside, 1)
    made = walk.pool(walk.vector(ids, 1, walk.shape(node.inputs[0])[1]), window, None if node.op == "MaxPool" else counted)
    for tensor in node.outputs:
        if tensor.name:
            far = walk.shape(tensor)[2:]
            walk.put(tensor, made.reshape(1, -1, *[1] * len(far)), walk.grid(made, (1, 1, *far)))


def over(walk: Walk, ids: Ids, places: Ids, axes: Iterable[int], largest: bool) -> tuple[Ids, Ids]:
    """Return states and places of the means, or maxima, over axes, which keep size 1."""
    axes = [axis for axis in axes if places.shape[axis] > 1]
    if axes and any(ids.shape[axis] > 1 for axis in range(ids.ndim) if places.shape[axis] > 1):
        return walk.even(ids, places), np.zeros([1] * ids.ndim, np.int64)
    if not axes:
        return ids, places
    others = [axis for axis in range(ids.ndim) if axis not in axes]
    count = math.prod(places.shape[axis] for axis in axes)
    index = places.transpose(*axes, *others).reshape(count, -1)
    ids = walk.pool(ids, Window(index, walk.size(ids)), None if largest else np.full(index.shape[1], float(count)))
    return ids, walk.grid(ids, [1 if axis in axes else n for axis, n in enumerate(places.shape)])


def pooled_whole(walk: Walk, node: gs.Node) -> None:
    """the maximum or mean of x[n,c,...] over all positions"""
    name = node.inputs[0].name
    ids = walk.ids[name]
    walk.put(node.outputs[0], *over(walk, ids, walk.places[name], range(2, ids.ndim), node.op == "GlobalMaxPool"))


def reduction(walk: Walk, node: gs.Node) -> None:
    """x[..., reduced, ...] -> the mean over reduced axes"""
    name, (out,) = node.inputs[0].name, node.outputs
    ids, places = walk.ids[name], walk.places[name]
    given = walk.value(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1].name else node.attrs.get("axes")
    reduced = range(ids.ndim) if given is None or not np.size(given) else [int(a) % ids.ndim for a in np.ravel(given)]
    if node.attrs.get("noop_with_empty_axes", 0) and (given is None or not np.size(given)):
        reduced = []
    ids, places = over(walk, ids, places, reduced, node.op == "ReduceMax")
    ids = walk.mean(ids, reduced)
    count = math.prod(walk.shape(node.inputs[0])[axis] for axis in reduced)
    if not node.attrs.get("keepdims", 1):
        ids, places = (x.reshape([n for axis, n in enumerate(x.shape) if axis not in set(reduced)]) for x in (ids, places))
    walk.put(out, walk.scaled(ids, np.asarray(count), out) if node.op in ("ReduceSum", "ReduceL1") else ids, places)


PASSED = [*elementwise.UNARY, "CastLike", "DequantizeLinear"]
PASSED += ["DynamicQuantizeLinear", "Identity", "LRN", "LpNormalization", "MeanVarianceNormalization", "PRelu", "Pow"]
PASSED += [
    "Hardmax",
    "LogSoftmax",
    "QuantizeLinear",
    "RotaryEmbedding",
    "Softmax",
]
DECIDED = [
    "And",
    "ArgMax",
    "ArgMin",
    "Equal",
    "Greater",
    "GreaterOrEqual",
    "IsInf",
    "IsNaN",
    "Less",
    "LessOrEqual",
    "Not",
    "Or",
    "Xor",
]

RULES: dict[str, Rule] = {
    **dict.fromkeys(PASSED, passed),
    **dict.fromkeys([*along_axis.OPERATORS, "GridSample", "MaxRoiPool", "RoiAlign"], spread),
    **dict.fromkeys(["AveragePool", "LpPool", "MaxPool"], pooled),
    **dict.fromkeys(["GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool"], pooled_whole),
    **dict.fromkeys(["Resize", "Upsample"], resize),
    **dict.fromkeys(["Add", "Max", "Mean", "Min", "Sub", "Sum", "Where"], add),
    **dict.fromkeys(["Flatten", "Reshape", "Squeeze", "Unsqueeze"], reshape),
    **dict.fromkeys(["Conv", "DeformConv"], conv),
    **dict.fromkeys(["GRU", "LSTM", "RNN"], recurrent),
    **dict.fromkeys(["GroupNormalization", "InstanceNormalization"], channel_norm),
    **dict.fromkeys(["LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"], layer_norm),
    **dict.fromkeys(normalization.REDUCTIONS, reduction),
    **dict.fromkeys(DECIDED, decided),
    **dict.fromkeys(["Attention", "GroupQueryAttention", "MultiHeadAttention"], attention),
    **dict.fromkeys(["Mul", "SwiGLU"], multiply),
    **dict.fromkeys(["SkipLayerNormalization", "SkipSimplifiedLayerNormalization"], skip_norm),
    "BatchNormalization": batch_norm,
    "Concat": concat,
    "ConvTranspose": conv_transpose,
    "DepthToSpace": depth_to_space,
    "Div": divide,
    "Einsum": einsum,
    "Expand": expand,
    "Gather": gather,
    "Gemm": gemm,
    "MatMul": matmul,
    "Pad": pad,
    "Slice": slice_,
    "SpaceToDepth": space_to_depth,
    "Split": split,
    "Tile": tile,
    "Transpose": transpose,
}


ROUNDS = 4  # until profiles that depend on each other's weights no longer change to speak of


def channel_network(analysis: Analysis) -> ChannelNetwork:
    """Return the network that an analysis speaks of, reduced to its channels."""
    return walked(analysis)[1]


def walked(analysis: Analysis) -> tuple[Walk, ChannelNetwork]:
    """Return what `channel_network` does, and the walk that knows the states of each tensor."""
    walk = Walk(analysis)
    network = walk.run(RULES)
    for _ in range(ROUNDS):
        network.settle(np.ones(analysis.width, bool))
    return walk, network


def unreached(analysis: Analysis, network: ChannelNetwork) -> list[Group]:
    """Return the groups with units in layers that could not be followed, or that read nothing that flows from the inputs."""
    reached = np.zeros(analysis.width + 1, bool)
    for layer in network.layers:
        reached[layer.made_units] = reached[layer.read_units] = True
    return [group for group in analysis.groups if not reached[group.units].all()]
