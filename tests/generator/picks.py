"""Where decisions come from: a function that returns an integer from 0 to n - 1, 0 being the simplest choice."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

Pick = Callable[[int], int]


@dataclass
class Choices:
    """A `pick` that follows a list of integers and goes on with random ones, or zeros without a seed; it records what it picks."""

    given: Sequence[int] = ()
    seed: int | None = None
    made: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def __call__(self, n: int) -> int:
        at = len(self.made)
        more = 0 if self.seed is None else int(self._random.random() * n)
        self.made.append(min(self.given[at], n - 1) if at < len(self.given) else more)
        return self.made[-1]
