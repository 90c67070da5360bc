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
FUSED = "it is made by an optimizer for onnxruntime: take the network before that"
ATTENTION = ["Attention", "EmbedLayerNormalization", "GroupQueryAttention", "RotaryEmbedding"]
INTEGER = ["DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "MatMulNBits", "QAttention", "QGemm"]
INTEGER += [f"QLinear{op}" for op in ("AveragePool", "Concat", "Conv", "GlobalAveragePool", "Softmax", "Where")]

# Operators that are known and deliberately not executed, and why.
UNSUPPORTED = {
    **dict.fromkeys(["DeformConv", "MaxRoiPool", "NonMaxSuppression", "RoiAlign"], VISION),
    **dict.fromkeys([f"com.microsoft.{op}" for op in (*ATTENTION, *INTEGER)], FUSED),
}

__all__ = ["RULES", "UNSUPPORTED"]
