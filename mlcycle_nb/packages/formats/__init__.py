"""Package formats: one plug-in a file. Its contract is `PackageFormat`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from mlcycle_nb.plugins import Registry

if TYPE_CHECKING:
    from mlcycle_nb.packages.golden import Arrays
    from mlcycle_nb.packages.package import Package


class Runtime(Protocol):
    """A loaded model."""

    thread_bound: bool
    """True when `predict` must always be called from the thread that loaded it."""

    def predict(self, inputs: Arrays) -> Arrays:
        """Return the outputs for a batch; not called from two threads at once."""
        ...


class PackageFormat(Protocol):
    """What a format plug-in provides."""

    name: str

    def check(self, package: Package) -> None:
        """Raise what is wrong with the content; runs no code of the package."""
        ...

    def load(self, package: Package, *, threads: int, trusted_keys: Sequence[str]) -> Runtime:
        """Return the model, ready to predict; `check` is part of it."""
        ...


formats: Registry[PackageFormat] = Registry(
    package="mlcycle_nb.packages.formats", group="mlcycle_nb.package_formats", what="package format"
)
