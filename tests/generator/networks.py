"""Random valid networks: blocks strung together until the picks say that it is enough."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper

from tests.generator.blocks import BLOCKS
from tests.generator.drawing import Drawing
from tests.generator.inputs import STARTS
from tests.generator.layers import LAST
from tests.generator.picks import Pick
from tests.generator.values import Value


@st.composite
def networks(draw: st.DrawFn) -> onnx.ModelProto:
    """Draw a network."""
    return network(lambda n: draw(st.integers(0, n - 1)))


def network(pick: Pick) -> onnx.ModelProto:
    """Return the network that these picks make."""
    net = Drawing(pick)
    x = STARTS[pick(len(STARTS))](net)
    for _ in range(pick(12)):
        x = apply(net, x)
    return finish(net, x)


def apply(net: Drawing, x: Value) -> Value:
    """Return what some block makes of x, or of an earlier value; x itself where the block drawn cannot be applied."""
    if net.rarely(6):
        x = net.choose(net.values[::-1])
    block = net.choose(BLOCKS[x.kind])
    return block(net, x) or x


def finish(net: Drawing, x: Value) -> onnx.ModelProto:
    """Return the model whose outputs are x, after one last layer mostly, and some values before it."""
    outputs = [x if net.rarely(6) else LAST[x.kind](net, x)]
    for _ in range(net.choose((0, 0, 1, 2))):
        value = net.choose(net.values)
        outputs.append(value if net.rarely(3) else LAST[value.kind](net, value))
    outputs = [v for v in outputs if v not in net.inputs] or [LAST[x.kind](net, x)]
    unique = {v.name: v for v in outputs}
    bare = net.rarely(4)
    nodes, read = (net.nodes, None) if net.rarely(8) else alive(net.nodes, unique)
    inputs = [declare(net, v) for v in net.inputs if read is None or v.name in read]
    weights = [w for w in net.initializers if read is None or w.name in read]
    sparse = [s for s in net.sparse if read is None or s.values.name in read]
    outputs_declared = [declare(net, v, bare) for v in unique.values()]
    graph = helper.make_graph(nodes, "net", inputs, outputs_declared, weights, sparse_initializer=sparse)
    called = {node.op_type for node in nodes}
    functions = [f for f in net.functions if read is None or f.name in called]
    opsets = [helper.make_opsetid("", net.opset)]
    opsets += [helper.make_opsetid(domain, 1) for domain in sorted({node.domain for node in nodes} - {""})]
    version = 10 if net.opset > 17 else 8
    return helper.make_model(graph, opset_imports=opsets, ir_version=version, functions=functions)


def alive(nodes: Sequence[onnx.NodeProto], outputs: Iterable[str]) -> tuple[list[onnx.NodeProto], set[str]]:
    """Return the nodes that outputs need, and all names that these read."""
    needed, read = set(outputs), []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            needed.update(reads(node))
            read.append(node)
    return read[::-1], needed


def reads(node: onnx.NodeProto) -> set[str]:
    """Return the names that node reads, in its bodies too."""
    bodies = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
    return set(node.input).union(*(reads(inner) for body in bodies for inner in body.node))


def declare(net: Drawing, value: Value, bare: bool = False) -> onnx.ValueInfoProto:
    """Declare value as an input or output; a bare one has a rank and no sizes."""
    shape = [None] * len(value.shape) if bare else ["N" if net.dynamic and not a else n for a, n in enumerate(value.shape)]
    return helper.make_tensor_value_info(value.name, TensorProto.FLOAT, shape)
