"""The oracle of derivatives: slopes measured on the network itself, in double precision by the reference evaluator of onnx.

It knows no rule. A random weighting of all outputs is the loss; along random directions its slope must be what the gradients,
computed in single precision by onnxruntime, say it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, inliner, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from onnx.reference.ops.op_grid_sample import GridSample as SinglePrecisionGridSample
from scipy.special import erf

from onnx_reconvene import gradients

Feeds = Mapping[str, NDArray[Any]]
DIRECTIONS = 3


def weighted(model: onnx.ModelProto, feeds: Feeds, loss: str = "loss") -> onnx.ModelProto:
    """Return model with one more output, the loss: the sum of the elements of its outputs, each times a random number."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    rng = np.random.default_rng([*loss.encode()])
    names = [o.name for o in model.graph.output if o.type.tensor_type.elem_type == TensorProto.FLOAT]
    parts = []
    for name, value in zip(names, run(model, feeds, names), strict=True):
        numbers = rng.uniform(-1, 1, value.shape).astype(np.float32)
        result.graph.initializer.append(numpy_helper.from_array(numbers, f"{loss}/{name}/numbers"))
        result.graph.node.append(helper.make_node("Mul", [name, f"{loss}/{name}/numbers"], [f"{loss}/{name}/product"]))
        result.graph.node.append(helper.make_node("ReduceSum", [f"{loss}/{name}/product"], [f"{loss}/{name}/sum"], keepdims=0))
        parts.append(f"{loss}/{name}/sum")
    result.graph.node.append(helper.make_node("Sum", parts, [loss]))
    result.graph.output.append(helper.make_tensor_value_info(loss, TensorProto.FLOAT, []))
    return result


def run(model: onnx.ModelProto, feeds: Feeds, names: list[str] | None = None) -> list[NDArray[Any]]:
    """Return outputs of model in onnxruntime."""
    found: list[NDArray[Any]] = session(model).run(names, dict(feeds))
    return found


def session(model: onnx.ModelProto) -> ort.InferenceSession:
    """Return a session of onnxruntime on one thread."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def in_double(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return model with all its single-precision tensors in double precision."""
    result = inliner.inline_selected_functions(model, [("", "Gelu")], False, True)  # which the evaluator has in single only
    for value in [*result.graph.input, *result.graph.output]:
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    for tensor in result.graph.initializer:
        _widen(tensor)
    for node in result.graph.node:
        for attribute in node.attribute:
            if attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.DOUBLE
            if attribute.name == "value":
                _widen(attribute.t)
    return result


def _widen(tensor: TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))


class Erf(OpRun):
    """The error function, which the evaluator of onnx has in single precision only."""

    op_domain = ""

    def _run(self, x: NDArray[Any]) -> tuple[NDArray[Any]]:
        return (erf(x),)


class GridSample(SinglePrecisionGridSample):
    """Sampling, of which the evaluator of onnx computes places in single precision."""

    op_domain = ""

    def _gs_denormalize_coordinates(self, n: NDArray[Any], dims: NDArray[Any], align_corners: bool) -> NDArray[Any]:
        places = [self._gs_denormalize(v, int(dim), align_corners) for v, dim in zip(n, dims, strict=True)]
        return np.asarray(places, np.float64)


class Slope:
    """Slopes of the loss of a network, by central differences: in double precision by the evaluator of onnx, or in single
    precision by onnxruntime."""

    def __init__(self, model: onnx.ModelProto, feeds: Feeds, loss: str, single: bool) -> None:
        model = open_weights(model if single else in_double(model))
        self._kind = np.float32 if single else np.float64
        self._step = 3e-3 if single else 1e-7
        self._values = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        self._values |= {name: v.astype(self._kind) if v.dtype == np.float32 else v for name, v in feeds.items()}
        runner = session(model) if single else ReferenceEvaluator(model, new_ops=[Erf, GridSample])
        self._run = partial(runner.run, [loss])

    def loss(self, **changed: NDArray[Any]) -> float:
        """Return the loss, some tensors having other values."""
        (loss,) = self._run(self._values | changed)
        assert loss.dtype == self._kind
        return float(loss)

    def along(self, directions: Feeds) -> float:
        """Return the slope of the loss as tensors move, each along a direction of its own."""
        steps = {name: (self._step * direction).astype(self._kind) for name, direction in directions.items()}
        ahead = self.loss(**{name: self._values[name] + step for name, step in steps.items()})
        behind = self.loss(**{name: self._values[name] - step for name, step in steps.items()})
        return (ahead - behind) / (2 * self._step)


def open_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return model with its weights among its inputs, so that each can be given another value."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    listed = {value.name for value in model.graph.input}
    for tensor in model.graph.initializer:
        if tensor.name not in listed:
            result.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return result


def check(
    model: onnx.ModelProto, feeds: Feeds, wrt: list[str], loss: str = "loss", single: bool = False, tolerance: float = 3e-4
) -> dict[str, NDArray[Any]]:
    """Return the gradients of a loss after comparing them to slopes."""
    derivative = gradients(model, wrt, loss)
    onnx.checker.check_model(derivative)
    found = dict(zip(wrt, run(derivative, feeds)[len(model.graph.output) :], strict=True))
    slope = Slope(model, feeds, loss, single)
    assert np.isclose(slope.loss(), run(model, feeds, [loss])[0], rtol=1e-3, atol=1e-4), "the oracle computes something else"
    rng = np.random.default_rng(1)
    for name, gradient in found.items():
        for _ in range(DIRECTIONS):
            direction = rng.standard_normal(gradient.shape)
            expected, claimed = slope.along({name: direction}), float((gradient * direction).sum())
            scale = max(float(np.linalg.norm(gradient)), abs(expected), 1e-2)
            allowed = 10 * tolerance if single else tolerance
            assert abs(expected - claimed) < allowed * scale, f"{name}: slope {expected}, gradient says {claimed}"
    return found


def trainable(model: onnx.ModelProto) -> list[str]:
    """Return the names of the floating-point inputs and weights of model."""
    inferred = shape_inference.infer_shapes(model)
    inputs = [v.name for v in inferred.graph.input if v.type.tensor_type.elem_type == TensorProto.FLOAT]
    return inputs + [t.name for t in model.graph.initializer if t.data_type == TensorProto.FLOAT]
