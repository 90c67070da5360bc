"""Operators that know which axis the channels are on: normalization, pooling, resampling, reductions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnx_reconvene.flow import Op
from onnx_reconvene.operators.rule import Operator

if TYPE_CHECKING:
    from onnx_reconvene.cut import CutOp


def per_channel(op: Op) -> None:
    """f(x[n,c,...], scale[c], bias[c], ...) -> y[n,c,...]"""
    (x,) = op.along(0, 1)
    for i in op.inputs()[1:]:
        op.equate(x, op.along(i, 0)[0])
    op.emit({1: x})
    for o in op.outputs()[1:]:  # the running statistics of old opsets
        op.emit({0: x}, o)


def pooling(op: Op) -> None:
    """f(x[n,c,spatial]) -> y[n,c,spatial]"""
    (x,) = op.along(0, 1)
    op.emit({1: x})


def resize(op: Op) -> None:
    """x[n,c,...] -> y[n,c,...], other sizes along axes that carry no channels"""
    same = [axis for axis, (a, b) in enumerate(zip(op.shape(0), op.out_shape(), strict=True)) if a == b]
    labels = op.along(0, *same)
    op.emit(dict(zip(same, labels, strict=True)))


def resize_sizes(cut: CutOp) -> None:
    """`sizes` names the channel count too"""
    sizes = 3 if len(cut.node.inputs) > 3 and cut.node.inputs[3].name else None
    if sizes is not None and not cut.node.attrs.get("axes"):
        cut.replace(sizes, cut.out_shape(0))


def local_response(op: Op) -> None:
    """x[n,c,...] / (squares of its neighbours along c) -> y[n,c,...]"""
    (x,) = op.along(0, 1)
    op.inexact(x, "normalizes over neighbouring channels")
    op.emit({1: x})


def layer_norm(op: Op) -> None:
    """f(x[..., normalized], scale[normalized], bias[normalized]) -> y[..., normalized]"""
    labels = op.axes(0)
    first = op.attr("axis", -1) % len(labels)
    for along in labels[first:]:
        op.inexact(along)
    for i in op.inputs()[1:]:
        for back, along in enumerate(reversed(op.axes(i)), 1):
            if along.size > 1:
                op.equate(labels[-back], along)
    op.emit(dict(enumerate(labels)))


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
        reduced = [] if op.attr("noop_with_empty_axes", 0) and op.has(1) else list(range(rank))
    else:
        reduced = [int(a) % rank for a in np.asarray(given).ravel()]
    rest = [a for a in range(rank) if a not in reduced]
    labels = op.along(0, *rest)
    places = rest if op.attr("keepdims", 1) else range(len(rest))
    op.emit(dict(zip(places, labels, strict=True)))


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
    "AveragePool": Operator(pooling),
    "BatchNormalization": Operator(per_channel),
    "GlobalAveragePool": Operator(pooling),
    "GlobalLpPool": Operator(pooling),
    "GlobalMaxPool": Operator(pooling),
    "InstanceNormalization": Operator(per_channel),
    "LRN": Operator(local_response),
    "LayerNormalization": Operator(layer_norm),
    "LogSoftmax": Operator(softmax),
    "LpPool": Operator(pooling),
    "MaxPool": Operator(pooling),
    "Resize": Operator(resize, resize_sizes),
    "Softmax": Operator(softmax),
    "Upsample": Operator(resize),
    **dict.fromkeys(REDUCTIONS, Operator(reduction)),
}
