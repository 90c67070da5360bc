"""SynFlow: how much of the flow through the network of magnitudes passes each unit. Needs no data."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnx_reconvene.groups import Analysis
from onnx_reconvene.saliency.criterion import (
    Context,
    Elements,
    Scores,
    criteria,
    criterion,
    differentiable_weights,
    marginals,
    unit_scores,
)

if TYPE_CHECKING:
    from onnx_reconvene.synflow.schedule import Keep

SOURCE = "Tanaka et al. 2020, arXiv 2006.05467"
TINY = 1e-30
NARROW = 0.85  # of units left since the maps were last made smaller; then they are again, with the profiles of what is left


def synflow_elements(analysis: Analysis, context: Context) -> Elements:
    """Return the share of the flow through each element of the weights, per channel, in the network as it is."""
    from onnx_reconvene.synflow.rules import channel_network

    found = channel_network(analysis).elements()

    def score(name: str, values: NDArray[Any]) -> NDArray[np.float32]:
        shares = found[name] if name in found else np.abs(values) / max(np.abs(values).sum(dtype=float), TINY)
        return np.asarray(shares, np.float32)

    return score


@criterion("synflow", SOURCE, elements=synflow_elements, conserved=True)
def synflow(analysis: Analysis, context: Context) -> Scores:
    """Share of the synaptic flow, per channel (kernels summed, no convolutions), in 100 rounds of removal."""
    from onnx_reconvene.synflow.rules import channel_network, unreached
    from onnx_reconvene.synflow.schedule import iterated

    network, width = channel_network(analysis), analysis.width
    apart = unreached(analysis, network)
    magnitudes = criteria["l1"].score(analysis, context) if apart else np.zeros(width)
    if network.averaged:
        warnings.warn(f"synflow has no rule for {_first(network.averaged)}; the flow there is spread evenly", stacklevel=2)
    if apart:
        layers = list(dict.fromkeys(f"'{group.layers[0]}'" for group in apart))
        warnings.warn(f"no flow from the inputs can be followed through {_first(layers)}; magnitudes share it there", stacklevel=2)

    def shares(keep: Keep) -> Scores:
        nonlocal network, width
        if keep.sum() < NARROW * width:
            network, width = network.narrowed(keep), keep.sum()
        found = network.shares(keep)
        for group in apart:
            left = magnitudes[group.units] * keep[group.units]
            found[group.units] = left / max(left.sum(), TINY)
        return found

    return iterated(analysis, shares)


def _first(names: Sequence[str]) -> str:
    """Return the first two of names, and how many more there are."""
    more = f" and {len(names) - 2} more" if len(names) > 2 else ""
    return ", ".join(names[:2]) + more


def synflow_exact_elements(analysis: Analysis, context: Context) -> Elements:
    """Return the share of the flow through each element of the weights, by gradients, in the network as it is."""
    from onnx_reconvene.synflow.exact import ExactNetwork

    differentiable_weights(analysis)
    found = ExactNetwork(analysis).elements(np.ones(analysis.width, bool))
    return lambda name, _: found[name]


@criterion("synflow-exact", SOURCE, elements=synflow_exact_elements, conserved=True)
def synflow_exact(analysis: Analysis, context: Context) -> Scores:
    """Share of the synaptic flow by gradients in onnxruntime, in 100 rounds of removal; slow."""
    from onnx_reconvene.synflow.exact import ExactNetwork  # and with it all derivative rules
    from onnx_reconvene.synflow.schedule import iterated

    differentiable_weights(analysis)
    network = ExactNetwork(analysis)

    def shares(keep: Keep) -> Scores:
        elements = network.elements(keep)
        return unit_scores(analysis, context, lambda name, _, shapes: marginals(elements[name], shapes))

    return iterated(analysis, shares)
