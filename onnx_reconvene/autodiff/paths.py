"""Where gradients end: at operators whose results go in steps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from onnx import NodeProto

from onnx_reconvene.autodiff.builder import Builder
from onnx_reconvene.autodiff.node import is_quantizer, is_standard, no_derivative, tensors_read
from onnx_reconvene.autodiff.rules import CONSTANT
from onnx_reconvene.autodiff.rules.elementwise import is_step
from onnx_reconvene.plain import bodies, nodes_in

SHAPES = ("Shape", "Size")


def is_constant(node: NodeProto) -> bool:
    """Return True if the derivative of a node is zero wherever there is one."""
    return is_standard(node) and (node.op_type in CONSTANT or is_step(node))


def through_steps_alone(builder: Builder, sources: Iterable[str], target: str) -> list[str]:
    """Return those of sources on whose values target depends, but whose gradients are zero: rounding, signs, comparisons or
    integers are on every way there."""
    wanted, sloped = {target}, {target}
    for node in reversed(builder.model.graph.node):
        if node.op_type not in SHAPES and not wanted.isdisjoint(node.output):
            wanted |= tensors_read(node)
        if not is_constant(node) and any(name in sloped and builder.is_float(name) for name in node.output):
            sloped |= tensors_read(node)
    return [name for name in sources if name in wanted and name not in sloped]


def check_quantizers(nodes: Sequence[NodeProto], sources: Iterable[str], targets: Iterable[str]) -> None:
    """Raise NoDerivativeError where gradients would have to pass a quantizer; see `quantizers_between`."""
    for node in quantizers_between(nodes, sources, targets):
        raise no_derivative(node)


def quantizers_between(nodes: Sequence[NodeProto], sources: Iterable[str], targets: Iterable[str]) -> list[NodeProto]:
    """Return the quantizers at which the way from targets back to sources ends, those in bodies included.

    nodes are in the order in which they run.
    """
    varying, wanted, found = set(sources), set(targets), []
    for node in nodes:
        if not is_constant(node) and not varying.isdisjoint(tensors_read(node)):
            varying.update(filter(None, node.output))
    for node in reversed(nodes):
        if is_constant(node) or varying.isdisjoint(tensors_read(node)) or wanted.isdisjoint(node.output):
            continue
        quantizers = [inner for inner in _within(node) if is_quantizer(inner)]
        found += quantizers
        if not quantizers:
            wanted.update(filter(None, tensors_read(node)))
    return found


def _within(node: NodeProto) -> Iterator[NodeProto]:
    """Yield a node and those of its bodies."""
    yield node
    for body in bodies(node):
        yield from nodes_in(body)
