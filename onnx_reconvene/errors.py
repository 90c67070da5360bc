"""Errors a user can cause, each with the exit status of the command line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

LONGEST = 280  # characters of a message


def one_line(text: str) -> str:
    """Return text as one printable line; of a long one the middle is left out, as its ends say what is wrong and what to do."""
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(text.split()))
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 105]} ... {line[-100:]}"


class ReconveneError(Exception):
    """Base of all errors raised on purpose; its text is one line that names what to mend."""

    exit_status = 1

    def __str__(self) -> str:
        """Return the message as one line."""
        return one_line(super().__str__())


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


class DefectError(ReconveneError):
    """The program fails on a valid model: a defect, to be reported."""

    exit_status = 70


@contextmanager
def blaming(source: str) -> Iterator[None]:
    """Turn what files or code of the user raise meanwhile into a UsageError of one line that names their source."""
    try:
        yield
    except (ReconveneError, MemoryError):
        raise
    except (Exception, SystemExit) as error:
        raise UsageError(f"{source}: {described(error)}") from error


def described(error: BaseException) -> str:
    """Return what an error of the operating system says; of any other its type and what it says, if anything."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"{type(error).__name__}: {error}".removesuffix(": ")
