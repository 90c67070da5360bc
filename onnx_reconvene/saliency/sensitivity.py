"""Criteria that look at the loss: what it would lose with a unit, to first and second order.

g is the gradient of the loss by a weight w, H the Hessian.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from onnx_reconvene.groups import Analysis
from onnx_reconvene.saliency.criterion import Context, Elements, Scores, criterion, differentiable_weights, element_criterion
from onnx_reconvene.saliency.sites import combined_at, reads_and_makes

PROBES = 8
SIGNS = np.array([-1, 1], np.int8)


@element_criterion("snip", "Lee et al. 2019, arXiv 1810.02340", needs_data=True)
def snip(analysis: Analysis, context: Context) -> Elements:
    """Sum of |w g| over the weights of the unit."""
    g = context.objective.mean_gradients(list(differentiable_weights(analysis)))
    return lambda name, w: np.abs(w * g[name])


@element_criterion("grasp", "Wang et al. 2020, arXiv 2002.07376", needs_data=True)
def grasp(analysis: Analysis, context: Context) -> Elements:
    """Sum of w (H g): how much of the gradient's norm would go with the unit.

    The published score is -w (H g), of which the largest are removed.
    """
    g = context.objective.mean_gradients(list(differentiable_weights(analysis)))
    products = context.objective.mean_products(g)
    return lambda name, w: w * products[name]


@criterion("taylor", "Molchanov et al. 2019, arXiv 1906.10771", needs_data=True)
def taylor(analysis: Analysis, context: Context) -> Scores:
    """Square of the sum of w g over the weights and biases of the unit."""
    places, objective = reads_and_makes(analysis), context.objective
    batches = [(count, found) for count, found in objective.contractions(places)]
    means = [
        sum(count * found[k][0].astype(np.float64) for count, found in batches) / objective.samples for k in range(len(places))
    ]
    return np.square(combined_at(analysis, places, means, context.aggregate))


@criterion("fisher", "Liu et al. 2021, arXiv 2108.00708", needs_data=True)
def fisher(analysis: Analysis, context: Context) -> Scores:
    """Mean over samples of the square of the sum of w g over the weights and biases of the unit."""
    places, objective = reads_and_makes(analysis), context.objective
    total = np.zeros(analysis.width)
    batches: Iterable[list[NDArray[np.float32]]] = (sums for _, sums in objective.contractions(places, per_sample=True))
    if context.aggregate == "normalized":  # by the mean of all samples, whatever the batches
        batches = [[np.concatenate(own) for own in zip(*batches, strict=True)]]
    for sums in batches:
        total += np.square(combined_at(analysis, places, sums, context.aggregate)).sum(0)
    return total / objective.samples


@element_criterion("hutchinson", "diagonal by random probes: Hutchinson 1990; for pruning: arXiv 2502.11450", needs_data=True)
def hutchinson(analysis: Analysis, context: Context) -> Elements:
    """Sum of w^2 diag(H), the diagonal estimated by z (H z) with random signs z."""
    weights = differentiable_weights(analysis)
    signs = [{name: context.rng.choice(SIGNS, w.shape) for name, w in weights.items()} for _ in range(PROBES)]
    diagonal = context.objective.mean_curvatures(signs)
    return lambda name, w: w * w * diagonal[name]
