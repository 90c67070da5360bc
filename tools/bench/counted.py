"""Multiply-accumulates counted from a run: every tensor is an output, and the shapes that it has decide.

Knows nothing of the library. `python counted.py MODEL.onnx '{"x": [1, 3, 64, 64]}'` prints the total.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from math import prod

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper

Shapes = Mapping[str, tuple[int, ...]]
CONVOLUTIONS = {
    "Conv": 1,
    "ConvInteger": 1,
    "FusedConv": 1,
    "NhwcFusedConv": 1,
    "QLinearConv": 3,
}  # and their input with the weight
PRODUCTS = ("FusedGemm", "FusedMatMul", "Gemm", "MatMul", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul")
QUANTIZED_PRODUCTS = ("QGemm", "QLinearMatMul")
RECURRENT = ("DynamicQuantizeLSTM", "GRU", "LSTM", "RNN")
PROJECTING = ("Attention", "QAttention")  # of com.microsoft: the weights that make queries, keys and values
STANDARD = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")


def shapes_in_a_run(model: onnx.ModelProto, sizes: Mapping[str, Sequence[int]], seed: int = 0) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor in a run on random inputs; a plugin, which onnxruntime lacks, is taken to pass its input."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    names = [name for node in probe.graph.node for name in node.output if name]
    for node in [node for node in probe.graph.node if node.domain not in STANDARD]:
        node.CopyFrom(helper.make_node("Identity", node.input[:1], node.output[:1]))
    for node in probe.graph.node:
        node.name = ""
    outputs = {value.name for value in probe.graph.output}
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in outputs)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feeds = {value.name: _draw(value.type, sizes[value.name], np.random.default_rng(seed)) for value in session.get_inputs()}
    values = session.run(names, feeds)
    result = {name: np.shape(value) for name, value in zip(names, values, strict=True) if isinstance(value, np.ndarray)}
    return {**{t.name: tuple(t.dims) for t in model.graph.initializer}, **{n: v.shape for n, v in feeds.items()}, **result}


def _draw(kind: str, shape: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    name = kind.removeprefix("tensor(").removesuffix(")")
    if name in ("float", "double", "float16"):
        return rng.standard_normal(tuple(shape)).astype({"float": "float32", "double": "float64"}.get(name, name))
    return rng.integers(0, 2, tuple(shape)).astype(name)


def macs(node: onnx.NodeProto, shapes: Shapes) -> int:
    """Return the multiply-accumulates of one node."""
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    read = [shapes.get(name, ()) for name in node.input]
    result = shapes.get(next(filter(None, node.output), ""), ())
    if node.op_type in CONVOLUTIONS:
        weight = read[CONVOLUTIONS[node.op_type]]
        positions = result[1:-1] if node.op_type == "NhwcFusedConv" else result[2:]
        return result[0] * prod(weight) * prod(positions)
    if node.op_type == "ConvTranspose":
        return read[0][0] * prod(read[1]) * prod(read[0][2:])
    if node.op_type in PRODUCTS or node.op_type in QUANTIZED_PRODUCTS:
        return prod(result) * read[0][0 if attributes.get("transA", 0) else -1]
    if node.op_type in RECURRENT:
        return read[0][0] * read[0][1] * (prod(read[1]) + prod(read[2]))
    if node.op_type in PROJECTING and node.domain == "com.microsoft":
        return prod(read[0][:-1]) * prod(read[1])
    if node.op_type == "MatMulNBits":
        return prod(result) * attributes["K"]
    return 0


def counted(model: onnx.ModelProto, sizes: Mapping[str, Sequence[int]], seed: int = 0) -> int:
    """Return the multiply-accumulates of a run of model on inputs of these sizes."""
    shapes = shapes_in_a_run(model, sizes, seed)
    return sum(macs(node, shapes) for node in model.graph.node)


if __name__ == "__main__":
    print(counted(onnx.load(sys.argv[1]), json.loads(sys.argv[2])))
