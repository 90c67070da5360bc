"""Gradients over ONNX: a network in, a network out that computes derivatives as well, to run in any ONNX runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx

from onnx_reconvene.autodiff.node import NoDerivativeError
from onnx_reconvene.autodiff.reverse import Derivative, differentiate
from onnx_reconvene.boundary import boundary
from onnx_reconvene.bridges import open_model

TAKEN_AS_ZERO = "onnx_reconvene.derivatives_taken_as_zero"  # metadata of the result: one line for each node


def gradients(
    model: Any,
    wrt: str | Sequence[str] | None = None,
    loss: str | None = None,
    input_shape: Mapping[str, Sequence[int]] | None = None,
    missing: str = "error",
) -> onnx.ModelProto:
    """Return model with the gradients of a loss appended, as standard operators: reverse-mode differentiation.

    model: as for `prune`; it is not modified. The result has the outputs of model, then NAME.grad, of the shape and type of NAME,
    for each NAME in wrt. It has an opset of at least 18, and inputs of fixed sizes: those of input_shape, or those declared, free
    ones being those of one ordinary input.
    wrt: names of tensors: weights, inputs, feature maps; default all floating-point initializers.
    loss: name of a scalar tensor; default the sum of all floating-point outputs.
    missing: where the gradients depend on an operator without a derivative rule, "error" raises NoDerivativeError, which names it,
    and "zero" takes its derivative as zero and says so in the metadata of the result, under TAKEN_AS_ZERO.

    The derivative of Round, Floor, Ceil, Sign and of what makes integers or truth values is zero, as calculus has it. Operators
    that quantize (QuantizeLinear, QLinearConv, ...) count as being without a rule: all gradients before them would vanish.
    Where a derivative jumps (Relu at 0, Clip at its bounds) it is zero; among equal maxima MaxPool takes the first, others share.
    Raises UsageError for names that are not there and a loss that is no scalar, ModelError where shapes do not fit or depend on
    data.
    """
    graph, _ = open_model(model)
    with boundary("differentiate", graph):
        derivative = differentiate(graph, [wrt] if isinstance(wrt, str) else wrt, loss, input_shape, missing)
    result = derivative.source.model
    for tensor in result.graph.initializer:
        if tensor.name in derivative.source.arrays:
            tensor.raw_data = derivative.source.arrays[tensor.name].tobytes()
    if derivative.taken_as_zero:
        result.metadata_props.add(key=TAKEN_AS_ZERO, value="\n".join(derivative.taken_as_zero))
    return result


__all__ = ["TAKEN_AS_ZERO", "Derivative", "NoDerivativeError", "differentiate", "gradients"]
