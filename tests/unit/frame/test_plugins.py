"""Registries: names without imports, objects on first use, and a missing package that says how to get it."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from mlcycle_nb.errors import MissingDependency, UnknownPlugin
from mlcycle_nb.plugins import Registry


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry[str]:
    """A package with two plug-ins that work, one that needs what is not installed, and a file that is none."""
    package = tmp_path / "shapes_for_test"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "circle.py").write_text("PLUGIN = 'a circle'\n")
    (package / "square.py").write_text("PLUGIN = 'a square'\n")
    (package / "needy.py").write_text("import no_such_package_here\nPLUGIN = 1\n")
    (package / "_common.py").write_text("raise AssertionError('not a plug-in')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for module in [name for name in sys.modules if name.startswith("shapes_for_test")]:
        monkeypatch.delitem(sys.modules, module)
    return Registry(package="shapes_for_test", group="mlcycle_nb.test_shapes", what="shape", extra="shapes")


def test_names_are_listed_without_importing(registry: Registry[str]) -> None:
    """Sorted; files that begin with an underscore are not plug-ins."""
    assert registry.names() == ["circle", "needy", "square"]
    assert [name for name in sys.modules if name.startswith("shapes_for_test.")] == []


def test_a_plugin_is_loaded_once(registry: Registry[str]) -> None:
    """On first use, and the same object from then on."""
    assert registry.load("circle") == "a circle"
    assert registry.load("circle") is registry.load("circle")
    assert "shapes_for_test.square" not in sys.modules


@pytest.mark.parametrize("name", ["cirlce", "", "../circle", "_common", "CIRCLE", "circle.PLUGIN", "\x1b[31m"])
def test_an_unknown_name_lists_what_there_is(name: str, registry: Registry[str]) -> None:
    """With the nearest one when there is a near one."""
    with pytest.raises(UnknownPlugin, match=r"there is no shape of this name.*known: circle, needy, square") as caught:
        registry.load(name)

    assert ("did you mean 'circle'?" in str(caught.value)) == (name in {"cirlce", "../circle", "circle.PLUGIN"})
    assert str(caught.value).isprintable()


def test_a_missing_package_is_named_with_the_line_that_brings_it(registry: Registry[str]) -> None:
    """Late and kindly."""
    with pytest.raises(
        MissingDependency,
        match=r"'needy' needs the package 'no_such_package_here' - pip install 'mlcycle-nb\[shapes\]'",
    ):
        registry.load("needy")


def test_one_may_be_added_in_a_notebook(registry: Registry[str]) -> None:
    """Also in the place of one that is there."""
    registry.register("triangle", "a triangle")
    registry.register("circle", "my circle")

    assert registry.names() == ["circle", "needy", "square", "triangle"]
    assert (registry.load("triangle"), registry.load("circle")) == ("a triangle", "my circle")


def test_other_packages_add_theirs(registry: Registry[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Through entry points; they are imported on first use only."""
    point = EntryPoint("ring", "shapes_for_test.square:PLUGIN", "mlcycle_nb.test_shapes")
    monkeypatch.setattr("mlcycle_nb.plugins.entry_points", lambda group: [point] if group == registry.group else [])

    assert registry.names() == ["circle", "needy", "ring", "square"]
    assert "shapes_for_test.square" not in sys.modules
    assert registry.load("ring") == "a square"
