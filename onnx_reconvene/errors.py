"""Errors a user can cause, each with the exit status of the command line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class ReconveneError(Exception):
    """Base of all errors raised on purpose; its text is one line that names what to mend."""

    exit_status = 1


class UsageError(ReconveneError):
    """An option or argument is wrong."""

    exit_status = 2


class ModelError(ReconveneError):
    """The input is unreadable, invalid or unsupported."""

    exit_status = 3


class TargetError(ReconveneError):
    """The target cannot be reached; the text says what can."""

    exit_status = 4


class VerificationError(ReconveneError):
    """The pruned network does not compute what the original does without the removed channels."""

    exit_status = 5


@contextmanager
def blaming(source: str) -> Iterator[None]:
    """Turn what files or code of the user raise meanwhile into a UsageError of one line that names their source."""
    try:
        yield
    except (ReconveneError, MemoryError):
        raise
    except (Exception, SystemExit) as error:
        raise UsageError(" ".join(f"{source}: {type(error).__name__}: {error}".split()).removesuffix(":")) from error
