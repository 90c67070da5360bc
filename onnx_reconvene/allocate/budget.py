"""The search space of an allocator: allowed widths, and targets that bound what they cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from onnx_reconvene.allocate.alignment import Alignment
from onnx_reconvene.axes import Widths
from onnx_reconvene.cost import CostModel, Counting, uncounted_line
from onnx_reconvene.errors import TargetError
from onnx_reconvene.groups import Analysis, Group
from onnx_reconvene.latency.step import channel_step
from onnx_reconvene.saliency import ElementScores, Scores
from onnx_reconvene.target import Rounding, Target

NONE = {  # why a network costs nothing of a kind
    "params": "the network stores no floating-point weights",
    "size": "the network stores no weights",
    "macs": "no layer multiplies and accumulates",
}


OF_SHAPES = ("macs", "memory", "latency")  # costs that depend on the shapes of activations


@dataclass(frozen=True)
class Limits:
    """What widths are allowed: multiples of round_to channels (0: automatic) where a group is that wide, at least min_width
    units, at most what is left of the group, and a fixed fraction for some groups (by name)."""

    round_to: int = 1
    min_width: int = 1
    fixed: tuple[tuple[str, float], ...] = ()
    left: tuple[int, ...] | None = None  # of each group, where some units are gone already


@dataclass(frozen=True)
class Budget:
    """The search space of an allocator: the widths each group may have, and the targets that bound their cost."""

    cost: CostModel
    allowed: tuple[Widths, ...]  # per group, ascending
    targets: tuple[Target, ...]
    bounds: tuple[float, ...]
    upai: Callable[[], ElementScores]  # unstructured pruning at initialization
    step: int = 1  # channels of which widths are multiples, at most

    def holds(self, widths: Widths) -> bool:
        """Return True if all targets hold at these widths."""
        return self.allows(self.cost(target.kind, widths) for target in self.targets)

    def allows(self, costs: Iterable[float]) -> bool:
        """Return True if costs, in the order of targets, are within their bounds."""
        return all(cost <= bound * (1 + 1e-12) for cost, bound in zip(costs, self.bounds, strict=True))

    def rounding(self, widths: Widths) -> Rounding:
        """Return how much of its target the kind of cost that comes closest leaves unused; nothing if no group is cut."""
        dense = [self.cost(t.kind, self.cost.dense) for t in self.targets]
        unused = [
            (max(0.0, min(bound, before) - self.cost(t.kind, widths)) / before if before else 0.0, str(t))
            for t, bound, before in zip(self.targets, self.bounds, dense, strict=True)
        ]
        share, target = min(unused)
        return Rounding(self.step, target, 0.0 if np.array_equal(widths, self.largest) else share)

    @cached_property
    def smallest(self) -> Widths:
        """The least width of each group."""
        return np.asarray([widths[0] for widths in self.allowed], np.int64)

    @cached_property
    def largest(self) -> Widths:
        """The largest width of each group: what is left of it."""
        return np.asarray([widths[-1] for widths in self.allowed], np.int64)

    @cached_property
    def _between(self) -> list[NDArray[np.float64]]:
        """The geometric means of neighbouring widths of each group: above these the wider one is nearer in proportion."""
        return [np.sqrt(a[1:] * a[:-1]) for a in self.allowed]

    def whole(self, wanted: NDArray[np.floating]) -> Widths:
        """Return the wanted widths rounded down to whole units, within the least and the largest that are allowed."""
        found: Widths = np.floor(wanted + 1e-9).astype(np.int64).clip(self.smallest, self.largest)
        return found

    def nearest(self, wanted: NDArray[np.floating]) -> Widths:
        """Return the allowed widths that are, in proportion, nearest to the wanted ones in whole units."""
        places = map(np.searchsorted, self._between, self.whole(wanted))
        return np.asarray([a[p] for a, p in zip(self.allowed, places, strict=True)], np.int64)

    def next(self, group: int, width: int) -> int | None:
        """Return the next larger allowed width of group, None at its largest."""
        place = int(np.searchsorted(self.allowed[group], width, "right"))
        return int(self.allowed[group][place]) if place < len(self.allowed[group]) else None


def budgets(
    cost: CostModel,
    targets: Sequence[Target],
    limits: Limits,
    upai: Callable[[], ElementScores],
    progress: float = 1.0,
    allow_uncounted: bool = False,
) -> Iterator[Budget]:
    """Yield the search space for these targets, or for the way to them: progress is how much is done, on a logarithmic scale.

    upai scores elements, for allocators that ask for it. Where widths are rounded automatically, ever finer spaces follow, each
    with half the step of the one before, from the first in which the targets can be reached. Raises TargetError, naming the best
    that can be reached, where even the narrowest network is above a target, and where there is nothing of what one is to save.
    """
    check_savable(cost, targets, allow_uncounted)
    bounds = tuple(_on_the_way(cost(t.kind, cost.dense), t, progress) for t in targets)
    reachable = False
    for step, widths in _choices(cost.analysis, limits):
        within = Budget(cost, tuple(widths), tuple(targets), bounds, upai, step)
        hopeless = not within.allowed and any(t.relative and t.value < 1 for t in targets)
        if not hopeless and within.holds(within.smallest):
            reachable = True
            yield within
    if not reachable:
        raise TargetError(_unreachable(within))


def check_savable(cost: CostModel, targets: Sequence[Target], allow_uncounted: bool = False) -> None:
    """Raise TargetError where a network that can be cut has nothing of what a target is to save, as far as that counts, or where
    what it has is not known and the user does not allow that."""
    uncounted = {} if allow_uncounted else Counting.of(cost.analysis).uncounted
    for target in targets:
        if uncounted and target.kind in OF_SHAPES and not (target.relative and target.value >= 1):
            raise TargetError(f"--target {target}: {uncounted_line(uncounted)}; --allow-uncounted leaves these out")
        saves = target.value < 1 if target.relative else target.kind != "macs"
        if saves and target.kind in NONE and cost.dense.size and not cost(target.kind, cost.dense):
            raise TargetError(f"--target {target}: {NONE[target.kind]}")


def _choices(analysis: Analysis, limits: Limits) -> Iterator[tuple[int, list[Widths]]]:
    """Yield steps, and the widths that groups may have in these; where they are rounded automatically, ever finer ones."""
    if limits.round_to:
        step = limits.round_to
        yield step, [_allowed(k, group, limits, _multiples(group, step)) for k, group in enumerate(analysis.groups)]
        return
    alignment, step = Alignment.of(analysis), channel_step()
    while step:
        yield step, [_allowed(k, group, limits, alignment.widths(k, group, step)) for k, group in enumerate(analysis.groups)]
        step //= 2


def _multiples(group: Group, channels: int) -> Widths:
    """Return the widths at which a group has a multiple of so many channels; all where it is too narrow."""
    each = channels // math.gcd(channels, group.channels)
    return np.arange(each, group.width + 1, each) if group.width >= each else np.arange(1, group.width + 1)


def _unreachable(tried: Budget) -> str:
    smallest = tried.smallest
    parts = []
    for target, bound in zip(tried.targets, tried.bounds, strict=True):
        reached, before = tried.cost(target.kind, smallest), tried.cost(target.kind, tried.cost.dense)
        if reached > bound:
            form = "{:.3f} ms" if target.kind == "latency" else "{:.0f}"
            asked, least, dense = (form.format(value) for value in (bound, reached, before))
            share = f" ({reached / before:.4f} of {dense})" if before else ""
            parts.append(f"{target.kind} at most {asked} is asked, {least}{share} is the best reachable")
    if not tried.allowed:
        parts.insert(0, "no channel can be removed (inspect says why)")
    return "; ".join(parts)


def _on_the_way(before: float, target: Target, progress: float) -> float:
    bound = target.bound(before)
    return bound if progress == 1 or bound >= before else before * (bound / before) ** progress


def _allowed(place: int, group: Group, limits: Limits, liked: Widths) -> Widths:
    """Return the liked widths of the group at a place that are within limits, and the largest that is."""
    most = limits.left[place] if limits.left else group.width
    fixed = dict(limits.fixed).get(group.name)
    if fixed is not None:
        return np.asarray([min(most, max(1, math.floor(fixed * group.width + 1e-9)))])
    least = min(max(1, limits.min_width), most)
    return np.union1d(liked[(liked >= least) & (liked <= most)], [most])


def masks(analysis: Analysis, scores: Scores, widths: Widths) -> NDArray[np.bool_]:
    """Return which units stay: the best-scored of each block of each group, as many as its width; ties go to the first."""
    keep = np.zeros(analysis.width, bool)
    for group, width in zip(analysis.groups, widths.tolist(), strict=True):
        best = np.argsort(-group.by_block(scores), 1, kind="stable")[:, :width]
        np.put_along_axis(group.by_block(keep), best, True, 1)
    return keep
