"""One node of a network as a derivative rule sees it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import onnx
from onnx import helper

from onnx_reconvene.autodiff.builder import Builder, Tensor
from onnx_reconvene.errors import ModelError
from onnx_reconvene.plain import bodies, graphs_in

STANDARD = ("", "ai.onnx")

# Takes a node and the gradient of each of its outputs (None where it is zero), returns the gradient of each of its inputs (None
# where it is zero, or the input has none). A gradient may have any shape that broadcasts to or from that of its input.
Rule = Callable[..., Sequence[Tensor | None]]


class NoDerivativeError(ModelError):
    """A derivative is asked for that no rule gives; the text names the node and its operator."""


class Node:
    """A node, its inputs and outputs as tensors, its attributes with the defaults of its operator."""

    def __init__(self, proto: onnx.NodeProto, builder: Builder) -> None:
        self.proto = proto
        self.builder = builder
        self.inputs = [builder.tensor(name) if name else None for name in proto.input]
        self._attributes = {a.name: helper.get_attribute_value(a) for a in proto.attribute}

    @property
    def op(self) -> str:
        """The operator."""
        return str(self.proto.op_type)

    def __getitem__(self, index: int) -> Tensor:
        """Return an input that the operator demands."""
        tensor = self.inputs[index]
        assert tensor is not None
        return tensor

    def optional(self, index: int) -> Tensor | None:
        """Return an input that may be left out."""
        return self.inputs[index] if index < len(self.inputs) else None

    @property
    def y(self) -> Tensor:
        """The first output."""
        return self.builder.tensor(self.proto.output[0])

    def output(self, index: int) -> Tensor:
        """Return an output; one that the node did not have before is added to it."""
        return self.builder.tensor(self.builder.add_output(self.proto, index))

    def attribute(self, name: str) -> Any:
        """Return an attribute, or its default, None where there is neither."""
        value = self._attributes.get(name)
        definitions = self.builder.schema(self.proto).attributes
        if value is None and name in definitions and definitions[name].default_value.type:
            value = helper.get_attribute_value(definitions[name].default_value)
        return value.decode() if isinstance(value, bytes) else value

    @property
    def axis(self) -> int:
        """The attribute of that name, an axis of the first input, >= 0."""
        return int(self.attribute("axis")) % self[0].rank

    def no_derivative(self, what: str = "") -> NoDerivativeError:
        """Return the error to raise where the derivative of this node, or of what it is used with, is unknown."""
        return no_derivative(self.proto, what)


def is_standard(node: onnx.NodeProto) -> bool:
    """Return True if an operator is one of the standard domain."""
    return node.domain in STANDARD


def is_quantizer(node: onnx.NodeProto) -> bool:
    """Return True if an operator, of whatever domain, rounds real numbers to the integers that stand for them."""
    return node.op_type in ("DynamicQuantizeLinear", "QGemm", "QuantizeLinear") or node.op_type.startswith("QLinear")


def no_derivative(node: onnx.NodeProto, what: str = "") -> NoDerivativeError:
    """Return the error to raise where the derivative of a node, or of what it is used with, is unknown or of no use."""
    operator = node.op_type if is_standard(node) else f"{node.domain}.{node.op_type}"
    why = ", which rounds: take the network before it was quantized" if is_quantizer(node) else what and f" with {what}"
    return NoDerivativeError(f"node '{node.name or node.output[0]}': no derivative rule for operator {operator}{why}")


def tensors_read(node: onnx.NodeProto) -> set[str]:
    """Return the tensors that node reads, those that its subgraphs capture among them."""
    names = set(node.input)
    for graph in [graph for body in bodies(node) for graph in graphs_in(body)]:
        names |= {name for inner in graph.node for name in inner.input} | {value.name for value in graph.output}
    return names
