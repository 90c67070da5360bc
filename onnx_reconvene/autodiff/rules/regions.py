"""Regions of images, read at points between elements: along each axis a matrix of each region says how much of which element is
read, and the rows of these matrices move with the ends of the region."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from onnx_reconvene.autodiff.builder import Tensor, concat
from onnx_reconvene.autodiff.node import Node, Rule
from onnx_reconvene.autodiff.rules.elementwise import Gradients


class Axis(NamedTuple):
    """How regions read an axis of the image: r regions, p results, s points for each, of h elements."""

    weights: Tensor  # [r, p, h]
    slopes: Tensor  # [r, p, s, h], of the weights as a point moves
    along: Tensor  # [1, p, s], where in the region the points lie, from 0 to 1
    growing: Tensor  # [r, 1], 0 where a region is taken to be longer than it is


def roi_align(node: Node, g: Tensor) -> Gradients:
    """y[r] = A[r] x[k[r]] B[r]': dx[k[r]] += A[r]' g[r] B[r], dA = g (x B')', dB = g' A x"""
    x, batch = node[0], node[2]
    if node.attribute("mode") != "avg" or not node.attribute("sampling_ratio"):
        raise node.no_derivative("mode max, or as many points as a region is long")
    (n, channels, height, width), regions = x.shape, g.shape[0]
    down, across = (axis_of(node, axis, g) for axis in (0, 1))
    a, b = (own.weights.reshape(regions, 1, *own.weights.shape[1:]) for own in (down, across))
    parts = (a.transpose(0, 1, 3, 2) @ g @ b).reshape(regions, channels * height * width)
    owner = batch.apply("OneHot", x.builder.integers([n]), x.builder.constant(np.array([0, 1], g.dtype)), axis=0)
    read = x.apply("Gather", batch, axis=0)
    change_down = (g @ (read @ b.transpose(0, 1, 3, 2)).transpose(0, 1, 3, 2)).sum([1], keepdims=False)
    change_across = (g.transpose(0, 1, 3, 2) @ (a @ read)).sum([1], keepdims=False)
    scale = float(node.attribute("spatial_scale"))
    (top, bottom), (left, right) = ends(down, change_down), ends(across, change_across)
    return ((owner @ parts).reshape(*x.shape), concat([left, top, right, bottom], 1) * scale, None)


def axis_of(node: Node, axis: int, like: Tensor) -> Axis:
    """Return how regions read an axis of the image, in the type of like."""
    rois, size, results = node[1], node[0].shape[2 + axis], like.shape[2 + axis]
    regions, points, scale = rois.shape[0], int(node.attribute("sampling_ratio")), float(node.attribute("spatial_scale"))
    half = node.attribute("coordinate_transformation_mode") == "half_pixel"
    low, high = (rois.slice([k], [k + 1], [1], [1]).cast(like) * scale - 0.5 * half for k in (1 - axis, 3 - axis))
    span = high - low
    length = span if half else span.apply("Max", 1.0)
    along = like.beside((np.arange(results * points).reshape(1, -1) + 0.5) / (results * points))
    place = low + length * along
    bounded = place.apply("Clip", 0.0, size - 1.0)
    inside = (place.apply("Clip", -1.0, float(size)).equals(place)).cast(like).reshape(regions, results * points, 1)
    moving = bounded.equals(place).cast(like).reshape(regions, results * points, 1)
    distance = bounded.reshape(regions, results * points, 1) - like.beside(np.arange(size).reshape(1, 1, -1))
    near = (1.0 + -distance.apply("Abs")).apply("Relu")
    shape = (regions, results, points, size)
    slopes = -distance.apply("Sign") * (near > 0.0).cast(like) * inside * moving
    weights = (near * inside).reshape(*shape).mean([2], keepdims=False)
    return Axis(weights, slopes.reshape(*shape), along.reshape(1, results, points), length.equals(span).cast(like))


def ends(axis: Axis, change: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of the two ends of each region along an axis, [r, 1], of that of its weights."""
    regions, results, points, size = axis.slopes.shape
    moved = (axis.slopes * change.reshape(regions, results, 1, size)).sum([3], keepdims=False) * (1 / points)
    shift, stretch = (own.sum([1, 2], keepdims=False).reshape(regions, 1) for own in (moved, moved * axis.along))
    stretch = stretch * axis.growing
    return shift - stretch, stretch


RULES: dict[str, Rule] = {"RoiAlign": roi_align}
