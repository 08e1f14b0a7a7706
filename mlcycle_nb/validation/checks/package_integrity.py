"""Package integrity: the bytes are those that were registered, and answer the golden batch."""

from __future__ import annotations

from collections.abc import Mapping

from mlcycle_nb.errors import MLCycleError
from mlcycle_nb.validation.contract import NO_OPTIONS, Better, BoundRange, Check, Family, Measurement, Option
from mlcycle_nb.validation.gates import Gate
from mlcycle_nb.validation.subject import Subject


class PackageIntegrity:
    """Digest against the registry, every file against the manifest, answers against the golden batch."""

    name = "package_integrity"
    family: Family = "security"
    unit = ""
    summary = "every byte is as registered, and the golden batch is answered as the original model did"
    better: Better = "none"
    bounds: BoundRange | None = None
    options: Mapping[str, Option] = NO_OPTIONS

    def measure(self, subject: Subject, gate: Gate) -> Measurement:
        """Read and compare everything."""
        from mlcycle_nb.packages import check_golden

        found, registered = subject.package.digest, subject.registered_digest
        detail = {"digest": found, "files": len(subject.package.manifest.files)}
        if found != registered:
            return Measurement(
                flaw=f"the registry says {registered[:19]}.., the package is {found[:19]}..", detail=detail
            )
        try:
            subject.verify_package()
            check_golden(subject.package, subject.open_runtime())
        except MLCycleError as failure:
            return Measurement(flaw=failure.problem, advice="build and register the package again", detail=detail)
        return Measurement(proven=True, detail=detail)


PLUGIN: Check = PackageIntegrity()
