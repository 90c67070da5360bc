"""Spatial operators: channels are on axis 1 and pass, each by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx_reconvene.op import Op
from onnx_reconvene.operators.rule import Operator

if TYPE_CHECKING:
    from onnx_reconvene.cutting import CutOp


def spatial(op: Op) -> None:
    """f(x[n,c,...], what else there is, which knows no channels) -> y[n,c,...]"""
    (x,) = op.along(0, 1)
    op.emit({1: x})


def resize(op: Op) -> None:
    """x[n,c,...] -> y[n,c,...], other sizes along axes that carry no channels"""
    op.ints(3)
    same = [axis for axis, (a, b) in enumerate(zip(op.shape(0), op.out_shape(), strict=True)) if a == b]
    labels = op.along(0, *same)
    op.emit(dict(zip(same, labels, strict=True)))


def resize_sizes(cut: CutOp) -> None:
    """`sizes` names the channel count too"""
    if len(cut.node.inputs) > 3 and cut.node.inputs[3].name:
        sizes = cut.out_shape(0)
        cut.replace(3, [sizes[axis] for axis in cut.node.attrs.get("axes", range(len(sizes)))])


OPERATORS = {
    "AveragePool": Operator(spatial),
    "GlobalAveragePool": Operator(spatial),
    "GlobalLpPool": Operator(spatial),
    "GlobalMaxPool": Operator(spatial),
    "GridSample": Operator(spatial),
    "LpPool": Operator(spatial),
    "MaxPool": Operator(spatial),
    "MaxRoiPool": Operator(spatial),
    "Resize": Operator(resize, resize_sizes),
    "RoiAlign": Operator(spatial),
    "Upsample": Operator(resize),
}
