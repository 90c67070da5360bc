"""Operators that move, join, part or drop channels and other slices."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.generator.drawing import Drawing
from tests.generator.elementwise import unary
from tests.generator.layers import LAST
from tests.generator.values import WIDEST, Dim, Value, resized, space

INT_MAX, INT64_MAX = 2**31 - 1, 2**63 - 1


def concat(net: Drawing, x: Value) -> Value | None:
    """x and earlier values, or x again, side by side."""
    fits = [v for v in net.values if v.axis == x.axis and space(v) == space(x)]
    others = [net.choose(fits[::-1]) if net.pick(3) else x for _ in range(1 + net.pick(2))]
    parts = [*others, x] if net.pick(2) else [x, *others]
    width = sum(v.width for v in parts)
    return net.value("Concat", parts, resized(x, width), x.axis, axis=channel_axis(net, x)) if width <= WIDEST else None


def channel_axis(net: Drawing, x: Value) -> int:
    """Return the axis of the channels, at times counted from the end."""
    return x.axis - len(x.shape) if net.rarely(3) else x.axis


def split(net: Drawing, x: Value) -> Value | None:
    """Split; the parts go different ways and meet again, or not."""
    if x.width < 2:
        return None
    parts = split_parts(net, x, 2 + net.pick(min(2, x.width - 1)))
    way = net.pick(4)
    same = [p for p in parts if p.shape == parts[0].shape]
    if way == 1 and len(same) > 1:
        return net.value(net.choose(("Add", "Sub")), same[-2:], same[0].shape, x.axis)
    if way == 2:
        return net.choose(parts)
    if way == 3:
        parts[0] = unary(net, LAST[x.kind](net, parts[0], parts[0].width))
    parts = parts[::-1] if net.pick(2) else parts
    return net.value("Concat", parts, resized(x, sum(p.width for p in parts)), x.axis, axis=x.axis)


def split_parts(net: Drawing, x: Value, count: int, even: bool = False) -> list[Value]:
    """Add a Split along the channels in some form."""
    cuts = sorted({1 + net.pick(x.width - 1) for _ in range(count - 1)}) if not even and net.pick(2) else []
    sizes = np.diff([0, *cuts, x.width]).tolist() if cuts else [x.width // count] * count
    dealt = -(-x.width // count)  # the last part may be smaller
    if not cuts and x.width % count:
        sizes = [dealt] * (count - 1) + [x.width - dealt * (count - 1)]
        if net.opset < 18 or sizes[-1] <= 0:
            sizes = [1] * (count - 1) + [x.width - count + 1]
    numbered = not cuts and net.opset >= 18 and sizes == [min(dealt, x.width - dealt * i) for i in range(count)] and net.pick(2)
    bare = len(set(sizes)) == 1 and net.opset < 18 and net.pick(2)
    inputs: list[str | Value] = [x]
    attributes: dict[str, Any] = {"axis": channel_axis(net, x)}
    if numbered:
        attributes["num_outputs"] = len(sizes)
    elif not bare and net.opset >= 13:
        inputs.append(net.ints(sizes))
    elif not bare:
        attributes["split"] = sizes
    names = net.node("Split", inputs, len(sizes), **attributes)
    return [net.enter(Value(name, resized(x, size), x.axis)) for name, size in zip(names, sizes, strict=True)]


def slice_channels(net: Drawing, x: Value) -> Value | None:
    """Slice along the channels (and something else, at times)."""
    c = x.width
    starts_ends_steps = [(0, INT_MAX, 1), (0, max(1, c // 2), 1), (c // 2, c, 1), (0, -1, 1), (-min(2, c), INT64_MAX, 1)]
    if net.opset >= 10:
        starts_ends_steps += [(-1, -INT_MAX, -1), (c - 1, -c - 1, -1), (0, c, 2)]
    start, end, step = net.choose(starts_ends_steps)
    width = len(range(*slice(start, None if step < 0 else end, step).indices(c)))
    if not width:
        return None
    axis = channel_axis(net, x)
    bounds = [[0, start], [INT64_MAX, end], [0, axis], [1, step]] if net.rarely(3) else [[start], [end], [axis], [step]]
    if net.opset < 10:
        return net.value("Slice", [x], resized(x, width), x.axis, starts=bounds[0], ends=bounds[1], axes=bounds[2])
    return net.value("Slice", [x, *[net.ints(b) for b in bounds[: 3 + (step != 1)]]], resized(x, width), x.axis)


def gather_channels(net: Drawing, x: Value) -> Value:
    """Gather channels: permuted, repeated, counted from the end."""
    c = x.width
    if net.pick(2):
        index = list(range(c))[:: -1 if net.pick(2) else 1]
        k = net.pick(c)
        index = index[k:] + index[:k]
    else:
        index = [net.pick(c) for _ in range(1 + net.pick(min(c, 6)))]
    index = [i - c if net.opset >= 11 and net.rarely(4) else i for i in index]
    return net.value("Gather", [x, net.ints(index)], resized(x, len(index)), x.axis, axis=x.axis)


def pad(net: Drawing, x: Value) -> Value | None:
    """Pad channels, space or both."""
    pads = [0] * 2 * len(x.shape)
    pads[x.axis], pads[x.axis + len(x.shape)] = net.pick(3), net.pick(3)
    if x.kind == "image" and net.rarely(3):
        pads[-1] = 1
    shape = [n + a + b for n, a, b in zip(x.shape, pads[: len(x.shape)], pads[len(x.shape) :], strict=True)]
    if not any(pads) or shape[x.axis] > WIDEST:
        return None
    if net.opset < 11:
        return net.value("Pad", [x], shape, x.axis, pads=pads, value=0.5 * net.pick(2))
    value = [net.scalar(0.5)] if net.rarely(3) else []
    return net.value("Pad", [x, net.ints(pads), *value], shape, x.axis)


def shuffle(net: Drawing, x: Value) -> Value | None:
    """Channel shuffle: channels dealt out to groups and taken from them in turn."""
    groups = net.choose([g for g in range(2, x.width) if x.width % g == 0] or [1])
    rest = [Dim((a,)) for a in range(2, len(x.shape))]
    if groups == 1 or x.kind != "image":
        return None
    dealt = net.reshape(x, [Dim((0,)), groups, Dim((1,), groups), *rest], 1, hide=True)
    n, _, each, *sizes = dealt.shape
    swap = [0, 2, 1, *range(3, len(dealt.shape))]
    turned = Value(net.node("Transpose", [dealt], perm=swap)[0], (n, each, groups, *sizes), 1)
    if net.rarely(4):
        turned = Value(net.node("Relu", [turned])[0], turned.shape, 1)
    return net.reshape(turned, [Dim((0,)), Dim((1, 2)), *[Dim((a + 1,)) for a in range(2, len(x.shape))]], 1)


def chunk(net: Drawing, x: Value) -> Value | None:
    """Halves of the channels, their bounds computed at run time; one gates the other."""
    c = x.width
    if c % 2 or net.opset < 10:
        return None
    whole = net.node("Gather", [net.node("Shape", [x])[0], net.ints([x.axis])], axis=0)[0]
    half = net.node("Div", [net.node("Add", [whole, net.ints([1])])[0], net.ints([2])])[0]
    bounds = [[net.ints([0]), half], [half, net.node("Mul", [half, net.ints([2])])[0] if net.pick(2) else whole]]
    first, second = (net.value("Slice", [x, *b, net.ints([x.axis])], resized(x, c // 2), x.axis) for b in bounds)
    return net.like(first, "Mul", net.like(second, "Sigmoid"))


def fold(net: Drawing, x: Value) -> Value | None:
    """The largest (or mean) of every pair of channels, by a Reshape that splits them in one way or the other."""
    if x.width % 2 or x.width < 4:
        return None
    pair_first = net.pick(2)
    rest = [Dim((a,)) for a in range(x.axis + 1, len(x.shape))]
    before = [Dim((a,)) for a in range(x.axis)]
    parts = [2, Dim((x.axis,), 2)] if pair_first else [Dim((x.axis,), 2), 2]
    y = net.reshape(x, [*before, *parts, *rest], x.axis, hide=True)
    op = net.choose(("ReduceMax", "ReduceMean"))
    return net.enter(Value(net.axes(op, y, [x.axis + (not pair_first)], keepdims=0), resized(x, x.width // 2), x.axis))


def tile(net: Drawing, x: Value) -> Value | None:
    """Tile along the channels."""
    repeats = [2 if a == x.axis else 1 for a in range(len(x.shape))]
    return net.value("Tile", [x, net.ints(repeats)], resized(x, 2 * x.width), x.axis) if x.width <= 8 else None


def roll(net: Drawing, x: Value) -> Value | None:
    """Two slices of an axis that carries no channels, swapped."""
    if net.opset < 10 or x.kind == "vector":
        return None
    axis = net.choose([a for a in range(1, len(x.shape)) if a != x.axis])
    if x.shape[axis] == 1:
        return None
    parts = [net.node("Slice", [x, *[net.ints([bound]) for bound in bounds]])[0] for bounds in ((1, INT64_MAX, axis), (0, 1, axis))]
    return net.value("Concat", parts, x.shape, x.axis, axis=axis)


def scatter(net: Drawing, x: Value) -> Value | None:
    """ScatterND: some slices along the first axes are replaced by constants, or by those of another value."""
    if net.opset < 11:
        return None
    depth = 1 + net.pick(len(x.shape) - 1)
    at = [[0, *(net.pick(n) for n in x.shape[1:depth])]]
    index = net.constant(np.asarray(at, np.int64), "i")
    return net.like(x, "ScatterND", index, net.vector((1, *x.shape[depth:])))


def largest(net: Drawing, x: Value) -> Value | None:
    """TopK along some axis but the first."""
    axis = 1 + net.pick(len(x.shape) - 1)
    if net.opset < 10 or x.shape[axis] < 2:
        return None
    count = 1 + net.pick(x.shape[axis] - 1)
    values, _ = net.node("TopK", [x, net.constant(np.asarray([count], np.int64), "k")], 2, axis=axis)
    return net.enter(Value(values, tuple(count if a == axis else n for a, n in enumerate(x.shape)), x.axis))
