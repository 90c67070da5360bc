"""Export tiny networks of transformers' families with both of torch's exporters.

usage: python tools/bench/export_families.py OUTDIR [PATTERN]

Writes MODEL__EXPORTER.onnx to OUTDIR, where there is none yet, or MODEL__EXPORTER.txt with the reason why there cannot be one.
PATTERN chooses models by name. Needs more than the project does: pip install torch transformers onnxscript.
"""

from __future__ import annotations

import contextlib
import fnmatch
import io
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import torch
from families import FAMILIES, Family

EXPORTERS = {"dynamo": True, "torchscript": False}


class Plain(torch.nn.Module):
    """The network of a family as a function of tensors that returns tensors."""

    def __init__(self, family: Family, names: Sequence[str]) -> None:
        super().__init__()
        self.model = family.build()
        self.names, self.outputs = names, family.outputs

    def forward(self, *values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the outputs for values, which belong to names."""
        found = self.model(**dict(zip(self.names, values, strict=True)))
        return tuple(getattr(found, name) for name in self.outputs)


def export(family: Family, dynamo: bool, path: Path) -> None:
    """Write the network to path, its batch size free if the exporter can do that."""
    try:
        export_batch(family, dynamo, path, free=True)
    except Exception:  # exporters raise whatever comes their way
        export_batch(family, dynamo, path, free=False)


def export_batch(family: Family, dynamo: bool, path: Path, free: bool) -> None:
    """Write the network to path, its batch size free or that of the example."""
    inputs = family.inputs()
    names = list(inputs)
    options: dict[str, Any] = {"input_names": names, "output_names": list(family.outputs), "dynamo": dynamo, "verbose": False}
    if free and dynamo:
        options["dynamic_shapes"] = (tuple({0: torch.export.Dim("batch")} for _ in names),)
    elif free:
        options["dynamic_axes"] = {name: {0: "batch"} for name in (*names, *family.outputs)}
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        whole = Path(folder) / "model.onnx"
        torch.onnx.export(Plain(family, names).eval(), tuple(inputs.values()), str(whole), **options)
        onnx.save(onnx.load(whole), path)


def main(folder: Path, pattern: str = "*") -> None:
    """Export the models that pattern names."""
    folder.mkdir(parents=True, exist_ok=True)
    for model in fnmatch.filter(FAMILIES, pattern):
        for exporter, dynamo in EXPORTERS.items():
            path = folder / f"{model}__{exporter}.onnx"
            if path.exists():
                continue
            try:
                export(FAMILIES[model], dynamo, path)
            except Exception as error:
                path.with_suffix(".txt").write_text(f"{type(error).__name__}: {error}\n", encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(Path(sys.argv[1]), *sys.argv[2:])
