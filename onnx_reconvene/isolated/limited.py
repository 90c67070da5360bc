"""Runs a program of this folder within limits: `python limited.py PARENT BYTES SECONDS PROGRAM.py WORD...`.

It ends with the process PARENT, whatever ends that, gets no more than so many bytes of memory and seconds of processor time, and
onnxruntime sends no telemetry.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import runpy
import signal
import sys
import threading
import time

import onnxruntime

PR_SET_PDEATHSIG = 1  # of prctl, on Linux


def follow(parent: int) -> None:
    """End this process when its parent ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    if os.getppid() != parent:  # it ended before
        os._exit(1)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def limit(size: int, seconds: int) -> None:
    """Limit the memory and the processor time of this process, where the system can."""
    with contextlib.suppress(ImportError):
        import resource

        for kind, most in (("RLIMIT_DATA", size), ("RLIMIT_CPU", seconds)):
            number = getattr(resource, kind)
            hard = resource.getrlimit(number)[1]
            allowed = most if hard == resource.RLIM_INFINITY else min(most, hard)
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(number, (allowed, hard))


if __name__ == "__main__":
    follow(int(sys.argv[1]))
    limit(int(sys.argv[2]), int(sys.argv[3]))
    onnxruntime.disable_telemetry_events()
    sys.argv = sys.argv[4:]
    runpy.run_path(sys.argv[0], run_name="__main__")
