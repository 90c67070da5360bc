"""The table of operators: one entry each, in the file of its family."""

from onnx_reconvene.operators import channelwise, elementwise, movement, normalization, quantization, recurrent, weights
from onnx_reconvene.operators.rule import Operator

OPERATORS: dict[str, Operator] = {
    **channelwise.OPERATORS,
    **elementwise.OPERATORS,
    **movement.OPERATORS,
    **normalization.OPERATORS,
    **quantization.OPERATORS,
    **recurrent.OPERATORS,
    **weights.OPERATORS,
}

__all__ = ["OPERATORS", "Operator"]
