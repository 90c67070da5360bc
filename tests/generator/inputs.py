"""Inputs, and a first layer of them."""

from __future__ import annotations

from collections.abc import Sequence

from tests.generator.drawing import Drawing
from tests.generator.layers import LAST, conv, linear
from tests.generator.values import Value


def image(net: Drawing) -> Value:
    """An input x[n,c,h,w] and a convolution of it."""
    size = net.choose((4, 6, 8, 5))
    shape = (net.batch, 1 + net.pick(3), size) if net.rarely(5) else (net.batch, 1 + net.pick(3), size, size)
    return conv(net, graph_input(net, shape, 1))


def tokens(net: Drawing) -> Value:
    """An input x[n,t,c] and a linear layer."""
    return linear(net, graph_input(net, (net.batch, 2 + net.pick(5), 2 + net.pick(4)), 2))


def vector(net: Drawing) -> Value:
    """An input x[n,c] and a linear layer."""
    return linear(net, graph_input(net, (net.batch, 2 + net.pick(6)), 1))


def graph_input(net: Drawing, shape: Sequence[int], axis: int) -> Value:
    """Return a new input."""
    net.inputs.append(net.enter(Value(net.name("x"), tuple(shape), axis)))
    return net.inputs[-1]


def another_input(net: Drawing, x: Value) -> Value | None:
    """Add a layer of another input to x."""
    other = graph_input(net, [3 if a == x.axis else n for a, n in enumerate(x.shape)], x.axis)
    return net.like(x, "Add", LAST[x.kind](net, other, x.width))


STARTS = (image, tokens, vector)
