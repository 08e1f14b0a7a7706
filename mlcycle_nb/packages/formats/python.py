"""Packages of format ``python``: a pickled model. It runs code, so it loads only when signed, in replicas only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mlcycle_nb.errors import EngineError, Refused
from mlcycle_nb.packages import code_permit
from mlcycle_nb.packages.contents import refuse_code_files
from mlcycle_nb.packages.exporters import exporter_named
from mlcycle_nb.packages.golden import GOLDEN_NAME
from mlcycle_nb.packages.reference import REFERENCE_NAME
from mlcycle_nb.packages.signing import check_signature

if TYPE_CHECKING:
    from mlcycle_nb.packages.exporters import Exporter
    from mlcycle_nb.packages.formats import Runtime
    from mlcycle_nb.packages.golden import Arrays
    from mlcycle_nb.packages.package import Package

CODE_NAME = "model.cloudpickle"


class PythonFormat:
    """Loads ``model.cloudpickle`` once its signature is verified."""

    name = "python"

    def check(self, package: Package) -> None:
        """Refuse files that do not belong here; the pickle itself is never opened by a check."""
        refuse_code_files(set(package.manifest.files), {CODE_NAME, GOLDEN_NAME, REFERENCE_NAME}, str(package.path))
        exporter_named(package.manifest.details.get("call", ""), where=str(package.path))
        package.read(CODE_NAME)

    def load(self, package: Package, *, threads: int, trusted_keys: Sequence[str]) -> Runtime:
        """Return the model when this process may run package code and a trusted key signed the digest."""
        self.check(package)
        where = str(package.path)
        if not code_permit.granted():
            raise Refused(
                "a python package is loaded only in a replica process of its own",
                where=where,
                remedy="deploy it, and call it through its gateway",
            )
        check_signature(package.signature_file(), package.digest, trusted_keys, where=where)
        content = package.read(CODE_NAME)
        exporter = exporter_named(package.manifest.details["call"], where=where)
        import cloudpickle

        try:
            model = cloudpickle.loads(content)
        except Exception as failure:  # unpickling runs the package's code, which may raise anything
            raise EngineError(
                f"the model cannot be restored: {type(failure).__name__}: {failure}",
                where=where,
                remedy="install the packages it was made with",
            ) from failure
        return PythonRuntime(model, exporter, package)


class PythonRuntime:
    """A restored Python model behind the adapter of its library."""

    thread_bound = True

    def __init__(self, model: Any, exporter: Exporter, package: Package) -> None:
        self._model = model
        self._exporter = exporter
        self._input = package.signature.inputs[0].name
        self._task = package.task
        self._classes = len(package.class_names)

    def predict(self, inputs: Arrays) -> Arrays:
        """Return the model's outputs for a batch."""
        try:
            return self._exporter.answer(self._model, inputs[self._input], self._task)
        except Exception as failure:  # the model is foreign code
            raise EngineError(f"the model failed: {type(failure).__name__}: {failure}") from failure


PLUGIN = PythonFormat()
