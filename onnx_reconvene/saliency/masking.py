"""Scoring what is left when some units are gone, without cutting them out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from onnx_reconvene.flow import weight_constant
from onnx_reconvene.groups import Analysis


@contextlib.contextmanager
def without(analysis: Analysis, keep: NDArray[np.bool_]) -> Iterator[None]:
    """Let all weights of the units that keep [units] does not hold be zero for as long as this lasts.

    The network then computes what it computes without these units, but for statistics over channels, which still count them.
    """
    before = []
    for name, tensor in analysis.flow.weights.items():
        constant = weight_constant(tensor)
        gone = [~np.append(keep, True)[units] for units in analysis.bearings(name).values()]
        if constant is None or not any(mask.any() for mask in gone):
            continue
        before.append((constant, constant.values))
        values = np.array(constant.values)
        zero = analysis.flow.zero_of(name, values.dtype)
        for mask in gone:
            np.copyto(values, zero, where=mask)
        constant.values = values
    try:
        yield
    finally:
        for constant, values in before:
            constant.values = values
