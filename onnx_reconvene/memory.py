"""The memory that activations take while a network runs, as a function of its group widths."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_reconvene.axes import Axes, Products, Widths, axes_of
from onnx_reconvene.flow import Flow
from onnx_reconvene.graph import every_node
from onnx_reconvene.groups import Analysis
from onnx_reconvene.inference import element_types

Types = dict[str, np.dtype[np.generic]]
VIEWS = {"Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"}  # whose result is their first input, seen otherwise
IN_PLACE = {  # whose result may take the place of an input that dies there
    *("Abs", "Add", "BatchNormalization", "Ceil", "Clip", "Cos", "Div", "Elu", "Erf", "Exp", "Floor", "HardSigmoid", "HardSwish"),
    *("LeakyRelu", "Log", "Max", "Min", "Mish", "Mul", "Neg", "Not", "PRelu", "Pow", "Reciprocal", "Relu", "Selu", "Sigmoid"),
    *("Sin", "Softplus", "Softsign", "Sqrt", "Sub", "Tanh", "ThresholdedRelu", "Where"),
}


@dataclass
class Buffer:
    """Memory for the elements of a tensor, held from one node (its place in the order of the graph) to another."""

    tensor: str
    first: int
    last: int
    given: bool = False  # by the caller: nothing may be written there


class Liveness:
    """The buffers of a run over the nodes in the order of the graph, each held until the last reader has run.

    What only moves the view on a tensor needs no buffer, and what computes element by element takes that of an input of the
    same shape and type that dies there. Inputs and outputs of the graph count; constants and arithmetic on shapes do not.
    """

    def __init__(self, flow: Flow, types: Types) -> None:
        self.flow, self.types = flow, types
        nodes = list(every_node(flow.graph))
        self._last = {t.name: place for place, node in enumerate(nodes) for t in node.inputs}
        self._last |= {t.name: len(nodes) - 1 for t in flow.graph.outputs}
        self._of: dict[str, Buffer] = {}
        for tensor in flow.graph.inputs:
            self._hold(tensor, Buffer(tensor.name, 0, 0, given=True))
        for place, node in enumerate(nodes):
            for tensor in node.inputs:  # what a body is given is held from its first reader on
                self._hold(tensor, self._of.get(tensor.name) or Buffer(tensor.name, place, place))
            for tensor in node.outputs:
                self._hold(tensor, self._taken(node, tensor, place) or Buffer(tensor.name, place, place))
        self.buffers = list({id(buffer): buffer for buffer in self._of.values()}.values())

    def _hold(self, tensor: gs.Tensor, buffer: Buffer) -> None:
        is_data = not self.flow.is_static(tensor) and not self.flow.integers.is_arithmetic(tensor.name)
        if is_data and tensor.name in self.flow.shapes:
            self._of[tensor.name] = buffer
            buffer.last = max(buffer.last, self._last.get(tensor.name, 0))

    def _taken(self, node: gs.Node, tensor: gs.Tensor, place: int) -> Buffer | None:
        """Return the buffer of an input that holds this output of node, too."""
        if tensor is not node.outputs[0]:
            return None
        if node.op in VIEWS:
            return self._of.get(node.inputs[0].name)
        for read in node.inputs if node.op in IN_PLACE else ():
            buffer = self._of.get(read.name)
            if buffer is not None and buffer.last == place and not buffer.given and self._alike(read.name, tensor.name):
                return buffer
        return None

    def _alike(self, a: str, b: str) -> bool:
        return self.flow.shapes.get(a) == self.flow.shapes.get(b) and self.types.get(a) == self.types.get(b)


class Activations:
    """The largest number of bytes that activations take at any time, as a function of group widths."""

    def __init__(self, analysis: Analysis) -> None:
        types = element_types(analysis.graph, analysis.sizes)
        held = Liveness(analysis.flow, types).buffers
        terms = [axes_of(analysis, buffer.tensor) for buffer in held]
        self._axes = Axes(analysis, (axis for term in terms for axis in term))
        bytes_each = [float(types[b.tensor].itemsize) if b.tensor in types else 4.0 for b in held]
        self._bytes = Products.of(self._axes, terms, bytes_each)
        self._first = np.asarray([b.first for b in held], np.int64)
        self._after = np.asarray([b.last + 1 for b in held], np.int64)

    def over_time(self, widths: Widths) -> NDArray[np.float64]:
        """Return the bytes held while each node runs, [nodes + 1] in the order of the graph; none after the last."""
        held = self._bytes.terms(self._axes(widths))
        places = int(self._after.max(initial=0)) + 1
        result: NDArray[np.float64] = np.cumsum(np.bincount(self._first, held, places) - np.bincount(self._after, held, places))
        return result

    def __call__(self, widths: Widths) -> float:
        """Return the peak, in bytes."""
        return float(self.over_time(widths).max(initial=0))
