"""The table of operators: one entry each, in the file of its family."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from onnx_reconvene.operators import (
    along_axis,
    attention,
    channelwise,
    control,
    elementwise,
    fused,
    movement,
    normalization,
    quantization,
    recurrent,
    weights,
)
from onnx_reconvene.operators.forms import forms
from onnx_reconvene.operators.frozen import FROZEN
from onnx_reconvene.operators.rule import Operator
from onnx_reconvene.twins import qualified

PLAIN: dict[str, Operator] = {
    **along_axis.OPERATORS,
    **attention.OPERATORS,
    **channelwise.OPERATORS,
    **control.OPERATORS,
    **elementwise.OPERATORS,
    **fused.OPERATORS,
    **movement.OPERATORS,
    **normalization.OPERATORS,
    **quantization.OPERATORS,
    **recurrent.OPERATORS,
    **weights.OPERATORS,
}
OPERATORS = PLAIN | forms(PLAIN)


def rule_for(node: gs.Node) -> Operator | None:
    """Return the rule of node, None where there is none; operators of other domains are listed as domain.name."""
    return OPERATORS.get(qualified(node.op, node.domain))


def why_frozen(node: gs.Node) -> str:
    """Return why node, which has no rule, freezes what it touches."""
    return FROZEN.get(node.op, "no rule is known for it")


__all__ = ["FROZEN", "OPERATORS", "Operator", "rule_for", "why_frozen"]
