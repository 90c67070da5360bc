"""Brings the convolutions of a network to a form in which they and their gradients run faster, before it is differentiated."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection

import onnx

from onnx_reconvene.autodiff.builder import Builder, Tensor
from onnx_reconvene.autodiff.node import Node, tensors_read
from onnx_reconvene.autodiff.rules.convolution import is_small, product_of_maps, written_out
from onnx_reconvene.autodiff.rules.window import window
from onnx_reconvene.graph import Source

BOUNDS = ("Relu", "Clip")


def with_pools_first(source: Source) -> Source:
    """Return source with each Relu or Clip that a MaxPool alone reads after that instead, as bounds and maxima may change places:
    there is less to bound then, and gradients are the same."""
    model = onnx.ModelProto()
    model.CopyFrom(source.model)
    reader = sole_readers(model.graph, [])
    for node in model.graph.node:
        pool = reader.get(node.output[0])
        if node.op_type in BOUNDS and pool is not None and pool.op_type == "MaxPool" and len(pool.output) == 1:
            bound = onnx.NodeProto.FromString(node.SerializeToString())
            read, between, made = node.input[0], node.output[0], pool.output[0]
            node.CopyFrom(pool)
            pool.CopyFrom(bound)
            node.input[0], node.output[0] = read, between
            pool.input[0], pool.output[0] = between, made
    return Source(model, source.arrays, source.path)


def rewrite(builder: Builder, kept: Collection[str]) -> None:
    """Let each Conv take in the BatchNormalization in inference that alone reads it, and make one on small maps a product.

    kept: tensors whose gradients are asked for. A kernel among them is better left to the rule for convolutions. A normalization
    is taken in where the feature map between the two, which then is no more and is none of kept, is larger than the kernel, whose
    scaling takes passes over that, or where no gradient of the kernel is asked for, whose scaling is done once and for all.
    """
    graph = builder.model.graph
    constant = {tensor.name for tensor in graph.initializer}.difference(kept)
    reader = sole_readers(graph, kept)
    folded: dict[str, onnx.NodeProto] = {}
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        follower = reader.get(node.output[0])
        if node.op_type != "Conv" or any(builder.shape(name) is None for name in (*node.input[:2], node.output[0])):
            conv = folded.get(node.output[0])
            graph.node.extend(merged(conv, node, builder) if conv else [node])
        elif node.input[1] in constant and (product := product_for(Node(node, builder))):
            graph.node.extend(product)
        elif follower is not None and is_normalization(follower) and (node.input[1] in constant or is_larger(node, builder)):
            folded[follower.output[0]] = node
        else:
            graph.node.append(node)


def product_for(conv: Node) -> list[onnx.NodeProto] | None:
    """Return nodes that compute a convolution as a product of matrices, where it reads small maps."""
    x, w, y = conv[0], conv[1], conv.y
    slide = window(conv, x.shape[2:], y.shape[2:], w.shape[2:])
    if not is_small(slide, w, x.shape[0]):
        return None
    matrices = written_out(w, slide, conv.attribute("group")).transpose(0, 2, 1)
    product, bias = product_of_maps(x, matrices).reshape(*y.shape), conv.optional(2)
    return renamed(product if bias is None else product + bias.reshape(-1, *[1] * (y.rank - 2)), y.name)


def renamed(tensor: Tensor, name: str) -> list[onnx.NodeProto]:
    """Return the nodes appended to the builder, which forgets them, their last result under another name."""
    builder = tensor.builder
    nodes = list(builder.nodes)
    nodes[-1].output[0] = name
    builder.nodes.clear()
    return nodes


def sole_readers(graph: onnx.GraphProto, kept: Collection[str]) -> dict[str, onnx.NodeProto]:
    """Return the node that reads a tensor, for each that is read once in all, is no output and none of kept."""
    readers = Counter([*(name for node in graph.node for name in tensors_read(node)), *kept])
    readers.update(output.name for output in graph.output)
    return {name: node for node in graph.node for name in node.input if readers[name] == 1}


def is_normalization(node: onnx.NodeProto) -> bool:
    """Return True if node is a BatchNormalization in inference."""
    return node.op_type == "BatchNormalization" and not any(a.name == "training_mode" and a.i for a in node.attribute)


def is_larger(conv: onnx.NodeProto, builder: Builder) -> bool:
    """Return True if what conv makes is larger than its kernel."""
    return math.prod(builder.tensor(conv.output[0]).shape) > math.prod(builder.tensor(conv.input[1]).shape)


def gain_and_shift(normalization: onnx.NodeProto, builder: Builder) -> tuple[Tensor, Tensor]:
    """Return by what a BatchNormalization in inference multiplies, and what it then adds, [channels]."""
    _, scale, bias, mean, variance = (builder.tensor(name) for name in normalization.input)
    gain = scale / (variance + Node(normalization, builder).attribute("epsilon")).apply("Sqrt")
    return gain, bias - mean * gain


def merged(conv: onnx.NodeProto, normalization: onnx.NodeProto, builder: Builder) -> list[onnx.NodeProto]:
    """Return the nodes that stand for the two."""
    kernel, own = builder.tensor(conv.input[1]), Node(conv, builder).optional(2)
    gain, shift = (tensor.cast(kernel) for tensor in gain_and_shift(normalization, builder))
    weight = kernel * gain.reshape(-1, *[1] * (kernel.rank - 1))
    bias = shift if own is None else shift + own * gain
    nodes = [*builder.nodes, conv]
    conv.input[:] = [conv.input[0], weight.name, bias.name]
    conv.output[:] = normalization.output[:1]
    builder.nodes.clear()
    return nodes
