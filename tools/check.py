"""Everything that has to hold before a commit: lint, format, types, tests. Run from anywhere; needs the `dev` extra.

usage: python tools/check.py [--fast] [OPTIONS OF PYTEST]

With --fast the tests are those of what everything else stands on: reading and writing, shapes, and all operators.
"""

from __future__ import annotations

import pathlib
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
FAST = (
    "bodies",
    "bounds",
    "coverage_of_operators",
    "fold",
    "labels",
    "operators",
    "quantized",
    "shapes",
    "sharing",
    "sites",
    "wire",
)


def run(*command: str, cwd: pathlib.Path = ROOT) -> None:
    """Run a module of this interpreter; stop where it fails."""
    print("$", *command, flush=True)
    done = subprocess.run([sys.executable, "-m", *command], cwd=cwd, check=False)
    if done.returncode:
        sys.exit(done.returncode)


def types() -> None:
    """Check types with the passes where an installation puts them, which is where mypy finds them."""
    with tempfile.TemporaryDirectory() as folder:
        laid_out = pathlib.Path(folder, "onnx_reconvene")
        shutil.copytree(ROOT / "onnx_reconvene", laid_out)
        shutil.copytree(ROOT / "passes", laid_out / "passes")
        shutil.copytree(ROOT / "models", pathlib.Path(folder, "models"))
        config = str(ROOT / "pyproject.toml")
        run("mypy", "--config-file", config, "-p", "onnx_reconvene", "-p", "models", cwd=pathlib.Path(folder))


if __name__ == "__main__":
    run("ruff", "check", ".")
    run("ruff", "format", "--check", ".")
    types()
    words = sys.argv[1:]
    files = [f"tests/test_{name}.py" for name in FAST] if "--fast" in words else []
    run("pytest", "-q", "-n", "auto", *files, *(word for word in words if word != "--fast"))
