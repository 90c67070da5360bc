"""Recurrent layers."""

from __future__ import annotations

import numpy as np
from onnx import numpy_helper

from tests.generator.drawing import Drawing
from tests.generator.values import Dim, Value
from tests.generator.weights import draw_weight


def recurrent(net: Drawing, x: Value) -> Value:
    """LSTM, GRU or RNN, both ways or one, with or without a first state; its outputs are joined, or its last states are."""
    op, gates = net.choose((("LSTM", 4), ("GRU", 3), ("RNN", 1)))
    n, t, c = x.shape
    hidden, ways = 1 + net.pick(4), 1 + net.pick(2)
    turned = Value(net.node("Transpose", [x], perm=[1, 0, 2])[0], (t, n, c), 2)
    weights = [draw_weight(net, (ways, gates * hidden, c), c), draw_weight(net, (ways, gates * hidden, hidden), hidden)]
    bias = net.vector((ways, 2 * gates * hidden)) if net.pick(2) else ""
    states = [zero_state(net, x, ways, hidden) for _ in range(2 if op == "LSTM" else 1)] if net.pick(2) else []
    inputs = [turned, *weights, bias, *([""] if states else []), *states]
    direction = "bidirectional" if ways == 2 else net.choose(("forward", "reverse"))
    y, last = net.node(op, inputs, 2, hidden_size=hidden, direction=direction)
    if net.rarely(3):
        state = Value(net.node("Transpose", [last], perm=[1, 0, 2])[0], (n, ways, hidden), 2)
        return net.reshape(state, [Dim((0,)), Dim((1, 2))], 1)
    joined = Value(net.node("Transpose", [y], perm=[2, 0, 1, 3])[0], (n, t, ways, hidden), 2)
    return net.reshape(joined, [Dim((0,)), Dim((1,)), Dim((2, 3))], 2)


def zero_state(net: Drawing, x: Value, ways: int, hidden: int) -> str:
    """A first state of zeros: ConstantOfShape, or a small constant, expanded."""
    sizes = net.node("Shape", [x])[0]
    batch = net.node("Gather", [sizes, net.ints([0])], axis=0)[0]
    shape = net.node("Concat", [net.ints([ways]), batch, net.ints([hidden])], axis=0)[0]
    if net.pick(2):
        return net.node("Expand", [net.vector((ways, 1, hidden)), shape])[0]
    return net.node("ConstantOfShape", [shape], value=numpy_helper.from_array(np.zeros(1, np.float32)))[0]
