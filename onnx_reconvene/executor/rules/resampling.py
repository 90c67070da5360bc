"""Images in other sizes, and signals as sums of waves."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from onnx_reconvene.executor.node import Function, Node, Operator, Settings
from onnx_reconvene.runtime import session

SETTINGS = ("antialias", "coordinate_transformation_mode", "cubic_coeff_a", "exclude_outside", "mode", "nearest_mode")
CROP = "tf_crop_and_resize"


def resize(node: Node) -> Function:
    """y = x, each axis in another size: a matrix along each, being what onnxruntime makes of the identity matrix"""
    named = node.attribute("axes")
    settings = tuple((name, node.attribute(name)) for name in SETTINGS if node.attribute(name) is not None)
    crops = node.attribute("coordinate_transformation_mode") == CROP
    if node.attribute("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise node.unsupported("an aspect ratio that is kept")

    def run(x: Tensor, *operands: Settings | None) -> Tensor:
        roi, scales, targets = ([None, *operands, None, None] if node.version < 11 else [*operands, None, None, None])[:3]
        axes = [axis % x.dim() for axis in named or range(x.dim())]
        factors = scales or None
        region = (roi[: len(roi) // 2], roi[len(roi) // 2 :]) if crops and roi is not None else None
        for k, axis in enumerate(axes):
            size, scale = x.shape[axis], None if factors is None else factors[k]
            target = None if targets is None else targets[k]
            part = None if region is None else (region[0][k], region[1][k])
            if part is not None or (scale != 1 if target is None else target != size):
                x = along(x, axis, _matrix(size, scale, target, part, settings))
        return x

    return run


def along(x: Tensor, axis: int, matrix: Tensor) -> Tensor:
    """Return matrix [m, n] applied along an axis of n elements, which becomes one of m."""
    largest, source = matrix.max(1)
    if bool(((matrix != 0).sum(1) == 1).all()) and bool((largest == 1).all()):  # it copies elements
        return x.index_select(axis, source.to(x.device))
    matrix = matrix.to(x)
    return x @ matrix.t() if axis == x.dim() - 1 else (x.movedim(axis, -1) @ matrix.t()).movedim(-1, axis)


@lru_cache(maxsize=256)
def _matrix(
    size: int, scale: float | None, target: int | None, region: tuple[float, float] | None, settings: tuple[tuple[str, Any], ...]
) -> Tensor:
    """Return the matrix [size after, size] of a Resize along one axis."""
    low, high = region or (0.0, 1.0)
    roi = numpy_helper.from_array(np.asarray([0, 0, low, 0, 1, 1, high, 1], np.float32), "roi")
    if target is None:
        last = numpy_helper.from_array(np.asarray([1, 1, scale, 1], np.float32), "scales")
        inputs = ["x", "roi", "scales"]
    else:
        last = numpy_helper.from_array(np.asarray([1, 1, target, size], np.int64), "sizes")
        inputs = ["x", "roi", "", "sizes"]
    node = helper.make_node("Resize", inputs, ["y"], **dict(settings))
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 4) for name in "xy")
    graph = helper.make_graph([node], "resize", [x], [y], [roi, last])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    (matrix,) = session(model.SerializeToString()).run(None, {"x": np.eye(size, dtype=np.float32)[None, None]})
    return torch.from_numpy(matrix[0, 0])


def upsample(node: Node) -> Function:
    """y = x, each axis larger by a scale: Resize before opset 10"""
    fixed, mode = node.attribute("scales"), node.attribute("mode")
    kind = {"nearest": "nearest", "linear": "linear", "bilinear": "linear"}[mode]
    coordinates = (("coordinate_transformation_mode", "asymmetric"), ("mode", kind), ("nearest_mode", "floor"))

    def run(x: Tensor, scales: Settings | None = None) -> Tensor:
        for axis, scale in enumerate(fixed if scales is None else scales):
            if scale != 1:
                x = along(x, axis, _matrix(x.shape[axis], scale, None, None, coordinates))
        return x

    return run


def grid_sample(node: Node) -> Function:
    """y[n,c,...] = x[n,c,...] at the places that a grid [n,...,rank] names, from -1 to 1"""
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(node.attribute("mode"), node.attribute("mode"))
    padding, corners = node.attribute("padding_mode"), bool(node.attribute("align_corners"))
    return lambda x, grid: F.grid_sample(x, grid, mode, padding, corners)


def affine_grid(node: Node) -> Function:
    """y = the grid [n,...,rank] of an affine transform of an image"""
    corners = bool(node.attribute("align_corners"))
    return lambda theta, size: F.affine_grid(theta, size, corners)


def fourier(node: Node) -> Function:
    """y = the discrete Fourier transform of x along an axis; the last axis holds the real and the imaginary part"""
    fixed, inverse, onesided = node.attribute("axis"), node.attribute("inverse"), node.attribute("onesided")

    def run(x: Tensor, length: Settings | None = None, axis: Settings | None = None) -> Tensor:
        along = axis[0] if axis is not None else -2 if fixed is None else fixed
        along, size = along % x.dim(), None if length is None else length[0]
        z = torch.complex(x, torch.zeros_like(x)).squeeze(-1) if x.shape[-1] == 1 else torch.view_as_complex(x.contiguous())
        z = torch.fft.ifft(z, size, along) if inverse else torch.fft.fft(z, size, along)
        return torch.view_as_real(z.narrow(along, 0, z.shape[along] // 2 + 1) if onesided else z)

    return run


RULES: dict[str, Operator] = {
    "AffineGrid": Operator(affine_grid, host=(1,)),
    "DFT": Operator(fourier, host=(1, 2)),
    "GridSample": Operator(grid_sample),
    "Resize": Operator(resize, host=(1, 2, 3)),
    "Upsample": Operator(upsample, host=(1,)),
}
