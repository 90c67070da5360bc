"""Brings a network to where the rules apply: opset 18 or later, and no operator without a rule that others can stand for."""

from __future__ import annotations

import onnx
from onnx import defs, helper, inliner, version_converter

from onnx_reconvene.autodiff.node import STANDARD, is_quantizer, is_standard
from onnx_reconvene.autodiff.rules import CONSTANT, RULES
from onnx_reconvene.errors import ModelError
from onnx_reconvene.graph import Source

OPSET = 18  # ReduceMean takes its axes as an input, ScatterElements adds
CEILING_OPSET = 22  # shapes of pools with ceil_mode are inferred as they are


def prepare(source: Source) -> Source:
    """Return the network in an opset that the rules know, functions replaced by their bodies; weights are not copied.

    Raises ModelError where the opset cannot be converted.
    """
    model = source.model
    if model.functions:
        model = inliner.inline_local_functions(model)
    model = at_least(model, OPSET)
    if any(a.name == "ceil_mode" and a.i for node in model.graph.node for a in node.attribute):
        model = at_least(model, CEILING_OPSET)
    return Source(with_rules(model), source.arrays, source.path)


def at_least(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Return model in this opset, or as it is if that is no older."""
    version = next((o.version for o in model.opset_import if o.domain in STANDARD), opset)
    if version >= opset:
        return model
    try:
        converted = version_converter.convert_version(model, opset)
    except Exception as error:  # the converter raises bare exceptions of its own
        reason = str(error).strip().splitlines()[-1]
        raise ModelError(f"opset {version} cannot be converted to {opset}, which derivatives need: {reason}") from error
    del converted.metadata_props[:]  # which some releases of onnx keep
    converted.metadata_props.extend(model.metadata_props)
    return converted


def with_rules(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return model with each operator that has no rule, but a definition in terms of others, replaced by that."""
    version = next((o.version for o in model.opset_import if o.domain in STANDARD), OPSET)
    defined = [node for node in model.graph.node if is_defined(node, version)]
    if not defined:
        return model
    for node in defined:  # the inliner leaves out defaults
        given = {attribute.name for attribute in node.attribute}
        known = defs.get_schema(node.op_type, version).attributes
        node.attribute.extend(a.default_value for name, a in known.items() if a.default_value.type and name not in given)
    for tensor in model.graph.initializer:  # and looks for types among declared values only
        model.graph.value_info.add(name=tensor.name, type=helper.make_tensor_type_proto(tensor.data_type, tensor.dims))
    operators = sorted({("", node.op_type) for node in defined})
    return with_rules(inliner.inline_selected_functions(model, operators, inline_schema_functions=True))


def is_defined(node: onnx.NodeProto, version: int) -> bool:
    """Return True if the operator of a node has no rule, but is defined in terms of others that have."""
    op = node.op_type
    if not is_standard(node) or op in RULES or op in CONSTANT or is_quantizer(node) or not defs.has(op, version):
        return False
    schema = defs.get_schema(op, version)
    return bool(schema.has_function or schema.has_context_dependent_function)  # type: ignore[attr-defined]
