"""Values read between the elements of an image: a sum over the elements around a point, its corners, of each times a weight, the
product over axes of one minus the distance along that axis. Outside the image stand zeros."""

from __future__ import annotations

import math
import operator
from functools import reduce
from typing import NamedTuple

import numpy as np
from onnx import TensorProto

from onnx_reconvene.autodiff.builder import Tensor, concat, total
from onnx_reconvene.autodiff.node import Node, Rule
from onnx_reconvene.autodiff.rules.elementwise import Gradients, only


class Corners(NamedTuple):
    """What lies around points along one axis; each tensor is [n, elements around, points]."""

    indices: Tensor
    weights: Tensor
    slopes: Tensor  # of the weights, by what the grid says


def grid_sample(node: Node, g: Tensor) -> Gradients:
    """y[p] = sum over corners of x[corner] w(p, corner): dx[corner] += g w, dp = sum over corners of g x[corner] dw"""
    x, grid = node[0], node[1]
    (n, channels), sizes, points = x.shape[:2], x.shape[2:], math.prod(g.shape[2:])
    axes = [corners(node, axis, g) for axis in range(len(sizes))]
    strides = [math.prod(sizes[axis + 1 :]) for axis in range(len(sizes))]
    flat = total([spread(own.indices, k, len(axes)) * stride for k, (own, stride) in enumerate(zip(axes, strides, strict=True))])
    places = flat.reshape(n, 1, -1)
    places = places.expand((n, channels, places.shape[2]))
    zeros = x.builder.full((n, channels, math.prod(sizes)), 0, x.dtype)
    g = g.reshape(n, channels, 1, points)
    updates = (g * weights(axes).reshape(n, 1, -1, points)).reshape(*places.shape)
    dx = zeros.apply("ScatterElements", places, updates, axis=2, reduction="add").reshape(*x.shape)
    read = x.reshape(n, channels, -1).apply("GatherElements", places, axis=2).reshape(n, channels, -1, points)
    change = (read * g).sum([1], keepdims=False)
    moved = [(change * weights(axes, along).reshape(*change.shape)).sum([1]) for along in range(len(axes))]
    dgrid = concat([one.reshape(*grid.shape[:-1], 1) for one in reversed(moved)], grid.rank - 1)
    return (dx, dgrid.cast(grid))


def spread(x: Tensor, axis: int, rank: int) -> Tensor:
    """Return what belongs to an axis of an image of this rank so that it broadcasts to all corners: [n, 1, around, 1, points]."""
    n, around, points = x.shape
    return x.reshape(n, *(around if k == axis else 1 for k in range(rank)), points)


def weights(axes: list[Corners], along: int | None = None) -> Tensor:
    """Return the weights of all corners, or their slopes as points move along an axis."""
    factors = [own.slopes if k == along else own.weights for k, own in enumerate(axes)]
    return reduce(operator.mul, [spread(factor, k, len(axes)) for k, factor in enumerate(factors)])


def corners(node: Node, axis: int, like: Tensor) -> Corners:
    """Return what lies around the points of a grid along an axis of the image, in the type of like."""
    size, mode = node[0].shape[2 + axis], node.attribute("mode")
    place, slope = position(node, axis, like)
    if mode == "nearest":
        elements, near, sign = place.apply("Round"), place.beside(1.0), place.beside(0.0)
    elif mode in ("bilinear", "linear"):
        below = place.apply("Floor")
        fraction = place - below
        elements, near = concat([below, below + 1.0], 1), concat([1.0 - fraction, fraction], 1)
        sign = place.beside(np.asarray([[[-1], [1]]]))
    else:
        raise node.no_derivative(f"mode {mode}")
    bounded = elements.apply("Clip", 0.0, float(size - 1))
    inside = elements.equals(bounded).cast(place)
    return Corners(bounded.apply("Cast", to=TensorProto.INT64), near * inside, slope * sign * inside)


def position(node: Node, axis: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return where along an axis of the image the points of a grid lie, in elements, and the slope of that, [n, 1, points]."""
    grid, size, padding = node[1], node[0].shape[2 + axis], node.attribute("padding_mode")
    column = grid.shape[-1] - 1 - axis  # the last axis of an image stands first
    given = grid.slice([column], [column + 1], [grid.rank - 1], [1]).reshape(grid.shape[0], 1, -1).cast(like)
    low, span = (0.0, size - 1.0) if node.attribute("align_corners") else (-0.5, float(size))
    place, slope = given * (span / 2) + (span / 2 + low), given.beside(span / 2)
    if padding == "reflection":
        place, sign = reflected(place, low, span)
        slope = slope * sign
    if padding == "zeros":
        return place, slope
    bounded = place.apply("Clip", 0.0, size - 1.0)
    return bounded, only(place.equals(bounded), slope)


def reflected(place: Tensor, low: float, span: float) -> tuple[Tensor, Tensor]:
    """Return places thrown back at low and at low + span until they lie between, and the slope of that."""
    period, beyond = 2 * (span or 1.0), place - low
    beyond = beyond - (beyond * (1 / period)).apply("Floor") * period - span
    return (low + span) - beyond.apply("Abs"), -beyond.apply("Sign")


RULES: dict[str, Rule] = {"GridSample": grid_sample}
