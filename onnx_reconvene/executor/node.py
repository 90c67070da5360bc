"""One node of a network as an execution rule sees it, and what the table of rules says of its operator."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import helper
from torch import Tensor

from onnx_reconvene.errors import ModelError
from onnx_reconvene.names import name_of
from onnx_reconvene.plain import bodies, graphs_in

STANDARD = ("", "ai.onnx")

Settings = list[Any]  # the elements of an input that is read on the host, in a row

# Takes the inputs of a node, None for one that is left out, and returns its output, or a tuple of them.
Function = Callable[..., Any]
Rule = Callable[["Node"], Function]


@dataclass(frozen=True)
class Operator:
    """How an operator is executed."""

    rule: Rule
    host: Collection[int] = ()  # inputs that are settings, no weights: axes, sizes, bounds; read on the host, may decide on shapes
    scalars: Collection[int] = ()  # inputs that are settings where they are constant scalars
    varies: bool = False  # whether shapes of outputs depend on data other than these
    random: bool = False  # whether results differ from run to run


class Node:
    """A node, its attributes with the defaults of its operator, and in which mode it is to run."""

    def __init__(
        self, proto: onnx.NodeProto, version: int, training: bool, stored: Collection[str], compile_body: Callable[..., Function]
    ) -> None:
        self.proto = proto
        self.version = version  # of the operator set
        self.training = training
        self.inputs: list[str] = list(proto.input)
        self.outputs: list[str] = list(proto.output)
        self.captured = sorted(_captured(proto))
        self._stored = stored
        self._compile_body = compile_body
        self._attributes = _attributes(proto, version)

    @property
    def op(self) -> str:
        """The operator; those of other domains than the standard are called domain.name."""
        return operator_name(self.proto)

    @property
    def reads(self) -> list[str]:
        """The tensors that the function of this node takes: its inputs, then those that its bodies capture."""
        return self.inputs + self.captured

    def has_input(self, index: int) -> bool:
        """Return True if an input that may be left out is there."""
        return index < len(self.inputs) and bool(self.inputs[index])

    def is_stored(self, index: int) -> bool:
        """Return True if an input is a tensor of the module: a weight or a running statistic."""
        return self.inputs[index] in self._stored

    def attribute(self, name: str, default: Any = None) -> Any:
        """Return an attribute, or what the operator says it is by default, else the given default."""
        return self._attributes.get(name, default)

    def body(self, name: str) -> Function:
        """Return the function of a body of control flow: (captured, *inputs) -> outputs; captured holds tensors by name."""
        return self._compile_body(self.attribute(name))

    def unsupported(self, what: str) -> ModelError:
        """Return the error to raise where the rule of this operator does not cover what the node asks for."""
        return ModelError(f"node '{name_of(self.proto)}': {self.op} with {what} cannot be executed in torch")


def operator_name(proto: onnx.NodeProto) -> str:
    """Return the name under which the table of rules has the operator of a node."""
    return str(proto.op_type if proto.domain in STANDARD else f"{proto.domain}.{proto.op_type}")


def _attributes(proto: onnx.NodeProto, version: int) -> dict[str, Any]:
    """Return the attributes of a node by name, those that the operator has by default among them."""
    known = onnx.defs.has(proto.op_type, version, proto.domain)
    definitions = onnx.defs.get_schema(proto.op_type, version, proto.domain).attributes.values() if known else ()
    defaults = [definition.default_value for definition in definitions if definition.default_value.type]
    values = {attribute.name: helper.get_attribute_value(attribute) for attribute in (*defaults, *proto.attribute)}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in values.items()}


def _captured(proto: onnx.NodeProto) -> set[str]:
    """Return the tensors that the bodies of a node read from outside."""
    graphs = [graph for body in bodies(proto) for graph in graphs_in(body)]
    made = {name for graph in graphs for node in graph.node for name in node.output}
    made |= {value.name for graph in graphs for value in graph.input}
    read = {name for graph in graphs for node in graph.node for name in node.input}
    read |= {value.name for graph in graphs for value in graph.output}
    return read - made - {""}


def with_settings(operator: Operator, function: Function) -> Function:
    """Return the function of a node, made to take tensors for the inputs that it reads on the host, as well as their elements."""
    if not operator.host:
        return function

    def run(*operands: Tensor | Settings | None) -> Any:
        return function(*[elements(x) if index in operator.host else x for index, x in enumerate(operands)])

    return run


def elements(tensor: Tensor | Settings | None) -> Settings | None:
    """Return the elements of a tensor in a row, of what is no tensor itself."""
    return tensor.reshape(-1).tolist() if isinstance(tensor, Tensor) else tensor
