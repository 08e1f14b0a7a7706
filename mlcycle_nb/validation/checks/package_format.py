"""Package format: only formats that are allowed here, by default those that run no code when loaded."""

from __future__ import annotations

from collections.abc import Mapping

from mlcycle_nb.validation.contract import Better, BoundRange, Check, Family, Measurement, Option
from mlcycle_nb.validation.gates import Gate
from mlcycle_nb.validation.subject import Subject


class PackageFormat:
    """An allow-list: what is not on it is refused, without looking for what might be bad about it."""

    name = "package_format"
    family: Family = "security"
    unit = ""
    summary = "the package's format is on the list of allowed ones"
    better: Better = "none"
    bounds: BoundRange | None = None
    options: Mapping[str, Option] = {"allow": Option(kind="words", default=["onnx"])}

    def measure(self, subject: Subject, gate: Gate) -> Measurement:
        """Compare the manifest's format with the list."""
        allowed, found = list(gate.options["allow"]), subject.package.format
        detail = {"format": found, "allowed": allowed}
        if found in allowed:
            return Measurement(proven=True, detail=detail)
        why = str(subject.package.manifest.details.get("why_python", ""))
        runs = " and runs code when it is loaded" if found == "python" else ""
        return Measurement(
            flaw=f"the format is {found}{runs}; allowed: {', '.join(allowed)}"
            + (f" (not exported because: {why})" if why else ""),
            advice=f"export the model as {allowed[0]}, or allow {found} in the gate on purpose",
            detail=detail,
        )


PLUGIN: Check = PackageFormat()
