"""Model versions and aliases: MLflow's registry owns them, the workspace knows and audits them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from mlcycle_nb.context import Context
from mlcycle_nb.development.records import (
    PACKAGE_TAG,
    PARENT_TAG,
    ModelAlias,
    ModelVersion,
    RegisteredVersion,
    alias_id,
    audit_subject,
    run_subject,
    version_id,
    version_subject,
)
from mlcycle_nb.development.registered import Registered
from mlcycle_nb.development.tracking import Tracking
from mlcycle_nb.errors import Conflict, InvalidInput, NotFound
from mlcycle_nb.references import ModelReference, check_alias, check_name
from mlcycle_nb.store.deletion import Deletion
from mlcycle_nb.supervisor.crash import crash_point

if TYPE_CHECKING:
    from mlcycle_nb.packages import Package

TAG_LIMIT = 5000
"""Characters of a tag's value that MLflow keeps."""


class Registry:
    """The model registry of one workspace.

    Writes go to MLflow first and then, in one transaction, to the workspace. A crash in between, or a change made
    with another program, is found by `reconcile`, which every write begins with.
    """

    def __init__(self, context: Context, tracking: Tracking) -> None:
        self._context = context
        self._tracking = tracking
        self.known = Registered(context.store)

    def get(self, reference: ModelReference) -> ModelVersion:
        """Return the version that a reference names.

        Raises
        ------
        NotFound
            Listing the models, versions or aliases that exist.
        InvalidInput
            When the reference names a model with several versions, and none of them.
        """
        if self._tracking.shared and reference.alias is not None:
            self.reconcile(reference.name)  # somebody else may have moved it
        found = self.known.lookup(reference)
        if found is None and self._tracking.shared:
            self.reconcile(reference.name)
            found = self.known.lookup(reference)
        if found is None:
            raise self.known.absent(reference)
        return found

    # -- writing ---------------------------------------------------------------------------------------------

    def register(self, name: str, package: Package, *, run_id: str | None, tags: Mapping[str, str]) -> ModelVersion:
        """Register a package that lies in the workspace's package store as the next version of a model.

        A package that the same run has registered already gives that version again: a step that was killed between
        registering and saying so can be repeated.
        """
        from mlcycle_nb.packages import PackageStore

        check_name(name, "model name")
        for key, value in tags.items():
            if key.startswith("mlcycle.") or not isinstance(value, str) or len(value) > TAG_LIMIT:
                raise InvalidInput(
                    f"tag {key} cannot be set", value=value, remedy="tags are text, and mlcycle.* is kept for us"
                )
        stored = PackageStore(self._context.folder("packages")).open(package.digest)
        stored.check_files()
        self.reconcile(name)
        self._refuse_absent_origins(run_id, tags)
        if run_id is not None:
            for version in self.known.versions(name):
                if version.run_id == run_id and version.package_digest == package.digest:
                    return version
        marks = {
            **tags,
            PACKAGE_TAG: package.digest,
            "mlcycle.format": package.format,
            "mlcycle.task": str(package.task),
            "mlcycle.workspace": self._context.workspace_id,
        }
        # A server refuses paths of its clients; the digest says where the bytes are in any package store.
        elsewhere = f"mlcycle://packages/{package.digest.replace(':', '-')}"
        source = elsewhere if self._tracking.shared else stored.path.as_uri()
        made = self._tracking.create_version(name, source, run_id, marks)
        crash_point("development.after_registry")
        return self._record(replace(made, created_at=self._context.clock.now()), event="model.registered")

    def set_alias(self, name: str, alias: str, number: int, *, reason: str = "") -> ModelVersion:
        """Point an alias at a version of the model."""
        check_alias(alias)
        self.reconcile(name)
        target = self.get(ModelReference(check_name(name, "model name"), version=number))
        before = self.known.aliases(name).get(alias)
        if before != number:
            try:
                self._tracking.set_alias(name, alias, number)
            except NotFound:
                raise Conflict(f"{target.reference} was deleted by somebody else meanwhile") from None
            crash_point("development.after_alias")
            self._record_alias(name, alias, number, event="model.alias_set", reason=reason, expected=before)
        return self.get(ModelReference(name, version=target.version))

    def remove_alias(self, name: str, alias: str, *, reason: str = "") -> None:
        """Remove an alias; one that is not there is removed already."""
        check_alias(alias)
        self.reconcile(name)
        before = self.known.aliases(name).get(alias)
        if before is not None:
            self._tracking.remove_alias(name, alias)
            self._record_alias(name, alias, None, event="model.alias_removed", reason=reason, expected=before)

    def tag(self, name: str, number: int, key: str, value: str) -> ModelVersion:
        """Set a tag of a version."""
        if key == PACKAGE_TAG or len(value) > TAG_LIMIT:
            raise InvalidInput(f"tag {key} cannot be set", value=value)
        current = self.get(ModelReference(check_name(name, "model name"), version=number))
        if current.tags.get(key) == value:
            return current
        self._tracking.tag_version(name, number, key, value)
        with self._context.store.transaction(actor=self._context.actor) as transaction:
            record = transaction.get(RegisteredVersion, version_id(name, number))
            transaction.update(
                replace(record, tags={**record.tags, key: value}), event="model.tagged", detail={key: value}
            )
        return self.get(ModelReference(name, version=number))

    def reconcile(self, name: str) -> None:
        """Take over what MLflow's registry holds and the workspace does not know, each with its audit event."""
        known = {record.number for record in self._context.store.find(RegisteredVersion, name=name)}
        for version in self._tracking.versions(name):
            if version.version not in known:
                self._record(self._without_gone_run(version), event="model.adopted")
                known.add(version.version)
        theirs, ours = self._tracking.aliases(name), self.known.aliases(name)
        for alias in sorted(theirs.keys() | ours.keys()):
            target = theirs.get(alias)
            if target != ours.get(alias) and (target is None or target in known):
                try:
                    self._record_alias(
                        name,
                        alias,
                        target,
                        event="model.alias_adopted",
                        reason="found in MLflow's registry",
                        expected=ours.get(alias),
                    )
                except Conflict:
                    continue  # moved again meanwhile, and recorded by who moved it

    # -- parts -----------------------------------------------------------------------------------------------

    def _without_gone_run(self, version: ModelVersion) -> ModelVersion:
        gone = version.run_id is not None and self._context.store.maybe(Deletion, run_subject(version.run_id))
        return replace(version, run_id=None) if gone else version

    def _record(self, made: ModelVersion, *, event: str) -> ModelVersion:
        record = RegisteredVersion(
            id=made.reference,
            phase="registered",
            created_at=made.created_at,
            model=made.name,
            number=made.version,
            package_digest=made.package_digest,
            run_id=made.run_id,
            tags=dict(made.tags),
        )
        detail = {"package": made.package_digest, "run": made.run_id}
        try:
            with self._context.store.transaction(actor=self._context.actor) as transaction:
                transaction.insert(record, event=f"version.{event.partition('.')[2]}", detail=detail)
                transaction.note(event, subject=audit_subject(made.name, made.version), detail=detail)
        except Conflict:
            existing = self._context.store.get(RegisteredVersion, record.id)
            if existing.package_digest != record.package_digest:
                raise
        return self.get(ModelReference(made.name, version=made.version))

    def _refuse_absent_origins(self, run_id: str | None, tags: Mapping[str, str]) -> None:
        """Refuse a run or a parent version that was deleted, before MLflow is told of them."""
        gone = None if run_id is None else self._context.store.maybe(Deletion, run_subject(run_id))
        if gone is not None:
            raise Conflict(f"run {run_id} {gone.told()}")
        if PARENT_TAG in tags:
            parent = ModelReference.parse(tags[PARENT_TAG])
            if parent.version is None:
                raise InvalidInput("the parent of a version is a version", value=str(parent), remedy="such as digits/2")
            self.get(parent)

    def _record_alias(
        self, name: str, alias: str, number: int | None, *, event: str, reason: str, expected: int | None
    ) -> None:
        with self._context.store.transaction(actor=self._context.actor) as transaction:
            record = transaction.maybe(ModelAlias, alias_id(name, alias))
            before = None if record is None else record.number
            if before == number:
                return
            gone = None if number is None else transaction.maybe(Deletion, version_subject(name, number))
            if gone is not None or before != expected:
                # Somebody else's change was recorded while MLflow was told of ours: theirs counts, there too.
                if before is None:
                    self._tracking.remove_alias(name, alias)
                else:
                    self._tracking.set_alias(name, alias, before)
                if gone is not None:
                    raise Conflict(f"{gone.about} {gone.told()}", remedy=f"look again: %model list {name}")
                now = "was removed" if before is None else f"names {version_id(name, before)} now: it was moved"
                raise Conflict(
                    f"{name}@{alias} {now} by somebody else meanwhile", remedy=f"look again: %model history {name}"
                )
            detail = {"alias": alias, "from": before, "to": number}
            if record is None:
                assert number is not None
                fresh = ModelAlias(
                    id=alias_id(name, alias),
                    phase="set",
                    created_at=self._context.clock.now(),
                    model=name,
                    alias=alias,
                    number=number,
                )
                transaction.insert(fresh, event="alias.set", detail=detail, reason=reason)
            elif number is None:
                transaction.delete(record, event="alias.removed", detail=detail, reason=reason)
            else:
                transaction.update(replace(record, number=number), event="alias.set", detail=detail, reason=reason)
            subject = audit_subject(name, number if number is not None else record.number if record else 0)
            transaction.note(event, subject=subject, detail=detail, reason=reason)
