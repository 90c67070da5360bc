"""The table of derivative rules: one function per operator, in the file of its family."""

from onnx_reconvene.autodiff.node import Rule
from onnx_reconvene.autodiff.rules import (
    arithmetic,
    convolution,
    elementwise,
    indexing,
    matrix,
    movement,
    normalization,
    pooling,
    recurrent,
    reductions,
    regions,
    resampling,
    sampling,
)

RULES: dict[str, Rule] = {
    **arithmetic.RULES,
    **convolution.RULES,
    **elementwise.RULES,
    **indexing.RULES,
    **matrix.RULES,
    **movement.RULES,
    **normalization.RULES,
    **pooling.RULES,
    **recurrent.RULES,
    **reductions.RULES,
    **regions.RULES,
    **resampling.RULES,
    **sampling.RULES,
}

# Operators whose results are the same all around, or depend on shapes alone: their derivative is zero. Other integers and truth
# values have none.
CONSTANT = frozenset(
    {
        "Bernoulli",
        "Ceil",
        "ConstantOfShape",
        "EyeLike",
        "Floor",
        "Hardmax",
        "Multinomial",
        "OneHot",
        "RandomNormalLike",
        "RandomUniformLike",
        "Range",
        "Round",
        "Shape",
        "Sign",
        "Size",
    }
)

__all__ = ["CONSTANT", "RULES"]
