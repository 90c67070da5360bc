"""Brings a network to where the rules apply: an operator that has no rule, but a definition in terms of others, becomes these."""

from __future__ import annotations

import onnx
from onnx import defs, helper, inliner

from onnx_reconvene.executor.node import STANDARD
from onnx_reconvene.executor.rules import RULES


def prepare(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model of the same initializers and outputs, whose operators have rules as far as they have definitions."""
    version = next((o.version for o in model.opset_import if o.domain in STANDARD), 1)
    defined = [node for node in model.graph.node if node.domain in STANDARD and is_defined(node.op_type, version)]
    if not defined:
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for node in copy.graph.node:  # the inliner leaves out defaults
        if node.domain in STANDARD and is_defined(node.op_type, version):
            given = {attribute.name for attribute in node.attribute}
            known = defs.get_schema(node.op_type, version).attributes
            node.attribute.extend(a.default_value for name, a in known.items() if a.default_value.type and name not in given)
    for tensor in copy.graph.initializer:  # and looks for types among declared values only
        copy.graph.value_info.add(name=tensor.name, type=helper.make_tensor_type_proto(tensor.data_type, tensor.dims))
    operators = sorted({("", node.op_type) for node in defined})
    inlined = inliner.inline_selected_functions(copy, operators, inline_schema_functions=True)
    before, after = ([node.op_type for node in m.graph.node] for m in (copy, inlined))
    return inlined if before == after else prepare(inlined)  # it leaves what it cannot specialize for the types at hand


def is_defined(op: str, version: int) -> bool:
    """Return True if an operator has no rule, but is defined in terms of others."""
    if op in RULES or not defs.has(op, version):
        return False
    schema = defs.get_schema(op, version)
    return bool(schema.has_function or schema.has_context_dependent_function)  # type: ignore[attr-defined]
