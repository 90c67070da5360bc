"""How each operator maps channels to channels: the table of rules.

Choices where SynFlow says nothing:

- a product of activations (a gate, attention) is their geometric mean, which conserves the flow: half through each operand. What
  is written x * sigmoid(x) is the identity then, as any activation is. Matrices are averaged over what they are summed over;
- a normalization has its scale, and statistics of one: LayerNormalization |gamma|; BatchNormalization, whose statistics are
  stored, |gamma| / sqrt(var + epsilon); dividing by an activation does nothing;
- softmax is an activation; differences, maxima and minima are sums;
- a layer reads the mean along all axes but the one it sums over;
- a recurrent layer adds up its gates, and makes one step: W x + R W x;
- a constant factor that cannot be evaluated, as a mask, counts as one;
- an operator without a rule spreads the mean of all it reads evenly. Its node is listed in `ChannelNetwork.averaged`.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import onnx_graphsurgeon as gs

from onnx_reconvene.errors import ModelError
from onnx_reconvene.flow import UnsupportedError
from onnx_reconvene.groups import Analysis
from onnx_reconvene.operators import along_axis, channelwise, elementwise, normalization
from onnx_reconvene.operators.movement import reshape_labels
from onnx_reconvene.shapes import as_slice, slice_operands
from onnx_reconvene.synflow.layers import attention, conv, conv_transpose, einsum, embed, gemm, matmul, recurrent
from onnx_reconvene.synflow.network import EMPTY, ChannelNetwork, Ids
from onnx_reconvene.synflow.walk import Rule, Walk


def passed(walk: Walk, node: gs.Node) -> None:
    """f(x) -> x, where f treats channels alike, each by itself"""
    for tensor in node.outputs:
        if tensor.name:
            walk.put(tensor, walk.flows(node)[0])


def aligned(walk: Walk, node: gs.Node, rank: int) -> list[Ids]:
    """Return the states of inputs that are not constant, broadcast together, as arrays of this rank."""
    return [ids.reshape((1,) * (rank - ids.ndim) + ids.shape) for ids in walk.flows(node)]


def add(walk: Walk, node: gs.Node) -> None:
    """a + b -> the sum of levels; what is constant is a bias"""
    (out,) = node.outputs
    terms = aligned(walk, node, len(walk.shape(out)))
    if node.op == "Where" and node.inputs[0].name in walk.ids:
        terms = terms[1:] or terms
    share = 1 / len(terms) if node.op == "Mean" else 1.0
    walk.put(out, walk.sum(terms, share) if len(terms) > 1 else terms[0])


def multiply(walk: Walk, node: gs.Node) -> None:
    """a * b -> the geometric mean of levels; what is constant is a scale"""
    (out,) = node.outputs
    factors = aligned(walk, node, len(walk.shape(out)))
    ids = walk.product(factors) if len(factors) > 1 else factors[0]
    for tensor in [t for t in node.inputs if t.name not in walk.ids]:
        ids = walk.scaled(ids, walk.magnitude(tensor), out)
    walk.put(out, ids)


def quantized_product(walk: Walk, node: gs.Node) -> None:
    """a * b, each with a scale and zero point"""
    factors = aligned(walk, node, len(walk.shape(node.outputs[0])))
    walk.put(node.outputs[0], walk.product(factors) if len(factors) > 1 else factors[0])


def skip_norm(walk: Walk, node: gs.Node) -> None:
    """(x + skip) * |scale|, ..., the sum itself"""
    total = walk.sum(aligned(walk, node, len(walk.shape(node.outputs[0]))))
    walk.put(node.outputs[0], walk.scaled(total, walk.magnitude(node.inputs[2]), node.outputs[0]))
    for tensor in node.outputs[1:]:
        if tensor.name and len(walk.shape(tensor)) == total.ndim:
            walk.put(tensor, total)


def decided(walk: Walk, node: gs.Node) -> None:
    """truth values and positions carry no flow: what they make counts as constant"""


def divide(walk: Walk, node: gs.Node) -> None:
    """a / b -> a over the magnitude of a constant b; a where b is an activation, b where a is constant"""
    (out,) = node.outputs
    ids = aligned(walk, node, len(walk.shape(out)))[0]
    if node.inputs[1].name not in walk.ids:
        magnitude = walk.magnitude(node.inputs[1])
        ids = walk.scaled(ids, np.divide(1, magnitude, out=np.zeros_like(magnitude), where=magnitude > 0), out)
    walk.put(out, ids)


def batch_norm(walk: Walk, node: gs.Node) -> None:
    """x[n,c,...] * |scale[c]| / sqrt(variance[c] + epsilon)"""
    scale, variance = (np.asarray(walk.value(node.inputs[i]), np.float64) for i in (1, 4))
    factor = scale / np.sqrt(variance + node.attrs.get("epsilon", 1e-5))
    out = node.outputs[0]
    walk.put(out, walk.scaled(walk.ids[node.inputs[0].name], factor.reshape(-1, *[1] * (len(walk.shape(out)) - 2)), out))


def channel_norm(walk: Walk, node: gs.Node) -> None:
    """x[n,c,...] * |scale[c]|, or a scale for each block of c"""
    out = node.outputs[0]
    scale = np.abs(walk.value(node.inputs[1]))
    scale = np.repeat(scale, walk.shape(out)[1] // scale.size)
    walk.put(out, walk.scaled(walk.ids[node.inputs[0].name], scale.reshape(-1, *[1] * (len(walk.shape(out)) - 2)), out))


def layer_norm(walk: Walk, node: gs.Node) -> None:
    """x[..., normalized] * |scale[normalized]|"""
    out = node.outputs[0]
    ids = walk.ids[node.inputs[0].name]
    if len(node.inputs) > 1 and node.inputs[1].name not in walk.ids:
        ids = walk.scaled(ids, walk.magnitude(node.inputs[1]), out)
    walk.put(out, ids)


def reshape(walk: Walk, node: gs.Node) -> None:
    """the same elements in the same order, in another shape"""
    (out,) = node.outputs
    walk.put(out, reshape_labels(walk.shape(node.inputs[0]), walk.shape(out), walk.ids[node.inputs[0].name]))


def transpose(walk: Walk, node: gs.Node) -> None:
    """y[permuted axes]"""
    walk.put(node.outputs[0], np.transpose(walk.ids[node.inputs[0].name], node.attrs.get("perm")))


def whole(ids: Ids, axis: int, size: int) -> Ids:
    """Return ids as long as the tensor along an axis."""
    return np.broadcast_to(ids, (*ids.shape[:axis], size, *ids.shape[axis + 1 :]))


def concat(walk: Walk, node: gs.Node) -> None:
    """x1[..., c1, ...], x2[..., c2, ...] -> y[..., c1 + c2, ...]; what is constant is a bias"""
    (out,) = node.outputs
    rank = len(walk.shape(out))
    axis = node.attrs["axis"] % rank
    parts = [whole(walk.ids.get(t.name, np.full([1] * rank, EMPTY)), axis, walk.shape(t)[axis]) for t in node.inputs]
    others = np.broadcast_shapes(*((*p.shape[:axis], 1, *p.shape[axis + 1 :]) for p in parts))
    spread = [np.broadcast_to(p, (*others[:axis], p.shape[axis], *others[axis + 1 :])) for p in parts]
    walk.put(out, np.concatenate(spread, axis))


def split(walk: Walk, node: gs.Node) -> None:
    """x[..., c1 + c2, ...] -> y1[..., c1, ...], y2[..., c2, ...]"""
    ids = walk.ids[node.inputs[0].name]
    axis = node.attrs.get("axis", 0) % ids.ndim
    sizes = [walk.shape(t)[axis] for t in node.outputs]
    for tensor, end, size in zip(node.outputs, np.cumsum(sizes).tolist(), sizes, strict=True):
        if tensor.name:
            walk.put(tensor, ids.take(range(end - size, end), axis) if ids.shape[axis] > 1 else ids)


def slice_(walk: Walk, node: gs.Node) -> None:
    """x[starts:ends:steps along axes]"""
    ids = walk.ids[node.inputs[0].name]
    operands = [walk.value(t) if t.name else None for t in node.inputs[1:]]
    for start, end, axis, step in zip(*slice_operands(node.attrs, ids.ndim, operands), strict=True):
        if ids.shape[axis] > 1:
            ids = ids[(slice(None),) * axis + (as_slice(start, end, step, ids.shape[axis]),)]
    walk.put(node.outputs[0], ids)


def gather(walk: Walk, node: gs.Node) -> None:
    """x[..., indices, ...]; rows of a constant table are a layer of embeddings"""
    data, index = node.inputs
    axis = node.attrs.get("axis", 0) % len(walk.shape(data))
    rank = len(walk.shape(index))
    if data.name not in walk.ids:
        embed(walk, node, axis)
        return
    ids = walk.ids[data.name]
    known = walk.analysis.integers.get(index)
    if known is None or ids.shape[axis] == 1:
        ids = walk.mean(ids, [axis])
        known = np.zeros([1] * rank, np.int64)
    walk.put(node.outputs[0], np.take(ids, known, axis))


def pad(walk: Walk, node: gs.Node) -> None:
    """x[...] with zeros before and after, where these are channels"""
    (out,) = node.outputs
    ids, shape = walk.ids[node.inputs[0].name], walk.shape(node.inputs[0])
    pads = np.asarray(node.attrs["pads"] if "pads" in node.attrs else walk.value(node.inputs[1])).reshape(2, -1)
    axes = walk.value(node.inputs[3]).tolist() if len(node.inputs) > 3 and node.inputs[3].name else range(ids.ndim)
    for k, axis in enumerate(axes):
        if ids.shape[axis] > 1 and pads[:, k].any():
            widths = [tuple(pads[:, k]) if a == axis % ids.ndim else (0, 0) for a in range(ids.ndim)]
            ids = np.pad(ids, widths, constant_values=EMPTY)
        elif shape[axis] == 1 and pads[:, k].any():
            raise UnsupportedError("it pads what has no channels")
    walk.put(out, ids)


def expand(walk: Walk, node: gs.Node) -> None:
    """x[..., 1, ...] -> y[..., n, ...]"""
    (out,) = node.outputs
    walk.put(out, aligned(walk, node, len(walk.shape(out)))[0])


def tile(walk: Walk, node: gs.Node) -> None:
    """x repeated along axes"""
    ids, repeats = walk.ids[node.inputs[0].name], walk.value(node.inputs[1]).tolist()
    walk.put(node.outputs[0], np.tile(ids, [n if size > 1 else 1 for n, size in zip(repeats, ids.shape, strict=True)]))


def depth_to_space(walk: Walk, node: gs.Node) -> None:
    """x[n, b*b*c, h, w] -> y[n, c, h*b, w*b]: the mean of b*b channels"""
    block = int(node.attrs["blocksize"]) ** 2
    ids = walk.vector(walk.ids[node.inputs[0].name], 1, walk.shape(node.inputs[0])[1])
    deep = node.attrs.get("mode", "DCR") == "DCR"
    parts = ids.reshape(block, -1) if deep else ids.reshape(-1, block).T
    walk.put(node.outputs[0], walk.mean(parts, [0]).reshape(1, -1, 1, 1))


def space_to_depth(walk: Walk, node: gs.Node) -> None:
    """x[n, c, h*b, w*b] -> y[n, b*b*c, h, w]"""
    ids = walk.vector(walk.ids[node.inputs[0].name], 1, walk.shape(node.inputs[0])[1])
    walk.put(node.outputs[0], np.tile(ids, int(node.attrs["blocksize"]) ** 2).reshape(1, -1, 1, 1))


def reduction(walk: Walk, node: gs.Node) -> None:
    """x[..., reduced, ...] -> the mean over reduced axes"""
    ids, (out,) = walk.ids[node.inputs[0].name], node.outputs
    given = walk.value(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1].name else node.attrs.get("axes")
    reduced = range(ids.ndim) if given is None or not np.size(given) else [int(a) % ids.ndim for a in np.ravel(given)]
    if node.attrs.get("noop_with_empty_axes", 0) and (given is None or not np.size(given)):
        reduced = []
    ids = walk.mean(ids, reduced)
    count = math.prod(walk.shape(node.inputs[0])[axis] for axis in reduced)
    ids = ids if node.attrs.get("keepdims", 1) else ids.reshape([n for axis, n in enumerate(ids.shape) if axis not in set(reduced)])
    walk.put(out, walk.scaled(ids, np.asarray(count), out) if node.op in ("ReduceSum", "ReduceL1") else ids)


PASSED = [*elementwise.UNARY, *channelwise.OPERATORS, *along_axis.OPERATORS, "BiasGelu", "CastLike", "DequantizeLinear"]
PASSED += ["DynamicQuantizeLinear", "FastGelu", "Identity", "LRN", "LpNormalization", "MeanVarianceNormalization", "PRelu", "Pow"]
PASSED += [
    "Hardmax",
    "LogSoftmax",
    "QLinearLeakyRelu",
    "QLinearSigmoid",
    "QuantizeLinear",
    "QuickGelu",
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
    **dict.fromkeys(["Add", "Max", "Mean", "Min", "QLinearAdd", "Sub", "Sum", "Where"], add),
    **dict.fromkeys(["Flatten", "Reshape", "Squeeze", "Unsqueeze"], reshape),
    **dict.fromkeys(["Conv", "DeformConv", "FusedConv"], conv),
    **dict.fromkeys(["GRU", "LSTM", "RNN"], recurrent),
    **dict.fromkeys(["Gemm", "FusedGemm"], gemm),
    **dict.fromkeys(["GroupNormalization", "InstanceNormalization"], channel_norm),
    **dict.fromkeys(["LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"], layer_norm),
    **dict.fromkeys(normalization.REDUCTIONS, reduction),
    **dict.fromkeys(DECIDED, decided),
    **dict.fromkeys(["Attention", "MultiHeadAttention"], attention),
    **dict.fromkeys(["FusedMatMul", "MatMul"], matmul),
    **dict.fromkeys(["Mul", "SwiGLU"], multiply),
    **dict.fromkeys(["SkipLayerNormalization", "SkipSimplifiedLayerNormalization"], skip_norm),
    "BatchNormalization": batch_norm,
    "Concat": concat,
    "ConvInteger": functools.partial(conv, zero=3),
    "ConvTranspose": conv_transpose,
    "DepthToSpace": depth_to_space,
    "Div": divide,
    "Einsum": einsum,
    "Expand": expand,
    "Gather": gather,
    "MatMulInteger": functools.partial(matmul, zero=3),
    "Pad": pad,
    "QLinearConv": functools.partial(conv, weight=3, scale=4, zero=5),
    "QLinearMatMul": functools.partial(matmul, b=3, scale=4, zero=5),
    "QLinearMul": quantized_product,
    "Slice": slice_,
    "SpaceToDepth": space_to_depth,
    "Split": split,
    "Tile": tile,
    "Transpose": transpose,
}


def channel_network(analysis: Analysis) -> ChannelNetwork:
    """Return the network that an analysis speaks of, reduced to its channels.

    Raises ModelError where units lie in layers that cannot be followed, or a weight cannot be evaluated.
    """
    return walked(analysis)[1]


def walked(analysis: Analysis) -> tuple[Walk, ChannelNetwork]:
    """Return what `channel_network` does, and the walk that knows the states of each tensor."""
    walk = Walk(analysis)
    network = walk.run(RULES)
    reached = np.zeros(analysis.width + 1, bool)
    for layer in network.layers:
        reached[layer.made_units] = reached[layer.read_units] = True
    for group in analysis.groups:
        if not reached[group.units].all():
            raise ModelError(f"node '{group.layers[0]}': synflow has no rule for a layer like this; choose another criterion")
    return walk, network
