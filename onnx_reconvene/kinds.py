"""Kinds of options: how the values of each are read from the command line, and which they can be."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from onnx_reconvene.errors import UsageError

SHOWN = 80  # characters of a value


@dataclass(frozen=True)
class Kind:
    """What values an option takes.

    expected: in words. fits: whether a value is one. read: the value that a text on the command line stands for; ValueError where
    it stands for none. several: whether the option may be repeated. table: whether each text is NAME=VALUE.
    """

    expected: str
    fits: Callable[[Any], bool]
    read: Callable[[str], Any] = str
    several: bool = False
    table: bool = False

    def check(self, option: str, value: Any, optional: bool = False) -> None:
        """Raise UsageError, naming the option, where value is none of this kind."""
        if not (optional and value is None) and not self.fits(value):
            raise UsageError(f"{option} {shortened(value)}: expected {self.expected}")

    def parse(self, option: str, text: str | Sequence[str]) -> Any:
        """Return the value that the texts of an option of the command line stand for. Raises UsageError where they do not."""
        if isinstance(text, str):
            return self._parse_one(option, text)
        entries = [self._parse_one(option, entry) for entry in text]
        return dict(entries) if self.table else entries

    def _parse_one(self, option: str, text: str) -> Any:
        name, equals, value = text.rpartition("=") if self.table else ("", "=", text)
        try:
            if self.table and not (equals and name):
                raise ValueError("no NAME=VALUE")
            return (name, self.read(value)) if self.table else self.read(value)
        except ValueError as error:
            raise UsageError(f"{option} {text}: expected {self.expected} ({error})") from error


def shortened(value: Any) -> str:
    """Return the representation of a value, cut short where it is long."""
    text = " ".join(repr(value).split())
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def texts(value: str | Iterable[str]) -> tuple[str, ...]:
    """Return one text or several as a tuple."""
    return tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else (value,)


def at_least(least: int, most: int | None = None) -> Kind:
    """Return the kind of whole numbers from least on, up to most if that is given."""
    expected = f"a whole number of at least {least}" + (f" and at most {most}" if most is not None else "")
    return Kind(expected, lambda value: _is_whole(value) and least <= value <= (value if most is None else most), int)


def one_of(*names: str) -> Kind:
    """Return the kind of options that are one of these names."""
    return Kind(f"one of {', '.join(names)}", lambda value: isinstance(value, str) and value in names)


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_shape(value: Any) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, str) and all(_is_whole(n) and n > 0 for n in value)


def _table(expected: str, fits: Callable[[Any], bool], read: Callable[[str], Any] = str) -> Kind:
    def all_fit(value: Any) -> bool:
        return isinstance(value, Mapping) and all(isinstance(name, str) and fits(entry) for name, entry in value.items())

    return Kind(expected, all_fit, read, several=True, table=True)


def _rounding(text: str) -> int:
    if text != "auto" and int(text) < 1:
        raise ValueError("not above 0")
    return 0 if text == "auto" else int(text)


def _number(text: str) -> float:
    """Return a number, a whole one as it is written: as a floating-point one it would lose digits."""
    try:
        return int(text)
    except ValueError:
        return float(text)


ANYTHING = Kind("anything", lambda value: True)
TEXT = Kind("a text", lambda value: isinstance(value, str))
TEXTS = Kind("a text, or several", lambda value: all(isinstance(text, str) for text in texts(value)), several=True)
FLAG = Kind("True or False", lambda value: isinstance(value, bool))
FILE = Kind("the path of a file", lambda value: isinstance(value, str | os.PathLike))
OUTPUT = Kind("the path of a file, or a binary file to write to", lambda value: FILE.fits(value) or hasattr(value, "write"))
PLAN = Kind("a plan, or the path of one", lambda value: isinstance(value, str | os.PathLike) or hasattr(value, "keep"))
ROUNDING = Kind("a whole number of at least 1, or auto", lambda value: _is_whole(value) and value >= 0, _rounding)
FRACTIONS = _table("a fraction by name", lambda value: isinstance(value, Real) and not isinstance(value, bool), float)
NUMBERS = _table("a number by name", lambda value: isinstance(value, Real) and not isinstance(value, bool), _number)
SETTINGS = _table("a text by name", lambda value: isinstance(value, str))
SHAPES = _table("sizes of at least 1 by name", _is_shape, lambda text: tuple(int(n) for n in text.split(",")))
