"""Losses: functions on tensors of a network under construction, which become nodes of it."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_reconvene.autodiff.builder import Builder, Tensor, total
from onnx_reconvene.autodiff.prepare import OPSET, at_least
from onnx_reconvene.calibration.data import LABELS
from onnx_reconvene.errors import ModelError, UsageError
from onnx_reconvene.graph import Source
from onnx_reconvene.plain import graphs_in
from onnx_reconvene.precision import in_single_precision
from onnx_reconvene.shapes import Shape

Tensors = Mapping[str, Tensor]
LossFunction = Callable[[Tensors, Tensors], Tensor]  # of the outputs and of the data, by name; returns a scalar
NOISE = "noise"  # data that a loss asks for: drawn anew for each batch, of the shape of the logits


@dataclass(frozen=True)
class Loss:
    """A loss that is a mean over samples, and what it is called in reports."""

    name: str
    build: LossFunction
    logits: str | None = None  # a tensor that it reads, output or not
    labels: str | None = None  # data that are numbers of classes
    classes: int = 0
    noise: str | None = None  # the tensor in whose shape it wants Gumbel noise


def cross_entropy(output: str, labels: str) -> LossFunction:
    """Return -log softmax(output)[label], averaged over samples (and positions); labels: [n, ...] classes, or [n, classes, ...]
    probabilities."""

    def build(outputs: Tensors, data: Tensors) -> Tensor:
        logits, given = outputs[output], data[labels]
        if given.rank == logits.rank:
            return _cross_entropy(logits, given.cast(logits))
        depth, values = logits.builder.integers([logits.shape[1]]), np.array([0, 1], np.float32)
        return _cross_entropy(logits, given.apply("OneHot", depth, logits.builder.constant(values), axis=1).cast(logits))

    return build


def sampled_cross_entropy(output: str) -> LossFunction:
    """Return the cross entropy against classes drawn from the network's own distribution: the largest of its outputs after these
    are perturbed by Gumbel noise (Gumbel 1954). Its squared gradients are the Fisher information (Kunstner et al. 2019, arXiv
    1905.12558)."""

    def build(outputs: Tensors, data: Tensors) -> Tensor:
        logits, noise = outputs[output], data[NOISE]
        return _cross_entropy(logits, (logits.cast(noise) + noise).apply("Hardmax", axis=1).cast(logits))

    return build


def _cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    shape = logits.shape
    found = (logits.apply("LogSoftmax", axis=1) * target).sum(range(len(shape)), keepdims=False)
    return found * -(shape[1] / max(1, math.prod(shape)))


def squared_norm(outputs: Tensors, data: Tensors) -> Tensor:
    """Return the sum of the squares of all floating-point outputs, averaged over samples. Raises UsageError without any."""
    found = [y for y in outputs.values() if y.dtype.kind == "f"]
    if not found:
        raise UsageError("--loss: no output of the network is floating-point; name a scalar tensor of the network as the loss")
    samples = next(iter(data.values())).shape[0]
    return total([(y * y).sum(range(y.rank), keepdims=False) for y in found]) * (1 / samples)


def choose(given: Any, model: onnx.ModelProto, shapes: Mapping[str, Shape], data: Mapping[str, NDArray[Any]]) -> Loss:
    """Return the loss that is asked for.

    given: None for cross entropy with the labels among data, without any against the network's own perturbed outputs, and where
    these are no logits [n, classes] the squared norm of the outputs; "cross-entropy" or "squared-norm"; the path of an ONNX model
    of a loss; the name of a scalar tensor of the network; or a function of outputs and data (see `LossFunction`).
    shapes: of the outputs. data: a sample. Raises UsageError where the loss does not fit.
    """
    if given is None or given == "cross-entropy":
        return _classification(given, model, shapes, data)
    if given == "squared-norm":
        return Loss("squared norm of the outputs", squared_norm)
    if isinstance(given, os.PathLike | onnx.ModelProto) or str(given).endswith(".onnx"):
        return Loss(f"the model {given}" if not isinstance(given, onnx.ModelProto) else "a model", appended(given))
    if callable(given):
        return Loss(getattr(given, "__name__", "a function"), given)
    return Loss(f"tensor '{given}'", named(str(given)))


def _classification(given: str | None, model: onnx.ModelProto, shapes: Mapping[str, Shape], data: Mapping[str, Any]) -> Loss:
    output = next((name for name, shape in shapes.items() if len(shape) >= 2 and shape[1] > 1), None)
    inputs = {value.name for value in model.graph.input}
    labels = next((name for name in LABELS if name in data and name not in inputs), None)
    if output is not None:
        logits = _before_softmax(model, output)
        if labels is not None:
            _check_labels(data[labels], shapes[output], labels)
            name, classes = f"cross entropy of '{output}' with {labels}", shapes[output][1]
            return Loss(name, cross_entropy(logits, labels), logits, labels, classes)
        if len(shapes[output]) == 2:
            name = f"cross entropy of '{output}' with classes drawn from it"
            return Loss(name, sampled_cross_entropy(logits), logits, noise=logits)
    if given is not None:
        raise UsageError("--loss cross-entropy: the network has no output of logits [n, classes] and the data no labels")
    return Loss("squared norm of the outputs", squared_norm)


def _before_softmax(model: onnx.ModelProto, output: str) -> str:
    """Return the tensor whose softmax an output is, or else the output."""
    for node in model.graph.node:
        if output in node.output and node.op_type == "Softmax":
            return str(node.input[0])
    return output


def _check_labels(sample: NDArray[Any], output: Shape, name: str) -> None:
    shape = sample.shape[1:]
    classes = sample.dtype.kind in "iu" and shape == output[2:]
    if not classes and not (sample.dtype.kind == "f" and shape == output[1:]):
        wanted = "x".join(map(str, output[2:])) or "one number"
        raise UsageError(
            f"--data: {name} of a sample are {sample.dtype} of shape {list(shape)}; classes as integers ({wanted}) or "
            f"probabilities of shape {list(output[1:])} are wanted; --loss names another loss"
        )


def check_range(labels: NDArray[Any], classes: int, name: str) -> None:
    """Raise UsageError where a label is no class."""
    if labels.dtype.kind in "iu" and labels.size and not 0 <= labels.min() <= labels.max() < classes:
        raise UsageError(f"--data: {name} go from {labels.min()} to {labels.max()}, but the network has {classes} classes")


def named(tensor: str) -> LossFunction:
    """Return the loss that a tensor of the network already is."""

    def build(outputs: Tensors, data: Tensors) -> Tensor:
        builder = next(iter(outputs.values())).builder
        if not builder.has(tensor):
            raise UsageError(f"--loss {tensor}: neither cross-entropy, squared-norm, an .onnx file nor a tensor of the network")
        return builder.tensor(tensor)

    return build


def appended(given: str | os.PathLike[str] | onnx.ModelProto) -> LossFunction:
    """Return the loss that an ONNX model computes: its inputs are outputs of the network and arrays of the data, by name, or its
    one input the one output; its one output is a scalar."""
    if isinstance(given, onnx.ModelProto):
        model = given
    else:
        try:
            model = onnx.load(given)
        except Exception as error:  # onnx raises what its parser raises
            raise UsageError(f"--loss {given}: cannot be read as an ONNX model: {error}") from error
    if len(model.graph.output) != 1:
        raise UsageError(f"--loss: a model of a loss has one output, not {len(model.graph.output)}")

    def build(outputs: Tensors, data: Tensors) -> Tensor:
        builder = next(iter(outputs.values())).builder
        known = {**data, **outputs}
        stored = {tensor.name for tensor in model.graph.initializer}
        names = [value.name for value in model.graph.input if value.name not in stored]
        if len(names) == len(outputs) == 1 and names[0] not in known:
            known[names[0]] = next(iter(outputs.values()))
        missing = [name for name in names if name not in known]
        if missing:
            raise UsageError(
                f"--loss: input '{missing[0]}' is neither an output of the network nor in the data: {', '.join(known)}"
            )
        return _inlined(
            in_single_precision(Source(at_least(model, OPSET), {})).model, {name: known[name].name for name in names}, builder
        )

    return build


def _inlined(model: onnx.ModelProto, names: dict[str, str], builder: Builder) -> Tensor:
    """Append the nodes of a model, the tensors in names called by these, others by new names, and return its output."""
    if len(list(graphs_in(model.graph))) > 1:
        raise ModelError("--loss: a model of a loss may have no control flow")
    for tensor in model.graph.initializer:
        names[tensor.name] = builder.constant(onnx.numpy_helper.to_array(tensor)).name
    for node in model.graph.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.input[:] = [names[name] if name else "" for name in node.input]
        names |= {name: builder.fresh(f"loss/{name}") for name in node.output if name}
        copy.output[:] = [names.get(name, "") for name in node.output]
        builder.append(copy)
    return builder.tensor(names[model.graph.output[0].name])


def scalar(loss: Any, named: str) -> Tensor:
    """Return loss if it is a scalar tensor. Raises UsageError else."""
    if not isinstance(loss, Tensor) or math.prod(loss.shape) != 1 or loss.dtype.kind != "f":
        what = f"a tensor of shape {list(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
        raise UsageError(f"--loss: {named} is {what}, no floating-point scalar")
    return loss
