"""The table of execution rules: one function per operator, in the file of its family."""

from onnx_reconvene.executor.node import Operator
from onnx_reconvene.executor.rules import (
    arithmetic,
    constants,
    control,
    convolution,
    elementwise,
    indexing,
    matrix,
    movement,
    normalization,
    pooling,
    quantization,
    recurrent,
    reductions,
    resampling,
)

RULES: dict[str, Operator] = {
    **arithmetic.RULES,
    **constants.RULES,
    **control.RULES,
    **convolution.RULES,
    **elementwise.RULES,
    **indexing.RULES,
    **matrix.RULES,
    **movement.RULES,
    **normalization.RULES,
    **pooling.RULES,
    **quantization.RULES,
    **recurrent.RULES,
    **reductions.RULES,
    **resampling.RULES,
}

VISION = "torch has it in torchvision only"

# Operators that are known and deliberately not executed, and why.
UNSUPPORTED = {
    **dict.fromkeys(["DeformConv", "MaxRoiPool", "NonMaxSuppression", "RoiAlign"], VISION),
}

__all__ = ["RULES", "UNSUPPORTED"]
