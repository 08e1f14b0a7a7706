"""The actions of retirement: each may be repeated, and the record says first what the world is then brought to."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from mlcycle_nb.context import Context
from mlcycle_nb.errors import Refused
from mlcycle_nb.retirement import archive, certificate, cleanup, contents, proof, schedule
from mlcycle_nb.retirement.consumers import merge
from mlcycle_nb.retirement.decide import OUR_TAGS, Action, Seen, next_action, split_of, wanted_address
from mlcycle_nb.retirement.records import (
    ARCHIVING,
    CANCELLED,
    CANCELLING,
    CLEARING,
    COMPLETED,
    HANDOVER,
    PAUSED,
    RAMPING,
    RESTORED,
    RESTORING,
    WHOLE,
    ArchiveReceipt,
    Retirement,
)
from mlcycle_nb.retirement.told import with_notices
from mlcycle_nb.retirement.world import Messenger, ModelRegistry, Traffic
from mlcycle_nb.store.record import format_time
from mlcycle_nb.supervisor.crash import crash_point


def build(context: Context) -> list[RetirementController]:
    """Return the controllers that the supervisor runs for this stage."""
    from mlcycle_nb.retirement.adapters import real_world

    return [RetirementController(context, *real_world(context))]


class RetirementController:
    """Brings retirements forward, one small action at a time.

    Parameters
    ----------
    context : Context
        The workspace.
    traffic, registry, messenger
        The stages before this one; tests give `mlcycle_nb.testing.ScriptedWorld`.
    prove : callable
        Proves an archive and returns the golden rows answered, as `proof.prove` does.
    look_seconds : float
        While nothing is due, the world is looked at this often: a ramp of weeks must not keep a core warm.
    """

    record_type = Retirement

    def __init__(
        self,
        context: Context,
        traffic: Traffic,
        registry: ModelRegistry,
        messenger: Messenger,
        prove: Callable[[Context, Path, str, str], int] = proof.prove,
        look_seconds: float = 1.0,
    ) -> None:
        self._context = context
        self._traffic = traffic
        self._registry = registry
        self._messenger = messenger
        self._prove = prove
        self._look_seconds = look_seconds
        self._looked: dict[str, tuple[float, int, Seen]] = {}  # when, at which row version, and what was seen

    def observe(self, record: Retirement) -> Seen:
        """Read the address, the replicas, the callers and the registry."""
        backwards = record.phase in (CANCELLING, RESTORING)
        if not backwards and record.phase not in (RAMPING, PAUSED):
            return Seen()  # the later phases look for themselves when they act
        step = record.next_step
        due = step is not None and self._now() >= step.due_at
        monotonic = self._context.clock.monotonic()
        looked_at, version, seen = self._looked.get(record.id, (-math.inf, -1, Seen()))
        resting = record.phase == PAUSED or (record.phase == RAMPING and not due and record.unconfirmed_step is None)
        if resting and version == record.version and monotonic - looked_at < self._look_seconds:
            return seen
        seen = self._look(record, backwards=backwards, due=due)
        self._looked[record.id] = (monotonic, record.version, seen)
        return seen

    def _look(self, record: Retirement, *, backwards: bool, due: bool) -> Seen:
        where = (record.environment, record.model, record.model_version)
        replacement = record.replacement_version
        healthy = 0 if replacement is None else self._traffic.healthy(record.environment, record.model, replacement)
        return Seen(
            declared=self._traffic.address(*where),
            in_force=self._traffic.in_force(*where),
            old_running=self._traffic.running(*where),
            stable=self._traffic.stable(record.environment, record.model),
            replacement_healthy=healthy,
            callers=tuple(self._traffic.callers(*where)),
            # The registry is asked only when it matters: a ramp of weeks looks around five times a second.
            aliases=self._registry.aliases(record.model) if backwards or due else None,
            tags=self._registry.tags(record.model, record.model_version) if backwards else {},
            package_present=cleanup.package_folder(self._context, record.package_digest).is_dir(),
        )

    def next_action(self, record: Retirement, observation: Seen, now: datetime) -> Action | None:
        """Return what to do next; pure."""
        return next_action(record, observation, now)

    def act(self, action: Action, record: Retirement, observation: Seen) -> None:
        """Do one action."""
        verbs: dict[str, Callable[[Action, Retirement, Seen], None]] = {
            "take": self._take,
            "apply": self._apply,
            "redirect": self._redirect,
            "confirm": self._confirm,
            "pause": self._pause,
            "resume": self._resume,
            "move_aliases": self._move_aliases,
            "hand_over": self._hand_over,
            "begin_archive": self._begin_archive,
            "write_archive": self._write_archive,
            "verify_archive": self._verify_archive,
            "entomb": self._entomb,
            "delete": self._delete,
            "complete": self._complete,
            "undo": self._undo,
            "finish_undo": self._finish_undo,
            "tell": self._tell,
        }
        verbs[action.verb](action, record, observation)

    # -- the ramp --------------------------------------------------------------------------------------------

    def _take(self, action: Action, record: Retirement, seen: Seen) -> None:
        step = record.steps[action.position]
        now = self._now()
        split = split_of(record, step, old_running=seen.old_running)
        taken = replace(
            record,
            steps=schedule.take(record.steps, step.position, now, split),
            consumers=merge(record.consumers, seen.callers),
        )
        if step.kind == "gone":
            taken = with_notices(taken, "gone", now)
        # Stored first: after a crash the address is brought to what the record says, and never back.
        stored = self._store(
            taken, f"retirement.step.{step.kind}", {"position": step.position, "share": step.share, "due": step.due_at}
        )
        crash_point("retirement.after_step")
        self._set_address(stored, step.position)

    def _apply(self, action: Action, record: Retirement, seen: Seen) -> None:
        self._set_address(record, action.position)

    def _redirect(self, action: Action, record: Retirement, seen: Seen) -> None:
        version = record.replacement_version
        assert version is not None  # next_action asks for it only then
        steps = tuple(
            replace(step, split=((version, WHOLE),), confirmed_at=None) if step.position == action.position else step
            for step in record.steps
        )
        stored = self._store(replace(record, steps=steps), "retirement.redirected", {"position": action.position})
        self._set_address(stored, action.position)

    def _set_address(self, record: Retirement, position: int) -> None:
        if position == 0:
            # From here on the version cannot be deployed anew: deployment asks for this tag.
            self._registry.set_tags(record.model, record.model_version, {OUR_TAGS[0]: record.id})
        wanted = wanted_address(record, record.steps[position])
        self._traffic.set_address(record.environment, record.model, record.model_version, wanted)
        crash_point("retirement.after_address")

    def _confirm(self, action: Action, record: Retirement, seen: Seen) -> None:
        steps = schedule.confirm(record.steps, action.position, self._now())
        self._store(replace(record, steps=steps), "retirement.step.confirmed", {"position": action.position})

    def _pause(self, action: Action, record: Retirement, seen: Seen) -> None:
        paused = replace(record, phase=PAUSED, blockers=action.reasons, consumers=merge(record.consumers, seen.callers))
        told = with_notices(paused, "paused", self._now())
        self._store(told, "retirement.paused", {"share": record.share}, reason="; ".join(action.reasons))

    def _resume(self, action: Action, record: Retirement, seen: Seen) -> None:
        self._store(replace(record, phase=RAMPING, blockers=()), "retirement.resumed", {"share": record.share})

    def _move_aliases(self, action: Action, record: Retirement, seen: Seen) -> None:
        version = record.replacement_version
        assert version is not None  # a plan that moves aliases names a replacement
        for alias in record.moves_aliases:
            if (seen.aliases or {}).get(alias) == record.model_version:
                self._registry.set_alias(record.model, alias, version)
                crash_point("retirement.after_alias")

    def _hand_over(self, action: Action, record: Retirement, seen: Seen) -> None:
        self._store(replace(record, phase=HANDOVER), "retirement.ramped")

    # -- archive and clean-up --------------------------------------------------------------------------------

    def _begin_archive(self, action: Action, record: Retirement, seen: Seen) -> None:
        self._store(replace(record, phase=ARCHIVING), "retirement.archiving")

    def _write_archive(self, action: Action, record: Retirement, seen: Seen) -> None:
        from mlcycle_nb.packages.package import open_package

        place = cleanup.package_place(self._context, record)
        if place is None:
            raise Refused("there is no package to archive", value=record.package_digest)
        package = open_package(place, record.package_digest)
        members = contents.collect(
            self._context, record, package, self._registry.lineage(record.model, record.model_version)
        )
        folder = self._context.folder("archive", record.environment, record.model)
        target = folder / f"v{record.model_version}.{record.id.rpartition('/')[2]}.zip"
        about = {"retirement": record.id, "version": record.reference, "package": record.package_digest}
        written = archive.write_archive(target, members, about)
        crash_point("retirement.after_archive")
        receipt = ArchiveReceipt(
            path=str(target.relative_to(self._context.home)),
            sha256=written.sha256,
            size_bytes=written.size_bytes,
            members=written.members,
            written_at=self._now(),
        )
        self._store(replace(record, archive=receipt), "retirement.archived", {"sha256": written.sha256})

    def _verify_archive(self, action: Action, record: Retirement, seen: Seen) -> None:
        receipt = _receipt(record)
        path = self._context.home / receipt.path
        rows = self._prove(self._context, path, receipt.sha256, record.package_digest)
        crash_point("retirement.after_proof")
        proven = replace(receipt, verified_at=self._now(), golden_rows=rows)
        self._store(replace(record, archive=proven), "retirement.archive.verified", {"golden_rows": rows})

    def _entomb(self, action: Action, record: Retirement, seen: Seen) -> None:
        self._traffic.stop(record.environment, record.model, record.model_version)
        now = self._now()
        items = cleanup.plan(self._context, record, self._traffic, self._registry)
        held = cleanup.refused(items)
        if not held:
            self._check_archive(record)
            tombstone = cleanup.entomb(self._context, record)
            crash_point("retirement.after_tombstone")
        else:
            tombstone = ""
        tags = dict(zip(OUR_TAGS, (record.id, format_time(now)[:10], record.replacement), strict=True))
        self._registry.set_tags(record.model, record.model_version, tags)
        changed = replace(record, phase=CLEARING, cleanup=items, tombstone=tombstone, delete_at=now + record.grace)
        kept = [item.name for item in held]
        self._store(changed, "retirement.tombstoned", {"delete_at": changed.delete_at, "kept": kept})

    def _delete(self, action: Action, record: Retirement, seen: Seen) -> None:
        """Delete what is in the tombstone; with nothing in it, because it was held, only the record moves on."""
        if record.tombstone:
            # Everything is read again now: the archive may have been damaged, and others may have come to need it.
            self._check_archive(record)
            held = cleanup.holders_of_package(record, self._traffic, self._registry)
            if held:
                self._give_package_back(record)
                self._store(replace(record, tombstone=""), "retirement.kept", {"held_by": held})
                return
            cleanup.delete_tombstone(self._context, record)
            crash_point("retirement.after_delete")
        self._store(replace(record, deleted_at=self._now()), "retirement.deleted", {"tombstone": record.tombstone})

    def _complete(self, action: Action, record: Retirement, seen: Seen) -> None:
        files: list[dict[str, object]] = []
        if record.tombstone:
            manifest = archive.check_members(self._context.home / _receipt(record).path)
            prefix = archive.PACKAGE_FOLDER + "/"
            files = [{"name": n, **entry} for n, entry in sorted(manifest["members"].items()) if n.startswith(prefix)]
        path = certificate.issue(self._context, record, files)
        changed = replace(
            record, phase=COMPLETED, certificate=str(path.relative_to(self._context.home)), ended_at=self._now()
        )
        self._store(with_notices(changed, "completed", self._now()), "retirement.completed", {"files": len(files)})

    def _check_archive(self, record: Retirement) -> None:
        receipt = _receipt(record)
        if receipt.verified_at is None:
            raise Refused("the archive was never restored and scored", where=record.id, remedy="nothing was deleted")
        path = self._context.home / receipt.path
        archive.check_bytes(path, receipt.sha256)
        archive.check_members(path)

    # -- the way back ----------------------------------------------------------------------------------------

    def _undo(self, action: Action, record: Retirement, seen: Seen) -> None:
        before = record.before
        assert before is not None  # only what was started can be cancelled or restored
        where = (record.environment, record.model, record.model_version)
        if not seen.package_present:
            self._give_package_back(record)
        crash_point("retirement.after_package_back")
        for alias in record.moves_aliases:
            if alias in before.aliases and (seen.aliases or {}).get(alias) != before.aliases[alias]:
                self._registry.set_alias(record.model, alias, before.aliases[alias])
        self._registry.set_tags(record.model, record.model_version, {tag: before.tags.get(tag) for tag in OUR_TAGS})
        if seen.declared != before.address:
            self._traffic.set_address(*where, before.address)
        if before.running and not seen.old_running:
            self._traffic.start(*where)
        crash_point("retirement.after_undo")

    def _give_package_back(self, record: Retirement) -> None:
        """Put the package into the store again: from its tombstone when it is whole, else from the archive."""
        from mlcycle_nb.packages import PackageStore

        if cleanup.tombstone_is_whole(self._context, record) and cleanup.exhume(self._context, record):
            return
        self._check_archive(record)
        path = self._context.home / _receipt(record).path
        with proof.scratch(self._context) as folder:
            archive.extract(path, folder / "package", prefix=archive.PACKAGE_FOLDER)
            package = PackageStore(self._context.folder("packages")).add(folder / "package")
        if package.digest != record.package_digest:
            raise Refused("the archive holds another package", value=package.digest, where=str(path))
        cleanup.delete_tombstone(self._context, record)  # what an unfinished deletion left

    def _finish_undo(self, action: Action, record: Retirement, seen: Seen) -> None:
        before = record.before
        if before is not None and before.warm_seconds is not None:
            # It was about to end, and only the retirement kept it: it gets its time again.
            self._traffic.let_go(record.environment, record.model, record.model_version, before.warm_seconds)
        cancelled = record.phase == CANCELLING
        phase, about = (CANCELLED, "cancelled") if cancelled else (RESTORED, "restored")
        changed = replace(record, phase=phase, blockers=(), tombstone="", difference=(), ended_at=self._now())
        told = with_notices(changed, about, self._now())
        self._store(told, f"retirement.{about}", {"difference": []})

    # -- messages --------------------------------------------------------------------------------------------

    def _tell(self, action: Action, record: Retirement, seen: Seen) -> None:
        notices = list(record.notices)
        for position, notice in enumerate(notices):
            if not notice.pending:
                continue
            key = f"{record.id}#{position}"
            message: dict[str, object] = {
                "about": f"retirement {notice.about}",
                "version": record.reference,
                "environment": record.environment,
                "text": notice.text,
            }
            delivered, said = self._messenger.send(notice.channel, key, message)
            notices[position] = replace(
                notice,
                delivered_at=self._now() if delivered else None,
                attempts=notice.attempts + 1,
                detail=said[:300],
            )
        self._store(replace(record, notices=tuple(notices)), "retirement.told")

    # -- parts -----------------------------------------------------------------------------------------------

    def _now(self) -> datetime:
        return self._context.clock.now()

    def _store(
        self, record: Retirement, event: str, detail: dict[str, Any] | None = None, *, reason: str = ""
    ) -> Retirement:
        with self._context.store.transaction(actor=self._context.actor) as transaction:
            stored = transaction.update(record, event=event, detail=detail, reason=reason)
        crash_point("retirement.after_store")
        return stored


def _receipt(record: Retirement) -> ArchiveReceipt:
    if record.archive is None:
        raise Refused("this retirement has no archive", value=record.id)
    return record.archive


def archive_path(context: Context, record: Retirement) -> Path:
    """Return where the archive of a retirement is."""
    return context.home / _receipt(record).path
