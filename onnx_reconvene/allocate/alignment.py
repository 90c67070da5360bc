"""Widths at which no layer is slower than it was before.

Automatic rounding is to what onnxruntime's convolutions like (tools/bench/alignment.md). They compute channels in blocks, but leave
that path

- depthwise, unless ALIGNED divides the channels;
- with several channels in each of their groups, unless a block divides these;
- pointwise, where they read fewer channels than a block.

Where several groups share an axis, each keeps the remainder of its width, and so does their sum.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from onnx_reconvene.axes import Widths
from onnx_reconvene.graph import every_node
from onnx_reconvene.groups import Analysis, Group

ALIGNED = 4  # channels


@dataclass(frozen=True)
class Alignment:
    """Which groups (their places) kernels are particular about."""

    shared: frozenset[int]  # they are not alone on some axis of a weight
    grouped: frozenset[int]  # each of their blocks is a group of a convolution
    pointwise: dict[int, int]  # those that a convolution of one pixel reads -> of how many channels, at least

    @classmethod
    def of(cls, analysis: Analysis) -> Alignment:
        """Look at the convolutions of a network."""
        shared = {g for g, group in enumerate(analysis.groups) if any((site.units < 0).any() for site in group.sites)}
        grouped, pointwise = set[int](), dict[int, int]()
        for node in every_node(analysis.graph):
            x, weight, y = (t.name for t in (*node.inputs[:2], node.outputs[0])) if node.op == "Conv" else ("", "", "")
            if not {x, weight, y} <= analysis.shapes.keys():
                continue
            _, each, *kernel = analysis.shapes[weight]
            if node.attrs.get("group", 1) > 1 < each:
                grouped |= _groups(analysis, x) | _groups(analysis, y)
            elif node.attrs.get("group", 1) == 1 and set(kernel) == {1}:
                pointwise |= {g: min(each, pointwise.get(g, each)) for g in _groups(analysis, x)}
        return cls(frozenset(shared), frozenset(grouped), pointwise)

    def widths(self, place: int, group: Group, step: int) -> Widths:
        """Return the widths of the group at a place, ascending, where blocks are of step channels: those that make no layer slower
        than it is at the full width, which is one of them."""
        channels = 1 if place in self.grouped else group.channels
        whole, read = group.width * channels, self.pointwise.get(place, 0)
        if place in self.grouped and whole % step:
            return np.arange(1, group.width + 1)  # off the fast path as it is
        if place in self.shared and step <= read < 2 * step:
            return np.asarray([group.width])
        only_blocks = place in self.grouped or (step <= read and place not in self.shared)
        while step > ALIGNED and whole < 2 * step and not only_blocks:
            step //= 2  # a narrow group goes in finer steps
        if whole < 2 * ALIGNED and whole % ALIGNED and place not in self.shared:
            step = 1
        each = step // math.gcd(step, channels)
        remainder = group.width % each if place in self.shared else 0
        widths = np.arange(remainder, group.width + 1, each)
        return np.union1d(widths[widths > 0], [group.width])


def _groups(analysis: Analysis, tensor: str) -> set[int]:
    """Return the groups among the channels of a tensor."""
    units = analysis.units_along(tensor, 1)
    return set() if units is None else set(analysis.group_of_unit[units[units >= 0]].tolist())
