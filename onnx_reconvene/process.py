"""Programs in processes of their own: a model that crashes the native runtime takes nothing else down."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator

from onnx_reconvene.errors import UsageError

try:
    import fcntl
    import resource
except ImportError:  # on Windows
    fcntl = resource = None  # type: ignore[assignment]

PROGRAMS = os.path.join(os.path.dirname(__file__), "isolated")
PREFIX = "onnx-reconvene-"  # of temporary folders
TIME_LIMIT = 600  # seconds
MEMORY_SHARE = 0.9  # of what the machine has


@contextlib.contextmanager
def workplace(purpose: str) -> Iterator[str]:
    """Yield a folder for the files of a program, removed in the end, or by a later `sweep` if this process is killed.

    Raises UsageError, naming the purpose, if it has no room.
    """
    sweep()
    with contextlib.ExitStack() as stack:
        try:
            yield _new_folder(stack)
        except OSError as error:
            raise UsageError(f"{purpose} needs room in {tempfile.gettempdir()}: {error.strerror or error}") from error


def _new_folder(stack: contextlib.ExitStack) -> str:
    while True:
        folder = tempfile.mkdtemp(prefix=PREFIX)
        with contextlib.suppress(BlockingIOError, FileNotFoundError):  # a sweep was quicker
            stack.enter_context(held(folder))
            if os.path.isdir(folder):
                stack.callback(shutil.rmtree, folder, ignore_errors=True)
                return folder


def sweep() -> None:
    """Remove the temporary folders of processes that were killed."""
    for folder in glob.glob(os.path.join(glob.escape(tempfile.gettempdir()), f"{PREFIX}*")):
        with contextlib.suppress(OSError), held(folder):
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def held(path: str) -> Iterator[None]:
    """Hold a file or folder of this user, at most until this process ends. Raises OSError if another process holds it."""
    if fcntl is None:
        yield
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        if os.fstat(descriptor).st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, "belongs to somebody else", path)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def memory() -> int:
    """Return the bytes of memory that this process may use."""
    if resource is None:
        return 2**40
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return machine if limit == resource.RLIM_INFINITY else min(limit, machine)


@contextlib.contextmanager
def started(program: str, *words: str) -> Iterator[subprocess.Popen[str]]:
    """Start a program of the folder `isolated`, within limits of memory and processor time; in the end it is stopped."""
    limits = os.getpid(), int(MEMORY_SHARE * memory()), TIME_LIMIT * (os.cpu_count() or 1)
    command = [sys.executable, os.path.join(PROGRAMS, "limited.py"), *map(str, limits), os.path.join(PROGRAMS, program), *words]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}  # they import each other
    pipe = subprocess.PIPE
    with subprocess.Popen(command, text=True, env=environment, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        try:
            yield process
        finally:
            process.kill()


def finished(process: subprocess.Popen[str], text: str = "") -> subprocess.CompletedProcess[str]:
    """Return what a program comes to that reads text; raises subprocess.TimeoutExpired where it takes too long."""
    out, err = process.communicate(text, TIME_LIMIT)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def isolated(program: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a program of the folder `isolated`; raises subprocess.TimeoutExpired where it takes too long."""
    with started(program, *words) as process:
        return finished(process)


def last_line(text: str) -> str:
    """Return the last line of what a program said."""
    return text.strip().splitlines()[-1] if text.strip() else "it gives no reason"
