"""Budget to masks: how many units each group keeps, and which. Allocators register themselves; `allocators` holds them by name."""

from onnx_reconvene.allocate import density as density
from onnx_reconvene.allocate import equal as equal
from onnx_reconvene.allocate import latency as latency
from onnx_reconvene.allocate import reconvene as reconvene
from onnx_reconvene.allocate import threshold as threshold
from onnx_reconvene.allocate.budget import Budget, Limits, budgets, masks
from onnx_reconvene.allocate.meet import meet, round_finely
from onnx_reconvene.allocate.registry import Allocation, Allocator, allocator, allocators

__all__ = [
    "Allocation",
    "Allocator",
    "Budget",
    "Limits",
    "allocator",
    "allocators",
    "budgets",
    "masks",
    "meet",
    "round_finely",
]
