"""Normalizations and reductions: operators that compute over axes, some of which may carry channels."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from onnx_reconvene.flow import UnsupportedError
from onnx_reconvene.op import Op
from onnx_reconvene.operators.rule import Operator


def batch_norm(op: Op) -> None:
    """f(x[n,c,...], scale[c], bias[c], mean[c], variance[c]) -> y[n,c,...]"""
    (x,) = op.along(0, 1)
    for i in op.inputs()[1:]:
        op.equate(x, op.along(i, 0)[0])
    op.emit({1: x})
    for o in op.outputs()[1:]:  # running statistics
        op.emit({0: x}, o)


def instance_norm(op: Op) -> None:
    """f(x[n,c,...], scale[c], bias[c]) with statistics over all but n and c -> y[n,c,...]"""
    if op.blocks(0) is not None:  # the groups of a group norm, c of them
        op.inexact(op.pass_blocks(0))
        for i in op.inputs()[1:]:
            op.freeze(op.along(i, 0)[0], "normalizes each group by one of them")
        return
    n, c, *rest = op.axes(0)
    for i in op.inputs()[1:]:
        op.equate(c, op.along(i, 0)[0])
    for labels in rest:
        op.inexact(labels)
    op.emit(dict(enumerate([n, c, *rest])))


def group_norm(op: Op) -> None:
    """f(x[n,c,...], scale, bias) with statistics over blocks of c -> y[n,c,...]"""
    (x,) = op.along(0, 1)
    groups = int(op.attr("num_groups"))
    if groups == x.size:
        raise UnsupportedError("every channel is a group of its own")
    op.balance(x.reshape(groups, -1))
    op.inexact(x)
    for i in op.inputs()[1:]:
        if op.shape(i)[0] == x.size:  # one per channel since opset 21, one per group before
            op.equate(x, op.along(i, 0)[0])
        else:
            op.along(i)
    op.emit({1: x})


def layer_norm(op: Op) -> None:
    """f(x[..., normalized], scale[normalized], bias[normalized]) -> y[..., normalized]"""
    first = op.attr("axis", -1) % len(op.shape(0))
    normalize(op, range(first, len(op.shape(0))), op.inputs()[1:])


def normalize(op: Op, axes: Iterable[int], parameters: Iterable[int] = ()) -> None:
    """Pass the labels of input 0 to output 0, statistics being over axes; parameters broadcast against it from the right."""
    labels = op.axes(0)
    for axis in axes:
        op.inexact(labels[axis])
    for i in parameters:
        for back, along in enumerate(reversed(op.axes(i)), 1):
            if along.size > 1:
                op.equate(labels[-back], along)
    op.emit(dict(enumerate(labels)))


def local_response(op: Op) -> None:
    """x[n,c,...] / (squares of its neighbours along c) -> y[n,c,...]"""
    normalize(op, [1])


def mean_variance(op: Op) -> None:
    """x[...] less its mean, over its deviation along axes -> y[...]"""
    normalize(op, op.attr("axes", [0, 2, 3]))


def lp_norm(op: Op) -> None:
    """x[...] over its norm along one axis -> y[...]"""
    normalize(op, [op.attr("axis", -1)])


def softmax(op: Op) -> None:
    """f(x[...]) along one axis (all axes from there on below opset 13) -> y[...]"""
    rank = len(op.shape(0))
    axis = op.attr("axis", -1 if op.opset >= 13 else 1) % rank
    mixed = [axis] if op.opset >= 13 else range(axis, rank)
    rest = [a for a in range(rank) if a not in mixed]
    op.emit(dict(zip(rest, op.along(0, *rest), strict=True)))


def reduction(op: Op) -> None:
    """f(x[..., reduced, ...]) -> y[...] without the reduced axes, or with size 1 in their place"""
    rank = len(op.shape(0))
    given = op.ints(1) if op.has(1) else op.attr("axes")
    if given is None or np.size(given) == 0:
        reduced = [] if op.attr("noop_with_empty_axes", 0) else list(range(rank))
    else:
        reduced = [int(a) % rank for a in np.asarray(given).ravel()]
    labels = op.axes(0)
    for axis in reduced:
        op.inexact(labels[axis])
        op.flow.reduced.append(labels[axis])
    rest = [a for a in range(rank) if a not in reduced]
    places = rest if op.attr("keepdims", 1) else range(len(rest))
    op.emit({place: labels[axis] for place, axis in zip(places, rest, strict=True)})


def arg_reduction(op: Op) -> None:
    """the position of the largest or smallest of x[...] along one axis; positions among channels must stay what they are"""
    rank = len(op.shape(0))
    axis = op.attr("axis", 0) % rank
    rest = [a for a in range(rank) if a != axis]
    labels = op.along(0, *rest)
    op.emit(dict(zip(rest if op.attr("keepdims", 1) else range(len(rest)), labels, strict=True)))


REDUCTIONS = [
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
]

OPERATORS = {
    "ArgMax": Operator(arg_reduction),
    "ArgMin": Operator(arg_reduction),
    "BatchNormalization": Operator(batch_norm),
    "GroupNormalization": Operator(group_norm),
    "Hardmax": Operator(softmax),
    "InstanceNormalization": Operator(instance_norm),
    "LRN": Operator(local_response),
    "LayerNormalization": Operator(layer_norm),
    "LogSoftmax": Operator(softmax),
    "LpNormalization": Operator(lp_norm),
    "MeanVarianceNormalization": Operator(mean_variance),
    "RMSNormalization": Operator(layer_norm),
    "SimplifiedLayerNormalization": Operator(layer_norm),
    "Softmax": Operator(softmax),
    **dict.fromkeys(REDUCTIONS, Operator(reduction)),
}
