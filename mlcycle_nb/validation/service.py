"""The verbs of validation: validate a version, read verdicts, tell whether one still holds."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlcycle_nb.context import Context
from mlcycle_nb.errors import MLCycleError
from mlcycle_nb.validation.gates import GateFile, digest_of, load_gates
from mlcycle_nb.validation.records import RUNNING, Evidence, Validation
from mlcycle_nb.validation.report import ValidationReport

if TYPE_CHECKING:
    from mlcycle_nb.development.records import ModelVersion
    from mlcycle_nb.development.service import ModelDevelopmentManager
    from mlcycle_nb.notebook.handle import Handle
    from mlcycle_nb.validation.data import ValidationData

_SPAWN_GRACE = timedelta(seconds=60)


class ModelValidator:
    """Gates and verdicts of one workspace.

    Parameters
    ----------
    context : Context
    development : ModelDevelopmentManager
        Resolves references to registered versions.
    """

    def __init__(self, context: Context, development: ModelDevelopmentManager) -> None:
        self.context = context
        self.development = development

    def validate_model(
        self,
        ref: str,
        gates: Path | str | Mapping[str, Any] | GateFile,
        data: ValidationData,
        *,
        seed: int = 0,
        timeout: float | None = None,
    ) -> ValidationReport:
        """Validate a model version and return the report; see `start_validation`."""
        handle = self.start_validation(ref, gates, data, seed=seed)
        record = handle.wait(timeout)
        if record.finished:
            self.context.processes.stop(_process_name(record.id))
        return ValidationReport(record)

    def start_validation(
        self,
        ref: str,
        gates: Path | str | Mapping[str, Any] | GateFile,
        data: ValidationData,
        *,
        seed: int = 0,
    ) -> Handle[Validation]:
        """Begin to validate a model version in a process of its own.

        Parameters
        ----------
        ref : str
            ``digits/7`` or ``digits@champion``.
        gates : path or mapping
            A gates file, or a mapping of the same form.
        data : ValidationData
            Rows the model has not learned from.
        seed : int
            Of all resampling and noise; the same seed gives the same verdict.

        Returns
        -------
        Handle
            Goes on without this kernel; ``wait()`` gives the finished record.

        Raises
        ------
        InvalidInput
            When the gates or the data are wrong; nothing has been changed then.
        NotFound
            When there is no such version.
        """
        from mlcycle_nb.validation import data as validation_data
        from mlcycle_nb.validation.evaluate import code_digest
        from mlcycle_nb.validation.worker import DATA_FOLDER

        rules = gates if isinstance(gates, GateFile) else load_gates(gates)
        version = self.development.get_version(ref)
        evidence = Evidence(
            package=version.package_digest,
            data=validation_data.save(data, self.context.folder(DATA_FOLDER)),
            gates=rules.digest,
            code=code_digest(rules.gates),
        )
        record = self._insert(version, rules, evidence, rows=len(data), seed=seed)
        self._spawn(record)
        return self.attach(record.id)

    def attach(self, validation_id: str) -> Handle[Validation]:
        """Return the handle of a validation, from any kernel."""
        from mlcycle_nb.notebook.handle import Handle
        from mlcycle_nb.validation.panel import ValidationPanel

        def read() -> Validation:
            return self.read(validation_id)

        return Handle(validation_id, read, lambda record: record.finished, lambda: ValidationPanel(read))

    def read(self, validation_id: str) -> Validation:
        """Return a validation as it is now; one whose process is gone gets its error verdict here."""
        record = self.context.store.get(Validation, validation_id)
        if record.finished or self.context.processes.get(_process_name(record.id)) is not None:
            return record
        spawned = "worker" in self.context.store.observed(Validation, record.id)
        if not spawned and self.context.clock.now() - record.created_at < _SPAWN_GRACE:
            return record
        record = self.context.store.get(Validation, validation_id)  # it may have finished between the two looks
        if record.finished:
            return record
        from mlcycle_nb.validation.worker import ended_early

        return ended_early(self.context, record)

    def validations(self, name: str | None = None) -> list[Validation]:
        """Return validations, newest first."""
        found = self.context.store.find(Validation, name=name)
        return sorted(found, key=lambda record: (record.created_at, _number(record)), reverse=True)

    def latest_verdict(self, ref: str) -> ValidationReport | None:
        """Return the newest finished validation of a version, or None."""
        version = self.development.get_version(ref)
        return next((ValidationReport(record) for record in self._verdicts(version)), None)

    def is_valid_for(self, ref: str, environment: str) -> tuple[bool, str]:
        """Return whether a version has a verdict that opens `environment`, and why or why not.

        The newest verdict whose gates apply to the environment decides. It is void when the package, the data, the
        gates file or the code of the checks has changed since.
        """
        version = self.development.get_version(ref)
        reference = f"{version.name}/{version.version}"
        applying = [r for r in self._verdicts(version) if not r.environments or environment in r.environments]
        if not applying:
            return False, f"{reference} has no verdict for {environment}; run %validate {reference}"
        record = applying[0]
        if not record.passed:
            blocking = [r.check for r in record.results if r.required and r.outcome.value != "passed"]
            return False, f"validation {record.id} is {record.outcome}: {', '.join(blocking[:5])}"
        void = self._changed(record, version)
        if void:
            return False, f"validation {record.id} is void: {void}; run %validate {reference} again"
        return True, f"validation {record.id} passed all {len(record.results)} gates"

    # -- parts -----------------------------------------------------------------------------------------------

    def _verdicts(self, version: ModelVersion) -> list[Validation]:
        records = [self.read(r.id) for r in self.validations(version.name) if r.model_version == version.version]
        return [record for record in records if record.finished]

    def _changed(self, record: Validation, version: ModelVersion) -> str:
        from mlcycle_nb.packages import PackageStore
        from mlcycle_nb.validation import data as validation_data
        from mlcycle_nb.validation.evaluate import code_digest
        from mlcycle_nb.validation.worker import DATA_FOLDER, PACKAGES_FOLDER

        evidence = record.evidence
        if version.package_digest != evidence.package:
            return "the registered package is another one"
        try:
            PackageStore(self.context.folder(PACKAGES_FOLDER)).open(evidence.package).check_files()
        except MLCycleError as failure:
            return f"the package has changed ({failure.problem})"
        try:
            validation_data.load(evidence.data, self.context.folder(DATA_FOLDER))
        except MLCycleError as failure:
            return f"the validation data has changed ({failure.problem})"
        if record.gates_source:
            try:
                if digest_of(Path(record.gates_source)) != evidence.gates:
                    return "the gates file has changed"
            except MLCycleError as failure:
                return f"the gates file cannot be read ({failure.problem})"
        if code_digest(record.gates) != evidence.code:
            return "the code of the checks has changed"
        return ""

    def _insert(
        self, version: ModelVersion, rules: GateFile, evidence: Evidence, *, rows: int, seed: int
    ) -> Validation:
        stem = f"{version.name}-{version.version}"
        with self.context.store.transaction(actor=self.context.actor) as transaction:
            earlier = transaction.find(Validation, name=version.name)
            number = 1 + max((_number(r) for r in earlier if r.model_version == version.version), default=0)
            record = Validation(
                id=f"{stem}-{number}",
                phase=RUNNING,
                created_at=self.context.clock.now(),
                model=version.name,
                model_version=version.version,
                evidence=evidence,
                gates=rules.gates,
                gates_source=rules.source,
                environments=rules.environments,
                rows=rows,
                seed=seed,
            )
            detail = {"reference": record.reference, "gates": len(rules.gates), "evidence": evidence}
            return transaction.insert(record, event="validation.started", detail=detail)

    def _spawn(self, record: Validation) -> None:
        from mlcycle_nb.supervisor.start import settings_environment

        context = self.context
        argv = [sys.executable, "-m", "mlcycle_nb.validation.worker"]
        argv += ["--home", str(context.home), "--id", record.id, "--actor", context.actor]
        log = context.folder("validations", record.id) / "worker.log"
        identity = context.processes.ensure(
            _process_name(record.id), argv, env=settings_environment(context.settings), log=log
        )
        context.store.observe(Validation, record.id, worker=identity.pid)


def _process_name(validation_id: str) -> str:
    return f"validation-{validation_id}"


def _number(record: Validation) -> int:
    tail = record.id.rpartition("-")[2]
    return int(tail) if tail.isdigit() else 0
