"""What the table of operators holds: per operator, how labels flow and how its integers follow a cut."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnx_reconvene.op import Op

if TYPE_CHECKING:
    from onnx_reconvene.cutting import CutOp


@dataclass(frozen=True)
class Operator:
    """`flow` says how the labels of a node's inputs, weights and outputs hang together; `follow`, where a node has
    attributes or integer inputs that speak of channel counts, brings them up to date after a cut; `enter`, where a node runs
    bodies that have inputs, gives labels to these before labels flow through the bodies, and `flow` comes after that; `macs`
    enters the multiply-accumulates of a layer, which count whether or not its labels can be followed; `steps` returns how often a
    node runs its body, None where that is not known."""

    flow: Callable[[Op], None]
    follow: Callable[[CutOp], None] | None = None
    enter: Callable[[Op], None] | None = None
    macs: Callable[[Op], None] | None = None
    steps: Callable[[Op], int | None] | None = None
