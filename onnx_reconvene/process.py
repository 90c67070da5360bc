"""Programs in processes of their own: a model that crashes the native runtime takes nothing else down."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator

from onnx_reconvene.errors import UsageError

try:
    import resource
except ImportError:  # on Windows
    resource = None  # type: ignore[assignment]

PROGRAMS = os.path.join(os.path.dirname(__file__), "isolated")
TIME_LIMIT = 600  # seconds


@contextlib.contextmanager
def workplace(purpose: str) -> Iterator[str]:
    """Yield a folder for the files of a program, removed in the end. Raises UsageError, naming the purpose, if it has no room."""
    with tempfile.TemporaryDirectory(prefix="reconvene-") as folder:
        try:
            yield folder
        except OSError as error:
            raise UsageError(f"{purpose} needs room in {os.path.dirname(folder)}: {error.strerror or error}") from error


def memory() -> int:
    """Return the bytes of memory that this process may use."""
    if resource is None:
        return 2**40
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return machine if limit == resource.RLIM_INFINITY else min(limit, machine)


def isolated(program: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a program of the folder `isolated`; raises subprocess.TimeoutExpired where it takes too long."""
    command = [sys.executable, os.path.join(PROGRAMS, program), *words]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}  # they import each other
    return subprocess.run(command, capture_output=True, text=True, timeout=TIME_LIMIT, check=False, env=environment)


def last_line(text: str) -> str:
    """Return the last line of what a program said."""
    return text.strip().splitlines()[-1] if text.strip() else "it gives no reason"
