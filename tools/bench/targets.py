"""How near below its target each network ends, widths in steps of one channel.

usage: python tools/bench/targets.py MODEL.onnx ...

Every kind of target that needs no clock, at a half, by magnitude and the same fraction everywhere. Writes targets.json and
targets.md beside this script.
"""

from __future__ import annotations

import sys
from pathlib import Path

from common import HERE, setting, table, write

import onnx_reconvene as rc

KINDS = {"params": "params", "macs": "macs", "size": "bytes", "memory": "memory"}
TARGET, NEAR = 0.5, 0.99
OPTIONS = {"criterion": "l1", "allocate": "uniform", "round_to": 1, "verify": False}


def part(path: str, kind: str) -> float | None:
    """Return what is kept, in parts of the target; None where it cannot be reached."""
    try:
        report = rc.prune(path, target=f"{kind}={TARGET}", **OPTIONS).report
    except rc.TargetError:
        return None
    return float(round(getattr(report.after, KINDS[kind]) / getattr(report.before, KINDS[kind]) / TARGET, 4))


def main(paths: list[str]) -> None:
    """Measure and write."""
    where, rows = setting(), []
    for path in paths:
        rows.append({"network": Path(path).stem, **{kind: part(path, kind) for kind in KINDS}})
        print(rows[-1], flush=True)
    reached = {kind: [r[kind] for r in rows if r[kind] is not None] for kind in KINDS}
    said = [
        f"{kind}: {min(found)} to {max(found)}, {sum(NEAR <= f <= 1 for f in found)} of {len(rows)} networks within 1 % below."
        for kind, found in reached.items()
    ]
    text = "\n\n".join(
        [
            "Parts of the target that are kept. Empty: more is frozen than the target allows.",
            table(list(rows[0]), [list(r.values()) for r in rows]),
            *said,
        ]
    )
    write(HERE / "targets.json", "Targets", "python tools/bench/targets.py MODEL.onnx ...", where, {"rows": rows}, text)


if __name__ == "__main__":
    main(sys.argv[1:])
