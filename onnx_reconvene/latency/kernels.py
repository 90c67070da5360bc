"""What costs time in a network: kernels that are measured alone, and bytes that all other nodes move."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import helper, numpy_helper

from onnx_reconvene.axes import Axes, Axis, Products, Sizes, axes_of, plain_axes
from onnx_reconvene.graph import every_node
from onnx_reconvene.groups import Analysis
from onnx_reconvene.inference import element_types
from onnx_reconvene.memory import VIEWS
from onnx_reconvene.names import first_output

MEASURED = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
FUSED = {"BatchNormalization", "Clip", "HardSigmoid", "LeakyRelu", "Relu", "Sigmoid", "Tanh"}  # into the layer right before
FLOATS = {"float16", "float32", "float64"}


@dataclass(frozen=True)
class Operand:
    """An input of a kernel."""

    dtype: str
    shape: tuple[int, ...]
    constant: bool

    def __str__(self) -> str:
        return f"{self.dtype}{'*' if self.constant else ''}[{','.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class Kernel:
    """One operator at one set of shapes; equal ones take equally long."""

    op: str
    attributes: tuple[tuple[str, Any], ...]
    operands: tuple[Operand | None, ...]
    opset: int

    def __str__(self) -> str:
        """Its key in tables."""
        settings = [f"{name}={','.join(map(str, v)) if isinstance(v, tuple) else v}" for name, v in self.attributes]
        return " ".join([f"{self.op}-{self.opset}", *("-" if o is None else str(o) for o in self.operands), *settings])

    def model(self) -> onnx.ModelProto:
        """Return a network of this kernel alone; its weights are drawn from a seed."""
        rng, inputs, weights, names = np.random.default_rng(0), [], [], []
        for i, operand in enumerate(self.operands):
            names.append("" if operand is None else f"x{i}")
            if operand is not None and operand.constant:
                values = rng.standard_normal(operand.shape, np.float32).astype(operand.dtype)
                weights.append(numpy_helper.from_array(values, names[-1]))
            elif operand is not None:
                kind = helper.np_dtype_to_tensor_dtype(np.dtype(operand.dtype))
                inputs.append(helper.make_tensor_value_info(names[-1], kind, operand.shape))
        first = next(operand for operand in self.operands if operand is not None)
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(first.dtype))
        node = helper.make_node(self.op, names, ["y"], **dict(self.attributes))
        graph = helper.make_graph([node], "kernel", inputs, [helper.make_tensor_value_info("y", kind, None)], weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)


def _reference(op: str, *operands: Operand) -> Kernel:
    return Kernel(op, (), operands, 13)


PLANE = Operand("float32", (1, 64, 56, 56), False)
MOVING = _reference("Add", PLANE, PLANE)  # tells how long a byte takes that is read or written
BYTES = 3 * 4 * 64 * 56 * 56  # of MOVING
MULTIPLYING = _reference("MatMul", Operand("float32", (64, 256), False), Operand("float32", (256, 256), True))
MACS = 64 * 256 * 256  # of MULTIPLYING


@dataclass(frozen=True)
class Layer:
    """A node that is measured as a kernel of its own."""

    node: gs.Node
    operands: tuple[tuple[str, bool, tuple[Axis, ...]] | None, ...]  # dtype, whether constant, axes
    read: tuple[Axis, ...]  # of the first input
    made: tuple[Axis, ...]  # of the output
    opset: int
    inputs_each: int  # that a group reads where groups go as a whole, else 0

    def kernel(self, axes: Axes, sizes: Sizes) -> Kernel:
        """Return what it runs at these sizes."""
        operands = tuple(
            None if o is None else Operand(o[0], tuple(round(sizes[axes.row[axis]]) for axis in o[2]), o[1]) for o in self.operands
        )
        attributes: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in self.node.attrs.items()}
        x, weight = operands[:2]
        if attributes.get("group", 1) > 1 and x is not None and weight is not None:
            each = weight.shape[1] if self.node.op == "Conv" else self.inputs_each or weight.shape[0] // attributes["group"]
            attributes["group"] = max(1, x.shape[1] // max(1, each))
        return Kernel(self.node.op, tuple(sorted(attributes.items())), operands, self.opset)


class Work:
    """What a network does that takes time, as functions of its group widths."""

    def __init__(self, analysis: Analysis) -> None:
        self.analysis = analysis
        self.types = element_types(analysis.graph, analysis.sizes)
        imports = analysis.graph.source.model.opset_import
        self.opset = next((o.version for o in imports if o.domain in ("", "ai.onnx")), 13)
        nodes = [node for node in every_node(analysis.graph) if not analysis.integers.computes(node)]
        self.layers = [layer for node in nodes if (layer := self._layer(node)) is not None]
        alone = {id(layer.node) for layer in self.layers}
        moved = [name for node in nodes if id(node) not in alone for name in self._moved(node, alone)]
        terms = [axes_of(analysis, name) for name in moved]
        named = {first_output(layer.node) for layer in self.layers}
        others = [term for term in analysis.flow.macs if term.node not in named]
        macs, steps = [term.axes for term in others], [float(term.steps) for term in others]
        operands = [axes for layer in self.layers for o in layer.operands if o is not None for axes in o[2]]
        ends = [axis for layer in self.layers for axis in (*layer.read, *layer.made)]
        self.axes = Axes(analysis, chain(operands, ends, *terms, *macs))
        self.bytes = Products.of(self.axes, terms, [float(self.types[n].itemsize) if n in self.types else 4.0 for n in moved])
        self.macs = Products.of(self.axes, macs, steps)
        self.read, self.made = (
            Products.of(self.axes, ends, np.ones(len(ends)))
            for ends in ([layer.read for layer in self.layers], [layer.made for layer in self.layers])
        )

    def _layer(self, node: gs.Node) -> Layer | None:
        """Return node as a layer, None where it cannot be run alone."""
        names = [t.name for t in (*node.inputs, *node.outputs) if t.name]
        known = all(name in self.analysis.shapes and self.types.get(name, np.dtype(bool)).name in FLOATS for name in names)
        plain = all(isinstance(value, int | float | str | list) for value in node.attrs.values())
        if node.op not in MEASURED or node.domain not in (None, "", "ai.onnx") or not known or not plain:
            return None
        is_static, axes = self.analysis.flow.is_static, functools.partial(plain_axes, self.analysis)
        operands = tuple((self.types[t.name].name, is_static(t), axes(t.name)) if t.name else None for t in node.inputs)
        ends = axes_of(self.analysis, names[0]), axes_of(self.analysis, names[-1])
        return Layer(node, operands, *ends, self.opset, _inputs_of_whole_groups(node, self.analysis))

    def _moved(self, node: gs.Node, layers: set[int]) -> list[str]:
        """Return the tensors that node reads and writes, those left out that never get to memory because kernels are fused."""
        if node.op in VIEWS or node.op == "Constant":
            return []
        if node.op in FUSED and _behind(node.inputs[0], layers):
            return []
        data = [t for t in node.inputs if t.name in self.analysis.shapes and not self.analysis.flow.is_static(t)]
        if node.op == "Add" and any(_behind(t, layers) for t in data):
            return [t.name for t in data if not _behind(t, layers)][:1]
        return [t.name for t in [*data, *node.outputs] if t.name in self.analysis.shapes]


def _inputs_of_whole_groups(node: gs.Node, analysis: Analysis) -> int:
    """Return how many channels each group of a transposed convolution reads where groups go as a whole, for each reads or makes but
    one; else 0."""
    groups = node.attrs.get("group", 1)
    if node.op != "ConvTranspose" or groups == 1:
        return 0
    read, made_each = analysis.shapes[node.inputs[1].name][:2]
    return read // groups if made_each == 1 or read == groups else 0


def _behind(tensor: gs.Tensor, layers: set[int]) -> bool:
    """Return True if nothing else reads tensor, and a layer makes it, directly or with what is fused into it."""
    if len(tensor.inputs) != 1 or len(tensor.outputs) != 1:
        return False
    maker = tensor.inputs[0]
    return id(maker) in layers or (maker.op in FUSED | {"Add"} and any(_behind(t, layers) for t in maker.inputs))
