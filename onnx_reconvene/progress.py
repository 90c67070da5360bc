"""Progress bars, on a terminal alone, for work over a second."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any


def passes_bar(passes: Sequence[Any]) -> Iterable[Any]:
    """Show a progress bar on a terminal for work over a second."""
    if not os.isatty(2):
        yield from passes
        return
    from tqdm import tqdm

    with tqdm(passes, delay=1, leave=False, bar_format="{desc:10} {bar:30} {n}/{total}") as bar:
        for step in bar:
            bar.set_description_str(type(step).__name__, refresh=False)
            yield step


def cells_bar(steps: Iterable[Any], count: int) -> Iterable[Any]:
    """Show on a terminal how many cells are done."""
    if not os.isatty(2):
        yield from steps
        return
    from tqdm import tqdm

    yield from tqdm(steps, total=count, delay=1, leave=False, bar_format="cells {bar:30} {n}/{total} {remaining}")
