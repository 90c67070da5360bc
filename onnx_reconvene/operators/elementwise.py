"""Operators that treat each element alone: labels broadcast together, and where two meet they are equal."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnx_reconvene.labels import Labels, all_frozen
from onnx_reconvene.op import Op
from onnx_reconvene.operators.rule import Operator


def unary(op: Op) -> None:
    """f(x[...]) -> y[...]; optional further inputs are scalars"""
    op.emit(dict(enumerate(op.axes(0))))


def identity(op: Op) -> None:
    """x[...] -> x[...]"""
    op.move(lambda x: x)


def cast_like(op: Op) -> None:
    """x[...] in the type of another tensor -> y[...]"""
    unary(op)
    op.ignore(1)


def broadcast(op: Op) -> None:
    """f(a[...], b[...], ...) -> y[...]"""
    others = [i for i in op.inputs() if np.prod(op.shape(i)) != 1]
    if op.flow.shrink_heads and len(others) == 1 and op.shape(others[0]) == op.out_shape() and op.blocks(others[0]) is not None:
        op.pass_blocks(others[0])
        return
    labels = broadcast_labels(op, op.inputs(), op.out_shape())
    op.emit({axis: along for axis, along in enumerate(labels) if along is not None})


def broadcast_labels(op: Op, inputs: Sequence[int], shape: Sequence[int], inner: int = 0) -> list[Labels | None]:
    """Equate the labels of inputs where they meet along the axes of shape, the last `inner` of which are left out.

    Returns, per axis, the labels that the result carries, None where no input varies.
    """
    result: list[Labels | None] = [None] * len(shape)
    for i in sorted(inputs, key=op.is_static):  # activations first: their labels go on
        labels = op.axes(i)
        for back in range(inner + 1, len(labels) + 1):
            along, axis = labels[-back], len(shape) - back
            if along.size <= 1:
                continue
            known = result[axis]
            if known is None:
                result[axis] = along
            else:
                op.equate(known, along)
                if all_frozen(known):
                    result[axis] = along
    return result


UNARY = [
    "BitCast",
    "BitwiseNot",
    "Abs",
    "Acos",
    "Acosh",
    "Asin",
    "Asinh",
    "Atan",
    "Atanh",
    "Cast",
    "Ceil",
    "Celu",
    "Clip",
    "Cos",
    "Cosh",
    "Dropout",
    "Elu",
    "Erf",
    "Exp",
    "Floor",
    "Gelu",
    "HardSigmoid",
    "HardSwish",
    "IsInf",
    "IsNaN",
    "LeakyRelu",
    "Log",
    "Mish",
    "Neg",
    "Not",
    "Reciprocal",
    "Relu",
    "Round",
    "Selu",
    "Shrink",
    "Sigmoid",
    "Sign",
    "Sin",
    "Sinh",
    "Softplus",
    "Softsign",
    "Sqrt",
    "Swish",
    "Tan",
    "Tanh",
    "ThresholdedRelu",
]

BROADCAST = [
    "BitwiseAnd",
    "BitwiseOr",
    "BitwiseXor",
    "SwiGLU",
    "Add",
    "And",
    "BitShift",
    "Div",
    "Equal",
    "Greater",
    "GreaterOrEqual",
    "Less",
    "LessOrEqual",
    "Max",
    "Mean",
    "Min",
    "Mod",
    "Mul",
    "Or",
    "PRelu",
    "Pow",
    "Sub",
    "Sum",
    "Where",
    "Xor",
]

OPERATORS = {
    "CastLike": Operator(cast_like),
    "Identity": Operator(identity),
    **dict.fromkeys(UNARY, Operator(unary)),
    **dict.fromkeys(BROADCAST, Operator(broadcast)),
}
