"""One small network per operator and variant, as ONNX text, and what must be found in it, by thought alone.

The expected groups are written as "8 w1.0 b1.0 w2.1 | 4 w3.0": eight units that live along axis 0 of w1 and b1 and axis 1 of w2,
and four along axis 0 of w3; "2x4" stands for four units in each of two blocks.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx.parser
from numpy.typing import NDArray
from onnx import numpy_helper, shape_inference

from onnx_reconvene.analysis import analyze
from onnx_reconvene.graph import from_model

Groups = Counter[tuple[int, int, frozenset[tuple[str, int]]]]


@dataclass(frozen=True)
class Net:
    """A network, the groups that it consists of, and for weights whose channels must stay a part of the reason."""

    model: onnx.ModelProto
    groups: Groups
    frozen: Mapping[str, str] = field(default_factory=dict)
    inexact: bool = False
    spare_vectors: bool = True  # False where a vector reads channels, so that it cannot keep its dead elements
    silent: bool = False  # whether no output depends on what can be removed


def check_groups(net: Net) -> None:
    """Raise AssertionError unless just the expected groups, frozen weights and warnings are found in net."""
    analysis = analyze(from_model(net.model))
    places = [frozenset((site.tensor, site.axis) for site in group.sites) for group in analysis.groups]
    found = Counter((group.blocks, group.width, own) for group, own in zip(analysis.groups, places, strict=True))
    assert found == net.groups
    assert any(group.inexact for group in analysis.groups) == net.inexact
    for weight, reason in net.frozen.items():
        assert any(f.tensor == weight and reason in f.reason for f in analysis.frozen), f"'{weight}' is not frozen: {reason}"


def net(
    body: str,
    groups: str,
    inputs: str = "float[2,3,6,6] x",
    outputs: str = "y",
    opset: int = 18,
    constants: str = "",
    frozen: Mapping[str, str] | None = None,
    inexact: bool = False,
    spare_vectors: bool = True,
    silent: bool = False,
    functions: str = "",
    **weights: Sequence[int] | NDArray[np.generic],
) -> Net:
    """Return the network of these nodes, and of local functions as text; weights are given by value, or by shape and are random."""
    imports = "".join(f', "{domain}": 1' for domain in sorted(set(re.findall(r"([a-z]+\.[a-z]+)\.[A-Z]", body))))
    header = f'<ir_version: 8, opset_import: ["": {opset}{imports}]>'
    text = f"{header} net ({inputs}) => ({outputs}) <{constants}> {{ {body} }} {functions}"
    model = onnx.parser.parse_model(text)
    for name, given in weights.items():
        values = given if isinstance(given, np.ndarray | np.generic) else draw(name, given)
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
    return Net(declare_outputs(model), parse_groups(groups), frozen or {}, inexact, spare_vectors, silent)


def draw(name: str, shape: Sequence[int]) -> NDArray[np.float32]:
    """Return random values away from zero; all positive for a variance, a weight whose name starts with v."""
    rng = np.random.default_rng([*name.encode(), *shape])
    sign = 1 if name.startswith("v") else rng.choice([-1, 1], shape)
    return (sign * rng.uniform(0.5, 1.5, shape)).astype(np.float32)


def in_constant_nodes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return model with its weights in Constant nodes, each right before its first reader."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    waiting = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes = []
    for node in model.graph.node:
        for name in node.input:
            if name in waiting:
                tensor = waiting.pop(name)
                nodes.append(onnx.helper.make_node("Constant", [], [name], f"{name}/node", value=tensor, doc_string="kept"))
        nodes.append(node)
    del result.graph.initializer[:], result.graph.node[:]
    result.graph.node.extend(nodes)
    return result


def int8(*shape: int) -> NDArray[np.int8]:
    """Return random 8-bit weights."""
    return np.random.default_rng(shape).integers(-99, 99, shape).astype(np.int8)


def declare_outputs(model: onnx.ModelProto) -> onnx.ModelProto:
    """Give the outputs of model that have no type the one that shape inference finds."""
    inferred = shape_inference.infer_shapes(model, data_prop=True)
    for value, found in zip(model.graph.output, inferred.graph.output, strict=True):
        value.CopyFrom(found)
    return model


def parse_groups(text: str) -> Groups:
    """Read groups from their short form."""
    groups: Groups = Counter()
    for group in filter(None, text.split("|")):
        size, *sites = group.split()
        *blocks, width = (int(number) for number in size.split("x"))
        places = frozenset((tensor, int(axis)) for tensor, axis in (site.split(".") for site in sites))
        groups[blocks[0] if blocks else 1, width, places] += 1
    return groups


CONV, RESIDUAL, MATMUL = "8 w1.0 b1.0 w2.1", "8 w1.0 b1.0 w2.0 b2.0 w3.1", "8 w1.1 b1.0 w2.0"
PAIR = "4 w1.0 b1.0 w2.1 | 4 w1.0 b1.0 w3.1"  # the two halves of eight channels, each read by a layer of its own
FAR = 2**63 - 1  # as an end, however long the axis
DECLARED = {"outputs": "float[2,5,6,6] y"}  # where onnx infers no shapes
Table = dict[str, dict[str, Net]]


def convs(
    middle: str, groups: str = CONV, read: Sequence[int] = (5, 8, 1, 1), tail: str = "y = Conv(h, w2)", **more: object
) -> Net:
    """Two convolutions, and in the middle what makes h[n,c,...] from a[2,8,6,6]."""
    settings = {"w1": (8, 3, 1, 1), "b1": (8,), "w2": read, **more}
    return net(f"a = Conv(x, w1, b1) {middle} {tail}", groups, **settings)  # type: ignore[arg-type]


def conv_gemm(middle: str, groups: str = "8 w1.0 b1.0 w2.0", read: Sequence[int] = (8, 5), **more: object) -> Net:
    """A convolution, then what makes h[n,c] from a[2,8,6,6], then a matrix product."""
    return convs(middle, groups, read, "y = Gemm(h, w2)", **more)


def residual(middle: str, groups: str = RESIDUAL, **more: object) -> Net:
    """Two convolutions side by side, what makes h from a[2,8,6,6] and b[2,8,6,6], and a third convolution."""
    settings = {"w2": (8, 3, 1, 1), "b2": (8,), "w3": (5, 8, 1, 1), **more}
    return convs(f"b = Conv(x, w2, b2) {middle}", groups, tail="y = Conv(h, w3)", **{"read": (), **settings})


def halves(middle: str, groups: str = PAIR, **more: object) -> Net:
    """One convolution, what makes h[2,4,6,6] and k[2,4,6,6] from its output, and a convolution for each of the two."""
    settings = {"w3": (5, 4, 1, 1), "read": (5, 4, 1, 1), "outputs": "y, z", **more}
    return convs(middle, groups, tail="y = Conv(h, w2) z = Conv(k, w3)", **settings)


def matmuls(
    middle: str, groups: str = MATMUL, read: Sequence[int] = (8, 4), tail: str = "y = MatMul(h, w2)", **more: object
) -> Net:
    """Two matrix products over the last axis, and in the middle what makes h[2,5,c] from a[2,5,8]."""
    settings = {"inputs": "float[2,5,6] x", "w1": (6, 8), "b1": (8,), "w2": read, **more}
    return net(f"p = MatMul(x, w1) a = Add(p, b1) {middle} {tail}", groups, **settings)  # type: ignore[arg-type]


def gemms(middle: str, groups: str = MATMUL, tail: str = "y = Gemm(h, w2)", **more: object) -> Net:
    """Two Gemms, and in the middle what makes h[4,8] from a[4,8]."""
    settings = {"inputs": "float[4,6] x", "w1": (6, 8), "b1": (8,), "w2": (8, 5), **more}
    return net(f"a = Gemm(x, w1, b1) {middle} {tail}", groups, **settings)  # type: ignore[arg-type]


def sizes(name: str, *values: int) -> str:
    """A Constant node of integers."""
    return f"{name} = Constant<value_ints = [{', '.join(map(str, values))}]>()"


def stays(reason: str, weight: str = "w1", groups: str = "") -> dict[str, object]:
    """What is expected where the channels of a weight freeze."""
    return {"groups": groups, "frozen": {weight: reason}}
