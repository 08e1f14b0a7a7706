"""Model packages: built from a model, bound by one digest, loaded without running code where the format allows."""

from __future__ import annotations

from mlcycle_nb.packages.build import build_package
from mlcycle_nb.packages.package import Package, open_package
from mlcycle_nb.packages.runtime import check_golden, load_runtime
from mlcycle_nb.packages.signature import Signature, TensorSpec
from mlcycle_nb.packages.store import PackageStore

__all__ = [
    "Package",
    "PackageStore",
    "Signature",
    "TensorSpec",
    "build_package",
    "check_golden",
    "load_runtime",
    "open_package",
]
