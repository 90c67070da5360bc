"""Fused and quantized forms of operators: their rules are those of the plain operators."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from onnx_reconvene.flow import Layer, UnsupportedError
from onnx_reconvene.op import Op
from onnx_reconvene.operators.rule import Operator
from onnx_reconvene.twins import ABSENT, RESULT, TWINS, Quantity, Twin

if TYPE_CHECKING:
    from onnx_reconvene.cutting import CutOp


def forms(operators: Mapping[str, Operator]) -> dict[str, Operator]:
    """Return the entries of all twins of these plain operators."""
    return {name: form(twin, operators[twin.plain]) for name, twin in TWINS.items() if twin.plain in operators}


def form(twin: Twin, plain: Operator) -> Operator:
    """Return the entry of a twin: labels flow and integers follow as for the plain operator."""

    def as_plain(op: Op) -> Op:
        for name in twin.plain_if_not:
            if op.attr(name, 0):
                raise UnsupportedError(f"attribute {name} is not followed")
        count = len(op.node.inputs)
        return op.as_plain(twin.plain, twin.operands(count, op.node.attrs), bool(twin.quantities(count)))

    def flow(op: Op) -> None:
        view, count, layers = as_plain(op), len(op.node.inputs), len(op.flow.layers)
        plain.flow(view)
        if twin.dynamic:
            for along in [*view.axes(0), *(layer.read for layer in op.flow.layers[layers:])]:
                op.inexact(along)
        for quantity in twin.quantities(count):
            _tie_parameters(op, view, quantity, op.flow.layers[layers:])
        for i in twin.added(count):
            _add(op, i)

    def follow(cut: CutOp) -> None:
        assert plain.follow is not None
        plain.follow(cut.as_plain(twin.operands(len(cut.node.inputs), cut.node.attrs)))

    def macs(op: Op) -> None:
        assert plain.macs is not None
        plain.macs(as_plain(op))

    return Operator(flow, plain.follow and follow, macs=plain.macs and macs)


def _tie_parameters(op: Op, view: Op, quantity: Quantity, layers: Sequence[Layer]) -> None:
    """Tie the scale and zero point of an operand to its channels where they are given for each, and enter what it stands for.

    layers: those at this node.
    """
    operand = quantity.operand
    parameters = [i for i in (quantity.scale, quantity.zero) if i != ABSENT and op.has(i) and math.prod(op.shape(i)) > 1]
    tensor = op.node.outputs[0] if operand == RESULT else view.tensor(operand)
    layer = next((layer for layer in layers if layer.tensor is tensor), None)
    axes: list[int] = []
    for i in parameters:
        if layer is None:
            raise UnsupportedError(f"'{op.tensor(i).name}' is not one number and no weight's")
        labels, rank = op.flow.value(tensor).labels, len(op.shape(i))
        along_outputs = [axis for axis, along in labels.items() if along is layer.out and along is not layer.read]
        axes = (
            along_outputs
            if rank == 1 and along_outputs
            else [view.operands.axis(operand, axis, len(view.shape(operand))) for axis in range(rank)]
        )
        for axis, along in zip(axes, op.axes(i), strict=True):
            if along.size > 1:
                op.equate(along, labels[axis])
    if operand != RESULT:
        op.quantized(view.operands.inputs[operand], quantity.scale, quantity.zero, axes)


def _add(op: Op, i: int) -> None:
    """Tie the channels of input i, which is added to the result, to those of the result."""
    if op.has(i):
        for along, result in zip(reversed(op.axes(i)), reversed(op.axes_of(op.node.outputs[0])), strict=False):
            if along.size > 1:
                op.equate(along, result)
