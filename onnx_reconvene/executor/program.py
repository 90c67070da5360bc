"""A network compiled into a list of calls.

Every node becomes a function once. Then, for each combination of input shapes, a plan is made: one run finds out which tensors
follow from constants and shapes alone. These are kept as values; the other nodes are the steps of the plan.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import onnx
import torch
from torch import Tensor
from torch.nn import Parameter

from onnx_reconvene.errors import ModelError
from onnx_reconvene.executor.node import STANDARD, Function, Node, Operator, Settings, elements, operator_name, with_settings
from onnx_reconvene.executor.rules import RULES, UNSUPPORTED
from onnx_reconvene.names import name_of

Step = tuple[Function, list[int], list[int], list[int]]  # function, slots read, slots written, slots read for the last time
Watch = Callable[[Tensor], Tensor]
Operand: TypeAlias = Tensor | Settings | None
MISSING, UNUSED = 0, 1  # the slots of inputs left out, and of outputs without a name
SHAPES = ("Shape", "Size")


@dataclass(frozen=True)
class Call:
    """A node and its function."""

    node: Node
    operator: Operator
    function: Function


@dataclass(frozen=True)
class Plan:
    """The steps of a network for inputs of certain shapes. Tensors lie in numbered slots."""

    values: list[Operand]  # by slot: the constants
    steps: list[Step]
    slots: dict[str, int]  # by name: of all tensors but constants

    def run(self, given: Mapping[str, Tensor], wanted: Sequence[str], watch: Mapping[str, Watch]) -> list[Tensor]:
        """Return the tensors called wanted, inputs and weights being given; what goes by a name in watch passes through its
        function on the way."""
        values = self.values.copy()
        for name, tensor in given.items():
            values[self.slots[name]] = watch[name](tensor) if name in watch else tensor
        watched = {self.slots[name]: function for name, function in watch.items()}
        kept = {self.slots[name] for name in wanted}
        for function, reads, writes, dead in self.steps:
            results = function(*[values[slot] for slot in reads])
            if not isinstance(results, tuple):
                results = (results,)
            for slot, result in zip(writes, results, strict=False):
                values[slot] = watched[slot](result) if slot in watched else result
            for slot in dead:
                if slot not in kept:
                    values[slot] = None
        return [values[self.slots[name]] for name in wanted]


class Program:
    """The functions of the nodes of a network, for training or for inference."""

    def __init__(self, model: onnx.ModelProto, training: bool, stored: Collection[str]) -> None:
        self._versions = {o.domain if o.domain not in STANDARD else "": o.version for o in model.opset_import}
        self._training = training
        self._stored = stored
        self._outputs = [value.name for value in model.graph.output]
        self._calls = self._compile(model.graph.node)

    def _compile(self, nodes: Iterable[onnx.NodeProto]) -> list[Call]:
        calls = []
        for proto in nodes:
            operator = operator_of(proto)
            version = self._versions.get("" if proto.domain in STANDARD else proto.domain, 1)
            node = Node(proto, version, self._training, self._stored, self._body)
            calls.append(Call(node, operator, with_settings(operator, operator.rule(node))))
        return calls

    def _body(self, graph: onnx.GraphProto) -> Function:
        """Return the function of a body of control flow, which is run node by node."""
        calls, inputs = self._compile(graph.node), [value.name for value in graph.input]
        outputs = [value.name for value in graph.output]

        def run(captured: Mapping[str, Tensor], *given: Tensor) -> tuple[Tensor, ...]:
            values: dict[str, Tensor | None] = {"": None, **captured, **dict(zip(inputs, given, strict=True))}
            for call in calls:
                values |= _results(call, [values[name] for name in call.node.reads])
            return tuple(values[name] for name in outputs)

        return run

    def plan(self, inputs: Mapping[str, Tensor], stored: Mapping[str, Tensor], constants: Mapping[str, Tensor]) -> Plan:
        """Return the plan for inputs of these shapes; stored tensors are the weights and running statistics.

        Raises ModelError where a node cannot be run.
        """
        device = next(iter([*stored.values(), *inputs.values()]), torch.empty(0)).device
        weights = {n: t if isinstance(t, Parameter) else t.clone() for n, t in stored.items()}  # a run moves running statistics
        values: dict[str, Tensor | None] = {"": None, **constants, **inputs, **weights}
        fixed = {"", *constants}  # tensors of known values
        varying: set[str] = set()  # tensors of shapes that depend on data
        steps: list[Call] = []
        last = {name: call for call in self._calls for name in call.node.reads}
        with torch.inference_mode(False), torch.no_grad(), torch.random.fork_rng(devices=[]):  # constants are for any later use
            for call in self._calls:
                results = _attempt(call, _operands(call, values, fixed, device))
                values |= results
                if _is_fixed(call, fixed, varying):
                    fixed.update(results)
                    continue
                steps.append(call)
                if _varies(call, fixed, varying):
                    varying.update(results)
                for name in {name for name in call.node.reads if last[name] is call} - fixed:
                    del values[name]
        return _Layout(self._outputs, {**inputs, **stored}, values, fixed, device).plan(steps)


def operator_of(proto: onnx.NodeProto) -> Operator:
    """Return what the table says of the operator of a node. Raises ModelError where it says nothing."""
    name = operator_name(proto)
    if name not in RULES:
        reason = UNSUPPORTED.get(name, "it has no rule")
        raise ModelError(f"node '{name_of(proto)}': operator {name} cannot be executed in torch: {reason}")
    return RULES[name]


def _operands(call: Call, values: Mapping[str, Tensor | None], fixed: Collection[str], device: torch.device) -> list[Tensor | None]:
    """Return what the function of a node takes. Nodes that read nothing but constants are run on the host."""
    operands = [values[name] for name in call.node.reads]
    if all(name in fixed for name in call.node.reads):
        return operands
    return [x if x is None or index in call.operator.host else x.to(device) for index, x in enumerate(operands)]


def _results(call: Call, operands: Sequence[Tensor | None]) -> dict[str, Tensor]:
    results = call.function(*operands)
    results = results if isinstance(results, tuple) else (results,)
    return {name: result for name, result in zip(call.node.outputs, results, strict=False) if name}


def _attempt(call: Call, operands: Sequence[Tensor | None]) -> dict[str, Tensor]:
    try:
        return _results(call, operands)
    except (RuntimeError, ValueError, IndexError, TypeError, NotImplementedError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(f"node '{name_of(call.node.proto)}': {call.node.op} cannot be executed: {reason}") from error


def _is_fixed(call: Call, fixed: Collection[str], varying: Collection[str]) -> bool:
    """Return True if the outputs of a node are the same at every run with inputs of the same shapes."""
    if call.operator.random:
        return False
    if call.node.op in SHAPES:
        return call.node.inputs[0] not in varying
    return all(name in fixed for name in call.node.reads)


def _varies(call: Call, fixed: Collection[str], varying: Collection[str]) -> bool:
    """Return True if the shapes of the outputs of a node may differ between runs with inputs of the same shapes."""
    settings = [name for index, name in enumerate(call.node.inputs) if index in call.operator.host]
    read = [name for name in call.node.reads if name in varying]
    return call.operator.varies or bool(read) or any(name not in fixed for name in settings)


class _Layout:
    """Gives every tensor of a plan a slot."""

    def __init__(
        self,
        outputs: Sequence[str],
        given: Iterable[str],
        values: Mapping[str, Tensor | None],
        fixed: Collection[str],
        device: torch.device,
    ) -> None:
        self._outputs, self._values, self._fixed, self._device = outputs, values, fixed, device
        self._constants: list[Operand] = [None, None]
        self._slots: dict[str, int] = {}
        self._places: dict[tuple[str, bool], int] = {("", True): MISSING, ("", False): MISSING}
        for name in given:
            self._slots[name] = self._slot(None)

    def _slot(self, value: Operand) -> int:
        self._constants.append(value)
        return len(self._constants) - 1

    def _read(self, name: str, on_host: bool) -> int:
        """Return the slot of a tensor that is read; constants that are no settings move to the device of the weights."""
        if name not in self._fixed:
            return self._slots[name]
        place = (name, on_host)
        if place not in self._places:
            value = self._values[name]
            assert value is not None
            self._places[place] = self._slot(elements(value) if on_host else value.to(self._device))
        return self._places[place]

    def _is_setting(self, call: Call, index: int) -> bool:
        """Return True if a function takes the elements of its input at index where these are constant."""
        value = self._values.get(call.node.reads[index]) if index in call.operator.scalars else None
        return index in call.operator.host or (value is not None and not value.dim())

    def _write(self, name: str) -> int:
        if not name:
            return UNUSED
        self._slots[name] = self._slot(None)
        return self._slots[name]

    def plan(self, calls: Sequence[Call]) -> Plan:
        """Return the plan of these calls."""
        steps: list[Step] = []
        for call in calls:
            reads = [self._read(name, self._is_setting(call, index)) for index, name in enumerate(call.node.reads)]
            writes = [self._write(name) for name in call.node.outputs]
            steps.append((call.function, reads, writes, []))
        for name in self._outputs:
            if name in self._fixed:
                self._slots[name] = self._read(name, on_host=False)
        self._release(steps)
        return Plan(self._constants, steps, self._slots)

    def _release(self, steps: Iterable[Step]) -> None:
        """Note after which step each tensor is not read again."""
        later = {self._slots[name] for name in self._outputs}
        for _, reads, writes, dead in reversed(list(steps)):
            tensors = {slot for slot in [*reads, *writes] if self._constants[slot] is None and slot != MISSING}
            dead.extend(tensors - later)
            later |= tensors
