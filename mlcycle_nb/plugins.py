"""Plug-ins: one file each, its name is the plug-in's name; packages elsewhere join through entry points.

Listing names imports none of them. A file exposes one object named ``PLUGIN``.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from mlcycle_nb.errors import MissingDependency, UnknownPlugin, did_you_mean

T = TypeVar("T")


class Registry(Generic[T]):
    """The plug-ins of one kind.

    Parameters
    ----------
    package : str
        Dotted package that holds one plug-in a file; files that begin with an underscore are not plug-ins.
    group : str
        Entry-point group through which other packages add theirs.
    what : str
        Word for one of them in messages, such as ``check``.
    extra : str
        The pip extra that brings what an optional plug-in needs.
    """

    def __init__(self, *, package: str, group: str, what: str, extra: str = "all") -> None:
        self.package = package
        self.group = group
        self.what = what
        self.extra = extra
        self._loaded: dict[str, T] = {}

    @cached_property
    def _files(self) -> frozenset[str]:
        spec = importlib.util.find_spec(self.package)
        locations = list(spec.submodule_search_locations or ()) if spec else []
        return frozenset(m.name for m in pkgutil.iter_modules(locations) if not m.name.startswith("_"))

    @cached_property
    def _entry_points(self) -> dict[str, EntryPoint]:
        return {point.name: point for point in entry_points(group=self.group)}

    def names(self) -> list[str]:
        """Return all names, sorted, without importing a plug-in."""
        return sorted(self._files | set(self._entry_points) | set(self._loaded))

    def register(self, name: str, plugin: T) -> None:
        """Add `plugin` for this process, as a notebook does with a class of its own."""
        self._loaded[name] = plugin

    def load(self, name: str) -> T:
        """Return the plug-in `name`, importing it on first use.

        Raises
        ------
        UnknownPlugin
            With the nearest known name and the list.
        MissingDependency
            With the exact ``pip install`` line.
        """
        if name in self._loaded:
            return self._loaded[name]
        try:
            if name in self._files:
                plugin: Any = importlib.import_module(f"{self.package}.{name}").PLUGIN
            elif name in self._entry_points:
                plugin = self._entry_points[name].load()
            else:
                raise UnknownPlugin(
                    f"there is no {self.what} of this name",
                    value=name,
                    remedy=f"{did_you_mean(name, self.names())}known: {', '.join(self.names())}",
                )
        except ModuleNotFoundError as missing:
            raise MissingDependency(
                f"{self.what} {name!r} needs the package {missing.name!r}",
                remedy=f"pip install 'mlcycle-nb[{self.extra}]'",
            ) from missing
        self._loaded[name] = plugin
        return self._loaded[name]
