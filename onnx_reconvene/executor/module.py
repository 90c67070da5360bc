"""A network as a torch module, and the weights of such a module back in the network."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import torch
from torch import Tensor, nn

from onnx_reconvene.bridges import open_model
from onnx_reconvene.errors import ModelError, UsageError
from onnx_reconvene.executor.node import STANDARD
from onnx_reconvene.executor.prepare import prepare
from onnx_reconvene.executor.program import Plan, Program, Watch, operator_of
from onnx_reconvene.executor.values import as_data, proto_to_tensor, to_array, to_tensor
from onnx_reconvene.files import Output, check_spares, save
from onnx_reconvene.graph import Source, every_tensor, plain_source, without_weights
from onnx_reconvene.names import name_of
from onnx_reconvene.plain import nodes_in

SHOWN = 40  # layers that are printed
Kinds = tuple[tuple[str, tuple[int, ...], torch.dtype, torch.device], ...]
PLANS = 16  # kept for this many combinations of input shapes
STATISTICS = (3, 4)  # inputs of BatchNormalization: running mean and variance


class Scope(nn.Module):
    """Holds the tensors whose names begin alike up to a dot; torch puts the names together again."""


class GraphModule(nn.Module):
    """An ONNX network. Its parameters, and its buffers (running statistics), have the names of the initializers.

    Integers, and what an operator reads as a setting (bounds of Clip, scales of Resize, a scalar exponent of Pow), are constants of
    the network, neither parameters nor buffers.
    """

    def __init__(self, source: Source) -> None:
        super().__init__()
        self.nodes = list(source.model.graph.node)  # as given
        self._model = prepare(source.model)
        for value in self._model.graph.input:
            if value.type.tensor_type.elem_type in (onnx.TensorProto.UNDEFINED, onnx.TensorProto.STRING):
                raise ModelError(f"input '{value.name}' is no tensor of numbers, and torch has no others")
        stored = {t.name for t in source.model.graph.initializer}
        self._inputs = [value.name for value in self._model.graph.input if value.name not in stored]
        self._outputs = [value.name for value in self._model.graph.output]
        self._constants: dict[str, Tensor] = {}
        self._places: dict[str, tuple[nn.Module, str, str]] = {}  # where each parameter and buffer is
        self._programs: dict[bool, Program] = {}
        self._plans: OrderedDict[Any, Plan] = OrderedDict()
        settings, statistics = _settings(self._model), _statistics(self._model)
        for proto in source.model.graph.initializer:
            array = source.arrays.get(proto.name)
            tensor = proto_to_tensor(proto) if array is None else to_tensor(array)
            if not tensor.is_floating_point() or proto.name in settings:
                self._constants[proto.name] = tensor
            elif proto.name in statistics:
                self._store(proto.name, tensor, "_buffers")
            else:
                self._store(proto.name, nn.Parameter(tensor), "_parameters")
        self._program()

    def _store(self, name: str, tensor: Tensor, kind: str) -> None:
        """Enter a parameter or buffer. torch refuses names that its own attributes have, so they go past its checks."""
        *path, leaf = name.split(".")
        scope: nn.Module = self
        for part in path:
            scope = scope._modules.setdefault(part, Scope())
        vars(scope)[kind][leaf] = tensor
        self._places[name] = scope, kind, leaf

    def __repr__(self) -> str:
        """Return one line per layer with weights, with the shapes of these; of a deep network the first and the last."""
        stored = self.stored()
        lines = []
        for node in nodes_in(self._model.graph):
            weights = [f"{name} {list(stored[name].shape)}" for name in node.input if name in stored]
            if weights:
                lines.append(f"  ({name_of(node)}): {node.op_type}({', '.join(weights)})")
        if len(lines) > SHOWN:
            lines[SHOWN // 2 : -SHOWN // 2] = [f"  ... {len(lines) - SHOWN} more layers ..."]
        head = f"GraphModule({', '.join(self._inputs)} -> {', '.join(self._outputs)}; {len(self.nodes)} nodes"
        return "\n".join([head, *lines]) + ("\n)" if lines else ")")

    def __getstate__(self) -> dict[str, Any]:
        """Return what copies and pickles hold: all but what is compiled."""
        return {**self.__dict__, "_programs": {}, "_plans": OrderedDict()}

    def _program(self) -> Program:
        if self.training not in self._programs:
            self._programs[self.training] = Program(self._model, self.training, self._places.keys())
        return self._programs[self.training]

    def stored(self) -> dict[str, Tensor]:
        """Return the parameters and buffers by name."""
        return {name: vars(scope)[kind][leaf] for name, (scope, kind, leaf) in self._places.items()}

    def forward(self, *inputs: Tensor, **named: Tensor) -> Any:
        """Return the output of the network, or a tuple of them; inputs are given in order or by name.

        Raises UsageError where these are not those of the network, ModelError where their shapes do not fit it.
        """
        outputs = self.run(self._feeds(inputs, named), self._outputs)
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def run(
        self,
        feeds: Mapping[str, Tensor],
        wanted: Sequence[str],
        watch: Mapping[str, Watch] | None = None,
    ) -> list[Tensor]:
        """Return the tensors called wanted. Those with a name in watch pass through its function where they arise.

        Raises UsageError for names that are not there, or are those of constants.
        """
        stored = self.stored()
        plan = self._plan(feeds, stored)
        for name in {*wanted, *(watch or {})} - plan.slots.keys():
            raise UsageError(f"the network has no tensor '{name}', or a constant one")
        return plan.run({**feeds, **stored}, wanted, watch or {})

    def _plan(self, feeds: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> Plan:
        kinds = tuple((name, tuple(tensor.shape), tensor.dtype, tensor.device) for name, tensor in feeds.items())
        key = (self.training, *kinds)
        if torch.compiler.is_dynamo_compiling():
            self._prepare(kinds)
            return self._plans[key]
        if key not in self._plans:
            with as_data(feeds, stored) as (inputs, weights):
                self._plans[key] = self._program().plan(inputs, weights, self._constants)
            if len(self._plans) > PLANS:
                self._plans.popitem(last=False)
        self._plans.move_to_end(key)
        return self._plans[key]

    @torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
    def _prepare(self, kinds: Kinds) -> None:
        """Make the plan for inputs of these names, shapes, types and devices, of which a compiler is to see the steps alone."""
        self._plan({name: torch.zeros(shape, dtype=dtype, device=on) for name, shape, dtype, on in kinds}, self.stored())

    def _feeds(self, inputs: Sequence[Tensor], named: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if len(inputs) > len(self._inputs):
            raise UsageError(f"{len(inputs)} inputs are given, the network has {len(self._inputs)}: {', '.join(self._inputs)}")
        feeds = {**dict(zip(self._inputs, inputs, strict=False)), **named}
        for name in feeds.keys() ^ set(self._inputs):
            raise UsageError(f"input '{name}' " + ("is not given" if name in self._inputs else "is not one of the network"))
        return feeds

    @property
    def inputs(self) -> list[str]:
        """The names of the inputs of the network."""
        return list(self._inputs)

    @property
    def outputs(self) -> list[str]:
        """The names of the outputs of the network."""
        return list(self._outputs)


def _settings(model: onnx.ModelProto) -> set[str]:
    """Return the tensors that operators read as settings, and nowhere as data."""
    scalars = {tensor.name for tensor in model.graph.initializer if not tensor.dims}
    settings: set[str] = set()
    data = {value.name for value in model.graph.output}
    for node in nodes_in(model.graph):
        operator = operator_of(node)
        for index, name in enumerate(node.input):
            is_setting = index in operator.host or (index in operator.scalars and name in scalars)
            (settings if is_setting else data).add(name)
    return settings - data


def _statistics(model: onnx.ModelProto) -> set[str]:
    """Return the running statistics of batch normalizations, also those read through Identity: exporters store equal ones once."""
    names: set[str] = set()
    for node in reversed(list(nodes_in(model.graph))):
        if node.op_type == "BatchNormalization" and node.domain in STANDARD:
            names.update(node.input[index] for index in STATISTICS)
        if node.op_type == "Identity" and node.output[0] in names:
            names.add(node.input[0])
    return names


def to_torch(model: Any) -> GraphModule:
    """Return a network as a torch module that computes the same and can be trained; it is in inference mode.

    model: as for `prune`; it is not modified. Parameters, and buffers for the running statistics of BatchNormalization, have the
    names of the floating-point initializers. `train()` and `eval()` switch BatchNormalization and Dropout as in torch. Sizes of
    inputs are free where the network leaves them free. Layers that read the same initializer share it, and are trained as one.
    Raises ModelError where an operator cannot be executed in torch.
    """
    graph, _ = open_model(model)
    return GraphModule(plain_source(graph)).eval()


def from_torch(model: Any, module: nn.Module, output: Output | None = None) -> Any:
    """Return model with the weights of a module that came from it by `to_torch`; nothing else differs, in any field.

    model: as for `prune`; it is not modified, and the result is of its type (a ModelProto for a path, bytes or a file). output: a
    path or a binary file to write the result to. Weights keep the element types they have in model. Raises UsageError where the
    module has weights that model lacks, or of other shapes, and where output cannot be written.
    """
    graph, back = open_model(model)
    state = module.state_dict()
    for name in state.keys() - {tensor.name for tensor in graph.source.model.graph.initializer}:
        raise UsageError(f"the network has no weight '{name}', which the module has")
    for name, tensor in every_tensor(graph).items():
        if name in state and isinstance(tensor, gs.Constant):
            _put(tensor, state[name])
    if output is not None:
        check_spares(output, graph.source)
        save(without_weights(graph), output)
    return back(graph)


def _put(constant: gs.Constant, tensor: Tensor) -> None:
    before = np.asarray(constant.values)
    if tuple(tensor.shape) != before.shape:
        raise UsageError(f"weight '{constant.name}' is {list(before.shape)} in the network, {list(tensor.shape)} in the module")
    values = to_array(tensor, like=before)
    if values.tobytes() != before.tobytes():
        constant.values = np.ascontiguousarray(values).reshape(before.shape)
