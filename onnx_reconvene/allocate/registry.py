"""The registry of allocators."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_reconvene.allocate.budget import Budget
from onnx_reconvene.axes import Widths
from onnx_reconvene.groups import Analysis
from onnx_reconvene.saliency import Scores


@dataclass(frozen=True)
class Allocation:
    """Units that each group keeps (of each block), and how sensitive it is to that, if the allocator says."""

    widths: Widths
    sensitivity: NDArray[np.float64] | None = None  # [groups], 0 where nothing is lost


Allocator = Callable[[Analysis, Scores, Budget], "Widths | Allocation"]
allocators: dict[str, Allocator] = {}


def allocator(name: str) -> Callable[[Allocator], Allocator]:
    """Register the decorated function as allocator `name`.

    It is given the network, the scores of its units [units] (minus infinity for those that are gone already) and the budget, and
    returns how many units each group keeps [groups], within the budget.
    """

    def register(function: Allocator) -> Allocator:
        allocators[name] = function
        return function

    return register
