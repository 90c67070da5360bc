"""One small network per derivative rule and variant, as ONNX text. What its gradients are is left to finite differences."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx.parser
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from tests.nets.net import declare_outputs

Array = NDArray[np.generic]


@dataclass(frozen=True)
class Case:
    """A network; the range its inputs and random weights are drawn from; the tensors whose gradients are zero; whether slopes
    are to be measured in single precision, because the evaluator of onnx has no such operator or computes something else."""

    model: onnx.ModelProto
    low: float
    high: float
    zero: frozenset[str]
    single: bool

    def feeds(self) -> dict[str, Array]:
        """Return values for the inputs of the network."""
        return {value.name: self._draw(value) for value in self.model.graph.input}

    def _draw(self, value: onnx.ValueInfoProto) -> Array:
        shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            return draw(value.name, shape, self.low, self.high)
        return np.random.default_rng(3).integers(0, 2, shape).astype(bool)


def draw(name: str, shape: Sequence[int], low: float, high: float) -> NDArray[np.float32]:
    """Return random values, in a range that does not begin at zero where the name starts with p, for positive."""
    rng = np.random.default_rng([*name.encode(), *shape])
    return rng.uniform(*((0.5, 1.5) if name.startswith("p") else (low, high)), shape).astype(np.float32)


def case(
    body: str,
    inputs: str = "float[2,3,4] x",
    outputs: str = "y",
    opset: int = 18,
    low: float = -1.5,
    high: float = 1.5,
    zero: Collection[str] = (),
    single: bool = False,
    **weights: Sequence[int] | Array,
) -> Case:
    """Return the network of these nodes; weights are given by value, or by shape and are random."""
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}]> net ({inputs}) => ({outputs}) {{ {body} }}')
    for name, given in weights.items():
        values = given if isinstance(given, np.ndarray | np.generic) else draw(name, given, low, high)
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
    return Case(declare_outputs(model), low, high, frozenset(zero), single)


def ints(*values: int) -> NDArray[np.int64]:
    """Return integers such as axes or a shape."""
    return np.asarray(values, np.int64)


IMAGE = "float[2,4,6,5] x"
Table = dict[str, dict[str, Case]]
