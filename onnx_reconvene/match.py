"""Which units of a network are left in a pruned one, read off the weights of both."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_reconvene.cut import remaining
from onnx_reconvene.flow import weight_values
from onnx_reconvene.graph import every_tensor
from onnx_reconvene.groups import Analysis
from onnx_reconvene.saliency import axes_with_units

Units = NDArray[np.int64]
Weight = NDArray[Any]
UNKNOWN, GONE, STAYS = -1, 0, 1


def match(analysis: Analysis, pruned: gs.Graph) -> NDArray[np.bool_] | None:
    """Return which units [units] of the analysed network are left in pruned, None where its weights are no slices of those before.

    An axis of a weight is matched row by row once what is left along its other axes is known. Inputs and outputs of the networks
    are whole, so knowledge spreads from there; only where none does, vectors (biases, scales), which may repeat, are trusted.
    """
    after = {t.name: values for t in every_tensor(pruned).values() if (values := weight_values(t)) is not None}
    axes = {name: own for name, own in axes_with_units(analysis).items() if name in after}
    state = np.full(analysis.width, UNKNOWN)
    while (state == UNKNOWN).any():
        known = int((state != UNKNOWN).sum())
        for vectors in (False, True):
            for name, own in axes.items():
                before = weight_values(analysis.flow.weights[name])
                if before is None or (before.ndim == 1) != vectors or before.ndim != after[name].ndim:
                    continue
                if not _spread(state, before, after[name], own):
                    return None
            if int((state != UNKNOWN).sum()) > known:
                break
        else:
            return None
    stays: NDArray[np.bool_] = state == STAYS
    return stays


def _spread(state: NDArray[np.int64], before: Weight, after: Weight, axes: dict[int, NDArray[np.int64]]) -> bool:
    """Match the one axis of a weight that is not known yet; False where the weights contradict."""
    open_axes = [axis for axis, units in axes.items() if (state[units[units >= 0]] == UNKNOWN).any()]
    if len(open_axes) != 1:
        return True
    (axis,) = open_axes
    if axes[axis].size > axes[axis].shape[axis]:  # blocks, each with units of its own: told by the other weights
        return True
    rows = remaining(before, {other: np.append(state, STAYS)[units] == STAYS for other, units in axes.items() if other != axis})
    found = _positions(np.moveaxis(rows, axis, 0), np.moveaxis(after, axis, 0))
    if found is None:
        return False
    units = axes[axis].ravel()
    left = np.zeros(units.size, bool)
    left[found] = True
    state[units[(units >= 0) & ~left]] = GONE
    state[units[(units >= 0) & left]] = STAYS
    return True


def _positions(rows: Weight, left: Weight) -> NDArray[np.int64] | None:
    """Return where the rows that are left stood, in order; None where one of them is not among rows."""
    if rows.shape[1:] != left.shape[1:] or len(left) > len(rows):
        return None
    place, found = 0, []
    contents = [row.tobytes() for row in rows]
    for row in left:
        try:
            place = contents.index(row.tobytes(), place) + 1
        except ValueError:
            return None
        found.append(place - 1)
    return np.asarray(found, np.int64)
