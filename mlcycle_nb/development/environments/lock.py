"""The lock of an environment: one text, that pip understands, with a digest of what each package installed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlcycle_nb.errors import InvalidInput

_HEADER = "# mlcycle environment lock 1"
_PYTHON = "# python "
_INHERITED = "# inherited "
_PINNED = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([A-Za-z0-9.!+_-]+)(?:\s+#\s*(sha256:[0-9a-f]{64}))?")


@dataclass(frozen=True, slots=True)
class Pin:
    """One package: name, version, and the digest of its installed files where it is known."""

    name: str
    version: str
    content: str = ""

    def __str__(self) -> str:
        return f"{self.name}=={self.version}" + (f"  # {self.content}" if self.content else "")

    @property
    def requirement(self) -> str:
        """``name==version``."""
        return f"{self.name}=={self.version}"


@dataclass(frozen=True, slots=True)
class Lock:
    """What an environment holds, exactly."""

    python: str
    own: tuple[Pin, ...]
    inherited: tuple[Pin, ...] = ()

    def __str__(self) -> str:
        lines = [_HEADER, f"{_PYTHON}{self.python}", *map(str, self.own)]
        return "\n".join([*lines, *(f"{_INHERITED}{pin}" for pin in self.inherited)]) + "\n"

    @property
    def digest(self) -> str:
        """Digest of the text."""
        return digest_of(str(self))

    @property
    def packages(self) -> tuple[str, ...]:
        """``name==version`` of all that can be imported, sorted."""
        return tuple(sorted(pin.requirement for pin in (*self.own, *self.inherited)))

    @classmethod
    def of(cls, examined: Mapping[str, Any]) -> Lock:
        """Return the lock of an environment from what `examine.py` found in it."""
        pins = [(Pin(p["name"], p["version"], p["content"]), p["own"]) for p in examined["packages"]]
        ordered = sorted(pins, key=lambda pair: pair[0].name)
        return cls(
            str(examined["python"]),
            tuple(pin for pin, own in ordered if own),
            tuple(Pin(pin.name, pin.version) for pin, own in ordered if not own),
        )

    @classmethod
    def parse(cls, text: str, *, where: str = "lock") -> Lock:
        """Read a lock, or what ``pip freeze`` prints.

        Raises
        ------
        InvalidInput
            With the first line that does not pin a package to one version.
        """
        python, own, inherited = "", [], []
        for number, line in enumerate(text.splitlines(), 1):
            words = line.strip()
            if words.startswith(_PYTHON):
                python = words.removeprefix(_PYTHON).strip()
            elif words.startswith(_INHERITED):
                inherited.append(_pin(words.removeprefix(_INHERITED), f"{where} line {number}"))
            elif words and not words.startswith("#"):
                own.append(_pin(words, f"{where} line {number}"))
        twice = sorted({pin.name for pin in own if sum(other.name == pin.name for other in own) > 1})
        if twice:
            raise InvalidInput(f"the lock pins {twice[0]} twice", where=where)
        return cls(python, tuple(own), tuple(inherited))


def digest_of(text: str) -> str:
    """Return ``sha256:<hex>`` of a lock's text."""
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def differences(wanted: Lock, found: Lock) -> list[str]:
    """Return in words how `found` differs from `wanted`, a package each."""
    told = []
    if wanted.python and wanted.python != found.python:
        told.append(f"Python {wanted.python} -> {found.python}")
    return told + package_differences((*wanted.own, *wanted.inherited), (*found.own, *found.inherited))


def package_differences(wanted: Sequence[Pin], found: Sequence[Pin]) -> list[str]:
    """Return in words how the packages `found` differ from those `wanted`."""
    before, now = ({pin.name: pin for pin in pins} for pins in (wanted, found))
    told = []
    for name in sorted(before.keys() | now.keys()):
        old, new = before.get(name), now.get(name)
        if old is None or new is None or old.version != new.version:
            told.append(f"{name} {old.version if old else 'absent'} -> {new.version if new else 'absent'}")
        elif old.content and new.content and old.content != new.content:
            told.append(f"{name} {old.version}: other files under the same version")
    return told


def pins(packages: Sequence[str]) -> tuple[Pin, ...]:
    """Return ``name==version`` texts as pins."""
    return tuple(Pin(name, version) for name, _, version in (text.partition("==") for text in packages))


def _pin(text: str, where: str) -> Pin:
    match = _PINNED.fullmatch(text.strip())
    if match is None:
        raise InvalidInput(
            "a lock pins each package to one version",
            value=text.strip(),
            where=where,
            remedy="write name==version, as pip freeze does; ranges belong in a requirements file (--requirements)",
        )
    return Pin(re.sub(r"[-_.]+", "-", match[1]).lower(), match[2], match[3] or "")
