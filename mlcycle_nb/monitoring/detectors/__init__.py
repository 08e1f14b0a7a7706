"""Drift detectors: one plug-in a file. Names are listed without importing any of them."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mlcycle_nb.plugins import Registry

if TYPE_CHECKING:
    from mlcycle_nb.monitoring.detectors._contract import Detector

DETECTORS: Registry[Detector] = Registry(
    package="mlcycle_nb.monitoring.detectors", group="mlcycle_nb.detectors", what="detector", extra="alibi"
)
AUTO = "auto"
_BUILT_IN = ("ks", "chi_squared")
_ALIBI = ("alibi_ks", "alibi_chi_squared")


def alibi_installed() -> bool:
    """Return whether alibi-detect can be imported; does not import it, because that takes seconds."""
    return importlib.util.find_spec("alibi_detect") is not None


def resolve(names: Sequence[str] | str) -> tuple[str, ...]:
    """Return detector names with ``auto`` replaced, each once, in the order given.

    ``auto`` stands for alibi-detect's Kolmogorov-Smirnov and chi-squared tests when it is installed, and for the
    built-in ones otherwise. A kind of column that no named detector takes is judged by the built-in one.

    Raises
    ------
    UnknownPlugin
        With the nearest known name.
    MissingDependency
        With the ``pip install`` line, when an alibi-detect plug-in is named and it is not installed.
    """
    asked = [names] if isinstance(names, str) else list(names)
    found: list[str] = []
    for name in asked or [AUTO]:
        found += (_ALIBI if alibi_installed() else _BUILT_IN) if name == AUTO else (name,)
    known = DETECTORS.names()
    for name in found:
        if name not in known or (uses_alibi([name]) and not alibi_installed()):
            DETECTORS.load(name)  # raises the error that fits
    return tuple(dict.fromkeys([*found, *_BUILT_IN]))


def uses_alibi(names: Sequence[str]) -> bool:
    """Return whether one of the detectors comes from alibi-detect."""
    return any(name.startswith("alibi_") for name in names)
