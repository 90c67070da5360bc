"""Quantized networks without the rounding of their activations, so that equal ones differ by float rounding alone.

Where a value lies between two steps, float rounding decides to which one it is rounded, and all that is computed from it differs by
a step: deep networks with QuantizeLinear and DequantizeLinear between float operators are apart by several percent though they
compute the same. Both networks that are compared lose the same steps.
"""

from __future__ import annotations

from onnx import GraphProto, NodeProto


def leave_out(graph: GraphProto) -> bool:
    """Let activations pass where they are quantized and dequantized at once; returns whether there were any."""
    quantizers = {node.output[0]: node for node in graph.node if node.op_type == "QuantizeLinear"}
    pairs = [node for node in graph.node if _undoes(node, quantizers.get(node.input[0]) if node.input else None)]
    for node in pairs:
        passed = NodeProto(op_type="Identity", name=node.name, input=quantizers[node.input[0]].input[:1], output=node.output)
        node.CopyFrom(passed)
    return bool(pairs)


def _undoes(node: NodeProto, quantizer: NodeProto | None) -> bool:
    return node.op_type == "DequantizeLinear" and quantizer is not None and node.input[1:] == quantizer.input[1:]
