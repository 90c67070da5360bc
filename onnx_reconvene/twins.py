"""Operators that compute what a plain one does, on other inputs: its fused and quantized forms.

One row says all of such an operator: the plain one, and the part that each input plays. Its flow, its follow rule and its shapes
are made from those of the plain operator, so that it cannot lack a part of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import onnx_graphsurgeon as gs

ABSENT = -1
RESULT = -1  # as an operand: what the operator returns


class Quantity(NamedTuple):
    """An operand that is quantized, and the inputs that hold its scale and zero point (or ABSENT)."""

    operand: int
    scale: int
    zero: int


@dataclass(frozen=True)
class Operands:
    """The operands of a plain operator at a node: which of its inputs they are (or ABSENT), and which of them have their last two
    axes swapped there."""

    inputs: tuple[int, ...]
    swapped: frozenset[int] = frozenset()

    def axis(self, i: int, axis: int, rank: int) -> int:
        """Return which axis of the input is this axis of operand i, or the other way round; both have this rank."""
        axis %= max(1, rank)
        return 2 * rank - 3 - axis if i in self.swapped and axis >= rank - 2 >= 0 else axis


@dataclass(frozen=True)
class Twin:
    """A form of a plain operator.

    parts: one word for each input. "0" is operand 0 of the plain operator, "0t" the same with its last two axes swapped, "0s" and
    "0z" are its scale and zero point, "ys" and "yz" those of the result, "+" is added to the result, "." is anything else. Words
    between brackets repeat, for one operand more each time.
    swaps: attributes that say whether the last two axes of operand 0, 1, ... are swapped.
    version: of the plain operator, where that of the model may lack the types.
    plain_if_not: attributes with which the plain operator does something else.
    dynamic: whether it quantizes operand 0, and what else its layers read, by their range.
    """

    plain: str
    parts: str
    swaps: tuple[str, ...] = ()
    version: int | None = None
    plain_if_not: tuple[str, ...] = ()
    dynamic: bool = False

    def operands(self, count: int, attributes: Mapping[str, Any]) -> Operands:
        """Return the operands of a node with count inputs and these attributes."""
        parts = _parts(self.parts, count)
        inputs = {int(word.rstrip("t")): i for i, word in enumerate(parts) if word.rstrip("t").isdigit()}
        fixed = {int(word[:-1]) for word in parts if word.endswith("t")}
        swapped = {i for i, name in enumerate(self.swaps) if attributes.get(name, 0)}
        return Operands(tuple(inputs.get(i, ABSENT) for i in range(max(inputs) + 1)), frozenset(fixed | swapped))

    def quantities(self, count: int) -> list[Quantity]:
        """Return the operands of a node with count inputs that are quantized, and its result where that is."""
        parts = _parts(self.parts, count)
        inputs = {word: i for i, word in enumerate(parts)}
        stems = dict.fromkeys(word[:-1] for word in parts if word[-1] in "sz")
        return [
            Quantity(RESULT if stem == "y" else int(stem), inputs.get(f"{stem}s", ABSENT), inputs.get(f"{stem}z", ABSENT))
            for stem in stems
        ]

    def added(self, count: int) -> list[int]:
        """Return the inputs that are added to the result."""
        return [i for i, word in enumerate(_parts(self.parts, count)) if word == "+"]


@lru_cache
def _parts(words: str, count: int) -> tuple[str, ...]:
    """Return the parts of count inputs."""
    head, repeated, _ = (*re.split(r"[\[\]]", words), "", "")[:3]
    parts, operand = head.split(), 0
    while repeated and len(parts) < count:
        parts += [word.replace("0", str(operand)) for word in repeated.split()]
        operand += 1
    return tuple(parts[:count])


def qualified(op: str, domain: str | None) -> str:
    """Return the name of an operator as the tables have it: those of other domains than ai.onnx are domain.name."""
    return op if domain in (None, "", "ai.onnx") else f"{domain}.{op}"


@dataclass(frozen=True)
class PlainNode:
    """A node as the plain operator of which it is a form: with its operands as inputs."""

    op: str
    name: str
    attrs: Mapping[str, Any]
    inputs: list[gs.Tensor]
    outputs: list[gs.Tensor]
    swapped: frozenset[int] = frozenset()  # inputs whose last two axes are swapped


def as_plain(node: gs.Node) -> PlainNode:
    """Return node as its plain operator, or as it is where it is no form of another."""
    twin, inputs = TWINS.get(qualified(node.op, node.domain)), list(node.inputs)
    if twin is None or any(node.attrs.get(name, 0) for name in twin.plain_if_not):
        return PlainNode(node.op, node.name, node.attrs, inputs, list(node.outputs))
    operands = twin.operands(len(inputs), node.attrs)
    tensors = [inputs[i] if 0 <= i < len(inputs) else gs.Variable.empty() for i in operands.inputs]
    return PlainNode(twin.plain, node.name, node.attrs, tensors, list(node.outputs), operands.swapped)


UNARY, BINARY = "0 0s 0z ys yz", "0 0s 0z 1 1s 1z ys yz"
TRANSPOSED = ("transA", "transB")
CHANNELS_LAST = ("channels_last",)

TWINS = {
    "ConvInteger": Twin("Conv", "0 1 0z 1z"),
    "MatMulInteger": Twin("MatMul", "0 1 0z 1z"),
    "QLinearConv": Twin("Conv", f"{BINARY} 2"),
    "QLinearMatMul": Twin("MatMul", BINARY),
    "com.microsoft.BiasGelu": Twin("Sum", "0 1"),
    "com.microsoft.DequantizeLinear": Twin("DequantizeLinear", "0 1 2", version=21),
    "com.microsoft.DynamicQuantizeLSTM": Twin("LSTM", "0 1t 2t 3 4 5 6 7 1s 1z 2s 2z", dynamic=True),
    "com.microsoft.DynamicQuantizeMatMul": Twin("MatMul", "0 1 1s 1z +", dynamic=True),
    "com.microsoft.FastGelu": Twin("Sum", "0 1"),
    "com.microsoft.FusedConv": Twin("Conv", "0 1 2 +"),
    "com.microsoft.FusedGemm": Twin("Gemm", "0 1 2"),
    "com.microsoft.FusedMatMul": Twin("MatMul", "0 1", TRANSPOSED, plain_if_not=("transBatchA", "transBatchB")),
    "com.microsoft.Gelu": Twin("Erf", "0"),
    "com.microsoft.MatMulIntegerToFloat": Twin("MatMul", "0 1 0s 1s 0z 1z +"),
    "com.microsoft.QAttention": Twin("com.microsoft.Attention", "0 1 2 0s 1s 3 0z 1z 4"),
    "com.microsoft.QGemm": Twin("Gemm", "0 0s 0z 1 1s 1z 2 ys yz"),
    "com.microsoft.QLinearAdd": Twin("Add", BINARY),
    "com.microsoft.QLinearAveragePool": Twin("AveragePool", UNARY, plain_if_not=CHANNELS_LAST),
    "com.microsoft.QLinearConcat": Twin("Concat", "ys yz [0 0s 0z]"),
    "com.microsoft.QLinearConv": Twin("Conv", f"{BINARY} 2", plain_if_not=CHANNELS_LAST),
    "com.microsoft.QLinearGlobalAveragePool": Twin("GlobalAveragePool", UNARY, plain_if_not=CHANNELS_LAST),
    "com.microsoft.QLinearLeakyRelu": Twin("LeakyRelu", UNARY),
    "com.microsoft.QLinearMul": Twin("Mul", BINARY),
    "com.microsoft.QLinearSigmoid": Twin("Sigmoid", UNARY),
    "com.microsoft.QLinearSoftmax": Twin("Softmax", UNARY),
    "com.microsoft.QLinearWhere": Twin("Where", "0 1 1s 1z 2 2s 2z ys yz"),
    "com.microsoft.QuantizeLinear": Twin("QuantizeLinear", "0 1 2", version=21),
    "com.microsoft.QuickGelu": Twin("Sigmoid", "0"),
    "com.microsoft.RotaryEmbedding": Twin("RotaryEmbedding", "0 3 1 2"),
}
