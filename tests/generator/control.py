"""Control flow and local functions around blocks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.generator.drawing import Drawing
from tests.generator.elementwise import unary
from tests.generator.layers import LAST, linear
from tests.generator.normalization import layer_norm
from tests.generator.values import Value, resized

DOMAIN = "my.own"  # of local functions


@dataclass(frozen=True)
class Part:
    """Nodes and weights that were taken out of a network being drawn, and the value that they make."""

    nodes: list[onnx.NodeProto]
    weights: list[TensorProto]
    sparse: list[onnx.SparseTensorProto]
    result: Value

    def graph(self, name: str, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto]) -> onnx.GraphProto:
        """Return these as the body of a node."""
        return helper.make_graph(self.nodes, name, inputs, outputs, self.weights, sparse_initializer=self.sparse)


def take_out(net: Drawing, block: Callable[[], Value | None]) -> Part | None:
    """Draw a block and take what it adds out of the network; weights may stay outside. None where nothing was drawn."""
    before = len(net.nodes), len(net.initializers), len(net.sparse), len(net.values), len(net.inputs)
    shared, level = copy.deepcopy((net.shared, net.level))
    result = block()
    nodes, weights, sparse = net.nodes[before[0] :], net.initializers[before[1] :], net.sparse[before[2] :]
    drawn = result is not None and len(net.inputs) == before[4] and bool(nodes)
    outside = drawn and net.pick(2) == 0
    del net.nodes[before[0] :], net.values[before[3] :], net.inputs[before[4] :]
    net.shared, net.level = shared, level
    if not outside:
        del net.initializers[before[1] :], net.sparse[before[2] :]
    if not drawn or result is None:
        return None
    return Part(nodes, [], [], result) if outside else Part(nodes, weights, sparse, result)


def small_block(net: Drawing, x: Value) -> Value:
    """One or two layers that change nothing but the channels of x."""
    form = net.pick(4)
    if form == 0:
        return unary(net, LAST[x.kind](net, x, net.new_width()))
    if form == 1:
        inner = unary(net, LAST[x.kind](net, x, net.new_width()))
        return net.like(x, "Add", LAST[x.kind](net, inner, x.width))
    return layer_norm(net, x) if form == 2 and x.kind == "tokens" else unary(net, x)


def declared(net: Drawing, value: Value, name: str = "") -> onnx.ValueInfoProto:
    """Declare a value of a body."""
    shape = ["N" if net.dynamic and not axis else n for axis, n in enumerate(value.shape)]
    return helper.make_tensor_value_info(name or value.name, TensorProto.FLOAT, shape)


def either(net: Drawing, x: Value) -> Value | None:
    """If: a block of x, or a layer that makes as many channels."""
    then = take_out(net, lambda: small_block(net, x))
    if then is None:
        return None
    y = then.result
    other = take_out(net, lambda: LAST[x.kind](net, x, y.width))
    if other is None or other.result.shape != y.shape:
        return None
    bodies = {
        f"{name}_branch": part.graph(name, [], [declared(net, part.result)]) for name, part in (("then", then), ("else", other))
    }
    return net.value("If", [condition(net, x)], y.shape, y.axis, **bodies)


def condition(net: Drawing, x: Value) -> str:
    """Return the name of what decides: a constant, a size, or the data."""
    form = net.pick(3)
    if form == 0:
        return net.constant(np.asarray(bool(net.pick(2))), "q")
    if form == 1:
        size = net.node("Gather", [net.node("Shape", [x])[0], net.constant(np.asarray(0, np.int64), "i")])[0]
        return net.node("Less", [size, net.constant(np.asarray(2, np.int64), "i")])[0]
    largest = net.node("ReduceMax", [net.inputs[0]], keepdims=0)[0]
    return net.node("Greater", [largest, net.scalar(1.0)])[0]


def repeat(net: Drawing, x: Value) -> Value | None:
    """Loop: a block of what is carried, two or three times."""
    state = Value(net.name("state"), x.shape, x.axis)
    part = take_out(net, lambda: small_block(net, state))
    if part is None or part.result.shape != x.shape:
        return None
    step, goes_on, stays = net.name("step"), net.name("go"), net.name("go")
    inputs = [
        helper.make_tensor_value_info(step, TensorProto.INT64, []),
        helper.make_tensor_value_info(goes_on, TensorProto.BOOL, []),
        declared(net, state),
    ]
    part.nodes.append(helper.make_node("Identity", [goes_on], [stays], net.name("n")))
    outputs = [helper.make_tensor_value_info(stays, TensorProto.BOOL, []), declared(net, part.result)]
    times = net.constant(np.asarray(2 + net.pick(2), np.int64), "i")
    return net.value(
        "Loop", [times, net.constant(np.asarray(True), "q"), x], x.shape, x.axis, body=part.graph("step", inputs, outputs)
    )


def scan(net: Drawing, x: Value) -> Value | None:
    """Scan over tokens: a state that each of them is added to, and a layer of it."""
    if x.kind != "tokens":
        return None
    n, t, c = x.shape
    state, token = Value(net.name("state"), (n, c), 1), Value(net.name("token"), (n, c), 1)
    ends: list[Value] = []

    def step() -> Value:
        ends.append(unary(net, net.like(state, "Add", linear(net, token, c))))
        return linear(net, ends[0])

    part = take_out(net, step)
    if part is None:
        return None
    y = part.result
    body = part.graph("step", [declared(net, state), declared(net, token)], [declared(net, ends[0]), declared(net, y)])
    first = net.axes("ReduceMean", x, [1], keepdims=0)
    _, result = net.node("Scan", [first, x], 2, body=body, num_scan_inputs=1, scan_input_axes=[1], scan_output_axes=[1])
    return net.enter(Value(result, (n, t, y.width), 2))


def local_function(net: Drawing, x: Value) -> Value | None:
    """A call of a local function: a block whose weights are its inputs."""
    part = take_out(net, lambda: small_block(net, x))
    if part is None:
        return None
    net.initializers += part.weights
    net.sparse += part.sparse
    made = {name for node in part.nodes for name in node.output}
    read = list(dict.fromkeys(name for node in part.nodes for name in node.input if name and name not in made))
    name, opsets = net.name("Function"), [helper.make_opsetid("", net.opset)]
    net.functions.append(helper.make_function(DOMAIN, name, read, [part.result.name], part.nodes, opsets))
    return net.value(name, read, resized(x, part.result.width), x.axis, domain=DOMAIN)
