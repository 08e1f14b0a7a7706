"""Each registry of plug-ins: names without imports, suggestions, and every name loads what it promises."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from typing import Any

import pytest

from mlcycle_nb.errors import MissingDependency, UnknownPlugin
from mlcycle_nb.monitoring.detectors._contract import parts_of
from mlcycle_nb.plugins import Registry

REGISTRIES = {
    "mlcycle_nb.validation.contract:checks": {"accuracy", "f1", "latency_p95_ms", "package_integrity", "roc_auc"},
    "mlcycle_nb.monitoring.detectors:DETECTORS": {"ks", "chi_squared", "alibi_ks", "psi"},
    "mlcycle_nb.monitoring.channels:CHANNELS": {"notebook", "log", "webhook", "apprise"},
    "mlcycle_nb.monitoring.actions:ACTIONS": {"pause", "rollback", "retrain"},
    "mlcycle_nb.packages.formats:formats": {"onnx", "python"},
    "mlcycle_nb.training.search.samplers:SAMPLERS": {"tpe", "random", "grid", "qmc", "cmaes"},
    "mlcycle_nb.training.search.pruners:PRUNERS": {"none", "median", "asha", "hyperband", "percentile"},
}
# What a plug-in must offer, by its kind; the stages' own contract tests say what it must do.
OFFERS = {"check": "measure", "detector": "compare", "channel": "deliver", "package format": "load"}
OFFERS |= {"action": "take", "sampler": "__call__", "pruner": "__call__"}


def registry(place: str) -> Registry[Any]:
    module, _, name = place.partition(":")
    found = getattr(importlib.import_module(module), name)
    assert isinstance(found, Registry)
    return found


NAMES = [(place, name) for place in REGISTRIES for name in registry(place).names()]


@pytest.mark.parametrize("place", REGISTRIES)
class TestRegistry:
    """What holds for a registry as a whole."""

    def test_known_names_are_there(self, place: str) -> None:
        """A file that was renamed or moved would be missed by those whose gates name it."""
        assert REGISTRIES[place] <= set(registry(place).names())

    def test_names_are_listed_without_importing(self, place: str) -> None:
        """In a fresh interpreter nothing of ours is loaded by listing."""
        module, _, name = place.partition(":")
        program = (
            f"import importlib, json, sys\nregistry = getattr(importlib.import_module({module!r}), {name!r})\n"
            "before = set(sys.modules)\nnames = registry.names()\n"
            "print(json.dumps([m for m in set(sys.modules) - before if m.startswith('mlcycle_nb')]))"
        )
        shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)

        assert json.loads(shown.stdout) == []

    def test_an_unknown_name_suggests(self, place: str) -> None:
        """The nearest name, and all of them."""
        known = registry(place).names()
        with pytest.raises(UnknownPlugin) as caught:
            registry(place).load(known[0] + "x")

        assert f"did you mean {known[0]!r}?" in str(caught.value)
        assert f"known: {', '.join(known)}" in str(caught.value)


@pytest.mark.parametrize(("place", "name"), NAMES, ids=[name for _, name in NAMES])
def test_every_name_loads(place: str, name: str) -> None:
    """What it needs is installed with the tests, or the line that brings it is told."""
    one = registry(place)
    try:
        plugin = one.load(name)
    except MissingDependency as missing:
        if not name.startswith("alibi"):
            raise
        pytest.skip(str(missing))

    # A detector may be made of one for numbers and one for categories.
    for part in parts_of(plugin) if one.what == "detector" else (plugin,):
        assert callable(getattr(part, OFFERS[one.what])), f"{one.what} {name} has no {OFFERS[one.what]}"
