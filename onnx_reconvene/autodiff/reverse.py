"""Reverse-mode differentiation of a network: a network that computes gradients as well."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import helper

from onnx_reconvene.autodiff.builder import FLOATS, Builder, Tensor, total
from onnx_reconvene.autodiff.node import STANDARD, Node, NoDerivativeError, is_standard, no_derivative, tensors_read
from onnx_reconvene.autodiff.paths import is_constant, quantizers_between
from onnx_reconvene.autodiff.prepare import prepare
from onnx_reconvene.autodiff.rewriting import rewrite
from onnx_reconvene.autodiff.rules import RULES
from onnx_reconvene.errors import UsageError
from onnx_reconvene.graph import Source, bodies_of, plain_source
from onnx_reconvene.inference import element_types, has_free_sizes, infer
from onnx_reconvene.shapes import Shape
from onnx_reconvene.sizes import input_sizes


@dataclass(frozen=True)
class Derivative:
    """A network that computes gradients beside its outputs. Holds no copies of weights."""

    source: Source
    outputs: Mapping[str, str]  # the name of the gradient of each tensor asked for
    taken_as_zero: tuple[str, ...]  # why, for each node whose derivative counts as zero for want of a rule


def differentiate(
    graph: gs.Graph,
    wrt: Sequence[str] | None = None,
    loss: str | None = None,
    input_shape: Mapping[str, Sequence[int]] | None = None,
    missing: str = "error",
) -> Derivative:
    """Return the network of graph with the gradients of a loss appended; see `onnx_reconvene.autodiff`."""
    if missing not in ("error", "zero"):
        raise UsageError(f"missing='{missing}' is neither 'error' nor 'zero'")
    sizes = input_sizes(graph, input_shape or {})
    source = prepare(plain_source(graph))
    builder = Builder(source, sizes if has_free_sizes(graph) else {}, _behind_bodies(graph, sizes))
    names = _weights(source.model) if wrt is None else list(dict.fromkeys(wrt))
    _check(builder, names)
    rewrite(builder, [*names, *([loss] if loss else [])])
    sweep = _Sweep(builder, names, _seeds(builder, loss), missing)
    sweep.run()
    outputs = {name: _output(builder, name, sweep.gradient(name)) for name in names}
    return Derivative(
        Source(_assembled(builder, outputs.values()), source.arrays), outputs, tuple(dict.fromkeys(sweep.taken_as_zero))
    )


def _behind_bodies(graph: gs.Graph, sizes: Mapping[str, Shape]) -> dict[str, onnx.TypeProto]:
    """Return the types of what control flow and operators of other domains return, which a builder does not look for."""
    nodes = [node for node in graph.nodes if bodies_of(node) or node.domain not in (None, *STANDARD)]
    if not nodes:
        return {}
    shapes, kinds = infer(graph, sizes)[0], element_types(graph, sizes)
    names = [tensor.name for node in nodes for tensor in node.outputs if tensor.name in shapes and tensor.name in kinds]
    return {n: helper.make_tensor_type_proto(helper.np_dtype_to_tensor_dtype(kinds[n]), shapes[n]) for n in names}


def _weights(model: onnx.ModelProto) -> list[str]:
    return [tensor.name for tensor in model.graph.initializer if tensor.data_type in FLOATS]


def _check(builder: Builder, names: Iterable[str]) -> None:
    for name in names:
        if not builder.has(name):
            raise UsageError(f"wrt: the network has no tensor '{name}'")
        if not builder.is_float(name):
            raise UsageError(f"wrt: tensor '{name}' holds no floating-point numbers")


def _seeds(builder: Builder, loss: str | None) -> dict[str, Tensor]:
    """Return the gradients that the backward sweep starts from: one for the loss, or for each element of the outputs."""
    if loss is None:
        names = [output.name for output in builder.model.graph.output if builder.is_float(output.name)]
        if not names:
            raise UsageError("loss: the network has no floating-point output to sum; name a tensor")
    else:
        if not builder.has(loss):
            raise UsageError(f"loss: the network has no tensor '{loss}'")
        shape = builder.tensor(loss).shape
        if np.prod(shape) != 1 or not builder.is_float(loss):
            raise UsageError(f"loss: tensor '{loss}' of shape {list(shape)} is no floating-point scalar")
        names = [loss]
    tensors = [builder.tensor(name) for name in names]
    return {tensor.name: builder.full(tensor.shape, 1, tensor.dtype) for tensor in tensors}


class _Sweep:
    """Walks a network backwards and collects, per tensor, what its readers contribute to its gradient."""

    def __init__(self, builder: Builder, wrt: Iterable[str], seeds: Mapping[str, Tensor], missing: str) -> None:
        self._builder = builder
        self._missing = missing
        self._nodes = list(builder.model.graph.node)
        self._contributions: dict[str, list[Tensor]] = {name: [seed] for name, seed in seeds.items()}
        self._varying = builder.varying = self._depending_on(wrt)
        self.taken_as_zero: list[str] = []
        for node in quantizers_between(self._nodes, wrt, seeds):
            self._refuse(no_derivative(node))

    def _depending_on(self, wrt: Iterable[str]) -> set[str]:
        """Return the tensors through which the gradients of those in wrt flow."""
        varying = set(wrt)
        for node in self._nodes:
            if not is_constant(node) and not varying.isdisjoint(tensors_read(node)):
                varying.update(name for name in node.output if name and self._builder.is_float(name))
        return varying

    def run(self) -> None:
        """Sweep from the last node to the first."""
        for proto in reversed(self._nodes):
            if is_constant(proto) or self._varying.isdisjoint(tensors_read(proto)):
                continue
            gradients = [self.gradient(name) for name in proto.output]
            if any(gradient is not None for gradient in gradients):
                self._visit(proto, gradients)

    def gradient(self, name: str) -> Tensor | None:
        """Return the sum of the contributions to the gradient of a tensor, None if there are none."""
        found = self._contributions.get(name)
        if not found or name not in self._varying:
            return None
        if len(found) > 1:
            found[:] = [total(found)]
        return found[0]

    def _visit(self, proto: onnx.NodeProto, gradients: Sequence[Tensor | None]) -> None:
        try:
            contributions = self._apply(proto, gradients)
        except NoDerivativeError as error:
            self._refuse(error)
            return
        for name, contribution in zip(proto.input, contributions, strict=True):
            if name in self._varying and contribution is not None:
                tensor = self._builder.tensor(name)
                fitting = contribution.cast(tensor).fit(tensor.shape)
                self._contributions.setdefault(name, []).append(fitting)

    def _refuse(self, error: NoDerivativeError) -> None:
        if self._missing == "error":
            raise error
        self.taken_as_zero.append(str(error))

    def _apply(self, proto: onnx.NodeProto, gradients: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
        node = Node(proto, self._builder)
        rule = RULES.get(proto.op_type) if is_standard(proto) else None
        if rule is None:
            raise node.no_derivative()
        return rule(node, *gradients)


def _output(builder: Builder, name: str, gradient: Tensor | None) -> str:
    """Give the gradient of a tensor its name; the gradient of what the loss does not depend on is zero."""
    if gradient is None:
        tensor = builder.tensor(name)
        gradient = builder.full(tensor.shape, 0, tensor.dtype)
    taken = f"{name}.grad"
    while builder.has(taken):  # in a network of gradients
        taken += ".grad"
    return builder.copy(gradient, taken).name


def _assembled(builder: Builder, outputs: Collection[str]) -> onnx.ModelProto:
    """Return the model with those of the appended nodes that its new outputs need."""
    model = builder.model
    model.ir_version = max(model.ir_version, 8)
    needed, kept = set(outputs), []
    for node in reversed(builder.nodes):
        if not needed.isdisjoint(node.output):
            needed.update(node.input)
            kept.append(node)
    model.graph.node.extend(reversed(kept))
    del model.graph.value_info[:]
    model.graph.value_info.extend(builder.stated())
    for value in model.graph.output:
        value.type.CopyFrom(builder.type_of(value.name))
    model.graph.output.extend(helper.make_value_info(name, builder.type_of(name)) for name in outputs)
    return model
