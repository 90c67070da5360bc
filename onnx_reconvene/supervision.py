"""The command in a child process, so that its end by a signal is one line, too: when native code crashes on a model, when a file
shrinks that is mapped, when memory runs out."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

from onnx_reconvene.errors import DefectError, ModelError, one_line

ENDING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
PR_SET_PDEATHSIG = 1  # of prctl, on Linux


def supervised(run: Callable[[], int]) -> int:
    """Run a command in a child process and return its exit status; signals that end this process are passed on to it."""
    if not hasattr(os, "fork"):
        return run()
    parent = os.getpid()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    child = os.fork()
    if not child:
        _follow(parent)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # which is told from here, until the command heeds it itself
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return run()

    def pass_on(number: int, _: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)

    for number in ENDING:
        if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
            signal.signal(number, pass_on)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    _, status = os.waitpid(child, 0)
    return _report(signal.Signals(os.WTERMSIG(status))) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


class Ended(BaseException):
    """A signal asks this process to end; on its way up it lets all clean up, as KeyboardInterrupt does."""

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by {signal.Signals(number).name}")
        self.number = number


@contextlib.contextmanager
def ending() -> Iterator[None]:
    """Let signals that end this process raise KeyboardInterrupt or Ended meanwhile.

    Once one came, further ones are ignored, then and afterwards, so that they do not disturb the cleaning up.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in ENDING}
    heeded = [number for number in ENDING if before[number] in (signal.SIG_DFL, signal.default_int_handler)]

    def end(number: int, _: FrameType | None) -> None:
        for other in heeded:
            signal.signal(other, signal.SIG_IGN)
        raise KeyboardInterrupt if number == signal.SIGINT else Ended(number)

    for number in heeded:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in heeded:
            if signal.getsignal(number) is end:
                signal.signal(number, before[number])


def _follow(parent: int) -> None:
    """Let this process end with its parent, however that ends."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def _report(number: signal.Signals) -> int:
    """Say in one line what ended the command, remove what it left, and return the exit status for that."""
    from onnx_reconvene.process import sweep

    sweep()
    if number in ENDING:
        return _say(f"ended by {number.name}; nothing was written", 128 + number)
    if number == signal.SIGBUS:
        return _say("a file shrank while it was read; nothing was written", ModelError.exit_status)
    if number == signal.SIGKILL:
        return _say("killed, probably for want of memory; nothing was written", ModelError.exit_status)
    reason = _refusal(sys.argv[1:])
    if reason:
        return _say(f"not a valid ONNX model: {reason}", ModelError.exit_status)
    return _say(f"internal error (native code), please report it: {number.name}", DefectError.exit_status)


def _refusal(words: Sequence[str]) -> str:
    """Return why the model that the command reads is not valid, "" if nothing is known to be wrong with it."""
    from onnx_reconvene.boundary import refusal

    return next((reason for word in words if os.path.isfile(word) and (reason := refusal(word))), "")


def _say(text: str, status: int) -> int:
    print(f"onnx-reconvene: {one_line(text)}", file=sys.stderr)
    return status
