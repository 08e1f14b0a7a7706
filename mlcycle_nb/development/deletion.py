"""Deleting runs and versions: only what nobody refers to, by those who may, with a tombstone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from mlcycle_nb.context import Context
from mlcycle_nb.development.ownership import Owners
from mlcycle_nb.development.records import (
    ModelVersion,
    RegisteredVersion,
    Run,
    audit_subject,
    run_subject,
    version_subject,
)
from mlcycle_nb.development.referrers import Referrer, referrers, refuse_referred, refuse_unknown_kinds
from mlcycle_nb.development.tracking import Tracking
from mlcycle_nb.errors import Conflict, Refused
from mlcycle_nb.store.deletion import Deletion
from mlcycle_nb.supervisor.crash import crash_point

if TYPE_CHECKING:
    from mlcycle_nb.store import Record, Transaction


class Deletions:
    """Deletes what nobody needs any more.

    MLflow is written inside the workspace's transaction, as its last step: killed in between, the workspace still
    knows the thing, and deleting it again completes what was begun. The other way round it would be adopted again.
    """

    def __init__(
        self, context: Context, tracking: Tracking, owners: Owners, kinds: Iterable[type[Record]] | None
    ) -> None:
        self._context = context
        self._tracking = tracking
        self._owners = owners
        self._kinds = None if kinds is None else tuple(kinds)

    def referrers(self, subject: str) -> list[Referrer]:
        """Return who refers to a subject now."""
        with self._context.store.transaction(actor=self._context.actor) as transaction:
            return referrers(transaction, self._known_kinds(), subject)

    def delete_version(self, version: ModelVersion, *, force: bool = False, reason: str = "") -> Deletion:
        """Delete a version; its package stays in the store until it is cleared away, and its number is not used again.

        Raises
        ------
        Refused
            When anything refers to it, naming what; or when somebody else owns the model.
        """
        subject = version_subject(version.name, version.version)
        kinds = self._known_kinds()
        refuse_unknown_kinds(self._context.store, kinds)
        with self._context.store.transaction(actor=self._context.actor) as transaction:
            forced = self._owners.refuse_others(
                transaction, version.name, f"delete {version.reference}", force=force, reason=reason
            )
            refuse_referred(version.reference, referrers(transaction, kinds, subject))
            record = transaction.maybe(RegisteredVersion, version.reference)
            if record is None:
                raise Conflict(f"{version.reference} was deleted by somebody else meanwhile")
            facts = {**version.to_dict(), "forced": forced}
            buried = self._bury(transaction, subject, facts, "version.buried", reason)
            transaction.delete(record, event="version.deleted", detail={"package": version.package_digest})
            transaction.note(
                "model.deleted",
                subject=audit_subject(version.name, version.version),
                detail={"package": version.package_digest, "run": version.run_id, "forced": forced},
                reason=reason,
            )
            self._tracking.delete_version(version.name, version.version)
            crash_point("development.after_delete")
            return buried

    def delete_run(self, run: Run, *, reason: str = "") -> Deletion:
        """Delete a run; MLflow keeps it restorable until its own clean-up.

        Raises
        ------
        Refused
            When it is running, or a version, a job or another run refers to it.
        """
        if run.status == "running":
            raise Refused(f"run {run.id[:8]} is running", remedy="end it first: %train stop, or run.end('killed')")
        kinds = self._known_kinds()
        refuse_unknown_kinds(self._context.store, kinds)
        children = [Referrer("run", f"{child.name} ({child.id[:8]})") for child in self._tracking.children(run.id)]
        with self._context.store.transaction(actor=self._context.actor) as transaction:
            if transaction.maybe(Deletion, run_subject(run.id)) is not None:
                raise Conflict(f"run {run.id[:8]} was deleted by somebody else meanwhile")
            found = [*referrers(transaction, kinds, run_subject(run.id)), *children]
            refuse_referred(f"run {run.name} ({run.id[:8]})", found)
            facts = {
                "name": run.name,
                "experiment": run.experiment,
                "status": run.status,
                "started_at": run.started_at.isoformat(),
                "parameters": dict(run.parameters),
                "metrics": {name: repr(value) for name, value in run.metrics.items()},
                "provenance": run.tags.get("mlcycle.provenance", ""),
            }
            buried = self._bury(transaction, run_subject(run.id), facts, "run.buried", reason)
            transaction.note("run.deleted", subject=run_subject(run.id), detail={"name": run.name}, reason=reason)
            self._tracking.delete_run(run.id)
            crash_point("development.after_delete")
            return buried

    # -- parts -----------------------------------------------------------------------------------------------

    def _bury(self, transaction: Transaction, subject: str, facts: dict[str, Any], event: str, reason: str) -> Deletion:
        stone = Deletion(
            id=subject,
            phase="deleted",
            created_at=self._context.clock.now(),
            by=self._context.actor,
            reason=reason,
            facts=facts,
        )
        return transaction.insert(stone, event=event, detail={"facts": facts}, reason=reason)

    def _known_kinds(self) -> tuple[type[Record], ...]:
        if self._kinds is None:
            raise Refused(
                "only a whole workspace can delete: this service does not know what other stages refer to",
                remedy="use Workspace.open(...).development",
            )
        return self._kinds
