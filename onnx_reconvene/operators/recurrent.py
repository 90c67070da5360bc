"""Recurrent operators: the hidden units of a layer are its channels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx_reconvene.flow import UnsupportedError
from onnx_reconvene.op import Op
from onnx_reconvene.operators.rule import Operator

if TYPE_CHECKING:
    from onnx_reconvene.cutting import CutOp

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
W, R, B, LENGTHS, INITIAL_H, INITIAL_C, PEEPHOLES = range(1, 8)


def recurrent(op: Op) -> None:
    """x[t,n,i] * w[d,g*h,i] + h[d,n,h] * r[d,g*h,h] + b[d,2*g*h], in g gates -> y[t,d,n,h], last h[d,n,h], last c[d,n,h]

    Both directions share the axis of hidden units, so they lose the same ones.
    """
    gates = GATES[op.type]
    (x,) = op.along(0, 2)
    gated, read = op.along(W, 1, 2)
    regated, hidden = op.along(R, 1, 2)
    op.equate(x, read)
    for labels in (gated, regated):
        op.equate(labels.reshape(gates, -1), hidden)
    if op.has(B):
        op.equate(op.along(B, 1)[0].reshape(2 * gates, -1), hidden)
    if op.has(PEEPHOLES):
        op.equate(op.along(PEEPHOLES, 1)[0].reshape(3, -1), hidden)
    for state in (INITIAL_H, INITIAL_C):
        if op.has(state):
            op.equate(op.along(state, 2)[0], hidden)
    op.layer(W, hidden, read)
    op.layer(R, hidden, hidden)
    for o in op.outputs():
        op.emit({len(op.out_shape(o)) - 1: hidden}, o)


def recurrent_macs(op: Op) -> None:
    """the elements of both weights, at each step of each sequence"""
    for weight in (W, R):
        if len(op.shape(weight)) != 3 or len(op.shape(0)) != 3:
            raise UnsupportedError("its operands are not of rank 3")
        op.macs({weight: range(3), 0: (0, 1)})


def hidden_size(cut: CutOp) -> None:
    """`hidden_size` is how many hidden units are left"""
    cut.node.attrs["hidden_size"] = int(cut.kept(R, 2).sum())


OPERATORS = dict.fromkeys(GATES, Operator(recurrent, hidden_size, macs=recurrent_macs))
