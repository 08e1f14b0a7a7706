"""Loads a package's model, and proves on the golden batch that it answers as the original did."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mlcycle_nb.errors import IntegrityError
from mlcycle_nb.packages.formats import Runtime, formats
from mlcycle_nb.packages.golden import difference

if TYPE_CHECKING:
    from mlcycle_nb.packages.package import Package


def load_runtime(package: Package, *, threads: int = 1, trusted_keys: Sequence[str] = ()) -> Runtime:
    """Return the model of `package`, ready to predict.

    Parameters
    ----------
    package : Package
        An opened package.
    threads : int
        Threads one prediction may use.
    trusted_keys : sequence of str
        Ed25519 public keys, hexadecimal, whose signature lets a package that runs code be loaded.
    """
    return formats.load(package.format).load(package, threads=threads, trusted_keys=trusted_keys)


def check_golden(package: Package, runtime: Runtime) -> float:
    """Return the largest difference on the golden batch; raise IntegrityError when it is over the tolerance.

    The batch is answered whole and its first row alone, so a graph with a fixed batch size is found too.
    """
    inputs, expected = package.golden()
    largest = 0.0
    for rows in (slice(None), slice(0, 1)):
        found = runtime.predict({name: array[rows] for name, array in inputs.items()})
        problem, gap = difference({n: a[rows] for n, a in expected.items()}, found, package.manifest.golden)
        largest = max(largest, gap)
        if problem:
            raise IntegrityError(
                f"the golden batch is answered wrongly: {problem}",
                where=str(package.path),
                remedy="build the package again with the libraries installed here",
            )
    return largest
