"""Names, model references (``name/7``, ``name@alias``) and durations: one grammar each, for the whole package."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from datetime import timedelta

from mlcycle_nb.errors import InvalidInput, InvalidName

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_RESERVED = frozenset({"latest", "con", "nul", "aux", "prn"})
_DURATION = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,3})?)(ms|s|m|h|d|w)")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
MAX_DURATION = timedelta(days=3650)


def check_name(text: str, what: str = "name") -> str:
    """Return `text` when it is a valid name, else raise.

    The grammar is ``[a-z0-9][a-z0-9_-]{0,62}``: it is a file name, a URL segment, an Envoy cluster name and an
    MLflow name without any quoting.

    Raises
    ------
    InvalidName
        With the first offending code point and its position.
    """
    if not isinstance(text, str):
        raise InvalidName(f"{what} must be text, got {type(text).__name__}", value=text)
    if not text:
        raise InvalidName(f"{what} is empty", remedy="use 1 to 63 of a-z, 0-9, '_' and '-'")
    if len(text) > 63:
        raise InvalidName(f"{what} has {len(text)} characters", value=text, remedy="use at most 63")
    if not _NAME.fullmatch(text):
        for position, character in enumerate(text):
            allowed = character.isascii() and (character.isdigit() or character.islower())
            if allowed or (character in "_-" and position > 0):
                continue
            kind = unicodedata.name(character, "control character")
            raise InvalidName(
                f"{what} has {kind} U+{ord(character):04X} at position {position}",
                value=text,
                remedy="use a-z, 0-9, '_' and '-', beginning with a letter or digit",
            )
    if text in _RESERVED:
        raise InvalidName(f"{what} {text!r} is reserved", value=text, remedy="choose another name")
    return text


def check_alias(text: str) -> str:
    """Return `text` when it is a valid alias; ``v7`` is refused because it reads as a version."""
    check_name(text, "alias")
    if re.fullmatch(r"v?\d+", text):
        raise InvalidName("alias reads as a version number", value=text, remedy="use a word such as champion")
    return text


@dataclass(frozen=True, slots=True)
class ModelReference:
    """A model, one version of it, or an alias: ``digits``, ``digits/7``, ``digits@champion``."""

    name: str
    version: int | None = None
    alias: str | None = None

    @classmethod
    def parse(cls, text: str) -> ModelReference:
        """Read a reference, refusing anything outside the grammar."""
        if not isinstance(text, str):
            raise InvalidName(f"model reference must be text, got {type(text).__name__}", value=text)
        if not text:
            raise InvalidName("model reference is empty", remedy="write NAME/VERSION or NAME@ALIAS, such as digits/7")
        if "@" in text:
            name, _, alias = text.partition("@")
            return cls(check_name(name, "model name"), alias=check_alias(alias))
        name, slash, version = text.partition("/")
        check_name(name, "model name")
        if not slash:
            return cls(name)
        if not re.fullmatch(r"v?[1-9][0-9]{0,8}", version) or not version.isascii():
            raise InvalidName(
                "model version must be a whole number from 1", value=text, remedy="write NAME/VERSION, such as digits/7"
            )
        return cls(name, version=int(version.lstrip("v")))

    def __str__(self) -> str:
        if self.alias is not None:
            return f"{self.name}@{self.alias}"
        return self.name if self.version is None else f"{self.name}/{self.version}"


def parse_duration(text: str, *, what: str = "duration", minimum: timedelta = timedelta(milliseconds=1)) -> timedelta:
    """Read ``90s``, ``15m``, ``6h``, ``7d``, ``4w`` or ``500ms``.

    Raises
    ------
    InvalidInput
        When the grammar, the lower bound `minimum` or the upper bound of ten years is broken.
    """
    match = _DURATION.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise InvalidInput(
            f"{what} is not a number and a unit", value=text, remedy="write such as 30s, 15m, 6h, 7d or 4w"
        )
    seconds = float(match[1]) * _UNITS[match[2]]
    if not minimum.total_seconds() <= seconds <= MAX_DURATION.total_seconds():
        raise InvalidInput(f"{what} is out of range", value=text, remedy=f"use from {format_duration(minimum)} to 520w")
    return timedelta(seconds=seconds)


def format_duration(length: timedelta) -> str:
    """Return `length` in the largest unit that keeps it whole: the inverse of `parse_duration`."""
    milliseconds = round(length.total_seconds() * 1000)
    for unit in ("w", "d", "h", "m", "s"):
        step = round(_UNITS[unit] * 1000)
        if milliseconds and milliseconds % step == 0:
            return f"{milliseconds // step}{unit}"
    return f"{milliseconds}ms"
