"""Operators that rearrange, pool or enlarge what lies beside the channels."""

from __future__ import annotations

import numpy as np

from tests.generator.drawing import Drawing
from tests.generator.layers import LAST, convolve_one, linear
from tests.generator.values import Dim, Value


def global_pool(net: Drawing, x: Value) -> Value:
    """The average or largest of each channel, in space."""
    shape = (*x.shape[:2], *[1] * len(x.shape[2:]))
    if net.rarely(3):
        return net.enter(Value(net.axes("ReduceMean", x, list(range(2, len(shape))), keepdims=1), shape, 1))
    return net.value(net.choose(("GlobalAveragePool", "GlobalMaxPool")), [x], shape, 1)


def gate(net: Drawing, x: Value) -> Value:
    """Squeeze and excite: x times what a small network makes of its averages."""
    if x.kind != "image":
        return net.like(x, "Mul", net.like(LAST[x.kind](net, x, x.width), "Sigmoid"))
    pooled = global_pool(net, x)
    if net.pick(2):
        flat = net.reshape(pooled, [Dim((0,)), Dim((1,))], 1)
        inner = linear(net, net.like(linear(net, flat), "Relu"), x.width)
        scale = net.reshape(inner, [Dim((0,)), Dim((1,)), *[1] * len(x.shape[2:])], 1)
    else:
        scale = convolve_one(net, net.like(convolve_one(net, pooled, 2), "Relu"), x.width)
    return net.like(x, "Mul", net.like(scale, net.choose(("Sigmoid", "HardSigmoid"))))


def pool(net: Drawing, x: Value) -> Value | None:
    """MaxPool or AveragePool."""
    rank = len(x.shape) - 2
    if min(x.shape[2:]) < 2:
        return None
    op, stride = net.choose(("MaxPool", "AveragePool")), 1 + net.pick(2)
    shape = (*x.shape[:2], *[(n - 2) // stride + 1 for n in x.shape[2:]])
    return net.value(op, [x], shape, 1, kernel_shape=[2] * rank, strides=[stride] * rank)


def resize(net: Drawing, x: Value) -> Value | None:
    """Resize or Upsample by 2, given scales or sizes."""
    if np.prod(x.shape) > 1000:
        return None
    shape = (*x.shape[:2], *[2 * n for n in x.shape[2:]])
    scales = net.constant(np.asarray([1, 1, *[2] * (len(shape) - 2)], np.float32), "s")
    if net.opset < 10:
        return net.value("Upsample", [x, scales], shape, 1, mode="nearest")
    if net.opset == 10:
        return net.value("Resize", [x, scales], shape, 1, mode="nearest")
    if net.dynamic or net.pick(2) or net.opset < 13:
        return net.value("Resize", [x, "", scales] if net.opset >= 13 else [x, roi(net), scales], shape, 1, mode="nearest")
    return net.value("Resize", [x, "", "", net.ints(shape)], shape, 1, mode=net.choose(("nearest", "linear")))


def roi(net: Drawing) -> str:
    """Return the name of the empty region that Resize wants in opset 11."""
    return net.constant(np.empty(0, np.float32), "roi")


def depth_to_space(net: Drawing, x: Value) -> Value | None:
    """DepthToSpace."""
    if x.width % 4 or len(x.shape) != 4 or x.shape[2] > 5:
        return None
    mode = {"mode": net.choose(("DCR", "CRD"))} if net.opset >= 11 else {}
    shape = (x.shape[0], x.width // 4, 2 * x.shape[2], 2 * x.shape[3])
    return net.value("DepthToSpace", [x], shape, 1, blocksize=2, **mode)


def space_to_depth(net: Drawing, x: Value) -> Value | None:
    """SpaceToDepth."""
    if len(x.shape) != 4 or x.shape[2] % 2 or x.shape[3] % 2 or x.width > 6:
        return None
    return net.value("SpaceToDepth", [x], (x.shape[0], 4 * x.width, x.shape[2] // 2, x.shape[3] // 2), 1, blocksize=2)


def spread(net: Drawing, x: Value) -> Value | None:
    """Pixel shuffle: Reshape, Transpose, Reshape."""
    if x.width % 4 or len(x.shape) != 4 or x.shape[2] > 5:
        return None
    parts = [Dim((1,), 4), 2, 2] if net.pick(2) else [2, 2, Dim((1,), 4)]
    y = net.reshape(x, [Dim((0,)), *parts, Dim((2,)), Dim((3,))], 1, hide=True)
    perm = [0, 1, 4, 2, 5, 3] if parts[1] == parts[2] else [0, 3, 4, 1, 5, 2]
    turned = Value(net.node("Transpose", [y], perm=perm)[0], tuple(y.shape[a] for a in perm), 1)
    return net.reshape(turned, [Dim((0,)), Dim((1,)), Dim((2, 3)), Dim((4, 5))], 1)


def windows(net: Drawing, x: Value) -> Value | None:
    """x[n,h,w,c] in windows of 2 by 2, a layer, and back."""
    n, h, w, c = x.shape
    if h % 2 or w % 2:
        return None
    y = net.reshape(x, [Dim((0,)), Dim((1,), 2), 2, Dim((2,), 2), 2, Dim((3,))], 5, hide=True)
    perm = [0, 1, 3, 2, 4, 5]
    y = Value(net.node("Transpose", [y], perm=perm)[0], (n, h // 2, w // 2, 2, 2, c), 5)
    y = net.reshape(y, [Dim((0, 1, 2)), 4, Dim((5,))], 2, hide=True)
    y = linear(net, y, c) if net.pick(2) else Value(net.node("Relu", [y])[0], y.shape, 2)
    y = net.reshape(y, [-1 if net.dynamic else n, h // 2, w // 2, 2, 2, Dim((2,))], 5, hide=True)
    y = Value(net.node("Transpose", [y], perm=perm)[0], (n, h // 2, 2, w // 2, 2, c), 5)
    return net.reshape(y, [Dim((0,)), Dim((1, 2)), Dim((3, 4)), Dim((5,))], 3)


def grid_sample(net: Drawing, x: Value) -> Value | None:
    """GridSample at places that are constant."""
    if net.opset < 16 or net.dynamic or len(x.shape) != 4:
        return None
    size = 1 + net.pick(4)
    places = net.constant(net.uniform((x.shape[0], size, size, 2), -0.9, 0.9), "g")
    modes = ("bilinear", "nearest") if net.opset < 20 else ("linear", "nearest")
    return net.value("GridSample", [x, places], (*x.shape[:2], size, size), 1, mode=net.choose(modes))
