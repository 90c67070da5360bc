"""Lets convolutions take in the normalizations that follow them, which saves passes over feature maps, there and back."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection

import onnx

from onnx_reconvene.autodiff.builder import Builder
from onnx_reconvene.autodiff.node import Node, tensors_read


def fold_normalizations(builder: Builder, kept: Collection[str]) -> None:
    """Replace each Conv, and the BatchNormalization in inference that alone reads it, by one Conv with weights that are scaled in
    the network: w s r and (c - m) s r + b, r = 1 / sqrt(v + e). Only where the feature map, which is between them and is none of
    kept, is larger than the kernel, whose scaling takes passes over that."""
    graph = builder.model.graph
    readers = Counter(name for node in graph.node for name in tensors_read(node))
    readers.update(kept)
    maker = {node.output[0]: node for node in graph.node if node.op_type == "Conv" and readers[node.output[0]] == 1}
    folded = {
        normalization.output[0]: maker[normalization.input[0]]
        for normalization in graph.node
        if normalization.input and normalization.input[0] in maker and folds(maker[normalization.input[0]], normalization, builder)
    }
    nodes = list(graph.node)
    gone = {conv.output[0] for conv in folded.values()}
    del graph.node[:]
    for node in nodes:
        if node.output[0] in folded:
            graph.node.extend(merged(folded[node.output[0]], node, builder))
        elif node.output[0] not in gone:
            graph.node.append(node)


def folds(conv: onnx.NodeProto, node: onnx.NodeProto, builder: Builder) -> bool:
    """Tell whether to fold node, which reads conv, into that."""
    if node.op_type != "BatchNormalization" or Node(node, builder).attribute("training_mode"):
        return False
    between, kernel = builder.shape(conv.output[0]), builder.shape(conv.input[1])
    return between is not None and kernel is not None and math.prod(between) > math.prod(kernel)


def merged(conv: onnx.NodeProto, normalization: onnx.NodeProto, builder: Builder) -> list[onnx.NodeProto]:
    """Return the nodes that stand for the two."""
    _, scale, bias, mean, variance = (builder.tensor(name) for name in normalization.input)
    kernel, own = builder.tensor(conv.input[1]), Node(conv, builder).optional(2)
    gain = scale / (variance + Node(normalization, builder).attribute("epsilon")).apply("Sqrt")
    weight = kernel * gain.reshape(-1, *[1] * (kernel.rank - 1))
    shift = bias + (-mean if own is None else own - mean) * gain
    nodes = [*builder.nodes, onnx.NodeProto()]
    nodes[-1].CopyFrom(conv)
    nodes[-1].input[:] = [conv.input[0], weight.name, shift.name]
    nodes[-1].output[:] = normalization.output[:1]
    builder.nodes.clear()
    return nodes
