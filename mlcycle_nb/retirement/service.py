"""The service of the retirement stage: plan, execute, and everything a person may do on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from mlcycle_nb.context import Context
from mlcycle_nb.errors import InvalidInput, NotFound, Refused
from mlcycle_nb.notebook.handle import Handle
from mlcycle_nb.references import parse_duration
from mlcycle_nb.retirement import consumers, planning, schedule
from mlcycle_nb.retirement.decide import OUR_TAGS, is_settled
from mlcycle_nb.retirement.handover import document, with_note
from mlcycle_nb.retirement.records import (
    ARCHIVING,
    CANCELLED,
    CANCELLING,
    CLEARING,
    COMPLETED,
    ENDED_PHASES,
    HANDOVER,
    PAUSED,
    PLANNED,
    RAMPING,
    RESTORING,
    Before,
    CleanupItem,
    ConsumerState,
    Retirement,
)
from mlcycle_nb.retirement.told import with_notices
from mlcycle_nb.retirement.world import Messenger, ModelRegistry, Traffic

if TYPE_CHECKING:
    from mlcycle_nb.deployment.service import ModelDeploymentManager
    from mlcycle_nb.development.service import ModelDevelopmentManager
    from mlcycle_nb.monitoring.service import ModelMonitor
    from mlcycle_nb.retirement.status import RetirementStatus
    from mlcycle_nb.retirement.verification import RetirementVerification
    from mlcycle_nb.validation.service import ModelValidator

_BACK = (RAMPING, PAUSED, HANDOVER, ARCHIVING, CLEARING)


class ModelRetirementManager:
    """Retires model versions: consumers told, traffic ramped to the replacement, archive proven, the rest removed.

    Every call writes what should be and returns; the supervisor does the work, over weeks and restarts.
    """

    def __init__(
        self,
        context: Context,
        development: ModelDevelopmentManager,
        validation: ModelValidator,
        deployment: ModelDeploymentManager,
        monitoring: ModelMonitor,
    ) -> None:
        from mlcycle_nb.retirement.adapters import ChannelMessenger, DeployedTraffic, DevelopmentRegistry

        self._set_up(
            context, DeployedTraffic(context), DevelopmentRegistry(context, development), ChannelMessenger(context)
        )
        self.validation = validation
        self.deployment = deployment
        self.monitoring = monitoring

    @classmethod
    def of_world(
        cls, context: Context, traffic: Traffic, registry: ModelRegistry, messenger: Messenger
    ) -> ModelRetirementManager:
        """Return the service over other stages than this package's own."""
        service = cls.__new__(cls)
        service._set_up(context, traffic, registry, messenger)
        return service

    def _set_up(self, context: Context, traffic: Traffic, registry: ModelRegistry, messenger: Messenger) -> None:
        self.context = context
        self._traffic = traffic
        self._registry = registry
        self._messenger = messenger

    # -- planning and starting -------------------------------------------------------------------------------

    def plan_retirement(
        self,
        ref: str,
        *,
        environment: str = "production",
        replacement: str | None = None,
        over: str | timedelta = "28d",
        steps: str | Sequence[float] = (75, 50, 25, 0),
        reason: str,
        notify: Sequence[str] = (),
        grace: str | timedelta = "7d",
    ) -> Retirement:
        """Plan the retirement of a version; nothing changes until `execute_retirement`.

        Parameters
        ----------
        ref : str
            The version, ``digits/1`` or ``digits@alias``.
        environment : str
            Where it serves.
        replacement : str, optional
            The version that takes over its address: of the same model, deployed there and healthy.
        over : str or timedelta
            Time from the announcement to the last step.
        steps : str or sequence of float
            Percents of its own address that the version keeps, falling to 0, at even distances.
        reason : str
            Why; for the consumers, the audit trail and the archive.
        notify : sequence of str
            Alert channels that are told of each change.
        grace : str or timedelta
            Time between tombstone and deletion.

        Raises
        ------
        Refused
            When the version is stable or has an alias and no healthy replacement is named.
        Conflict
            When a retirement of this version in this environment has not ended.
        """
        shares = schedule.parse_steps(steps)
        length = schedule.parse_over(over)
        waiting = grace if isinstance(grace, timedelta) else parse_duration(grace, what="--grace")
        reason = planning.check_reason(reason)
        planning.check_environment(self.context, environment)
        model, version = planning.read_version(ref, self._registry, where="REF")
        digest = self._registry.digest(model, version)
        planning.check_not_needed(self.context, environment, model, version)
        if replacement is not None:
            replacement = planning.check_replacement(
                self.context, self._traffic, self._registry, environment, model, version, replacement
            )
        aliases = planning.check_alone(self._traffic, self._registry, environment, model, version, replacement)
        channels = tuple(dict.fromkeys(notify))
        for channel in channels:
            self._messenger.check(channel)
        now = self.context.clock.now()
        plan = Retirement(
            id=f"{environment}/{model}/{version}/{self._number(environment, model, version)}",
            phase=PLANNED,
            created_at=now,
            environment=environment,
            model=model,
            model_version=version,
            package_digest=digest,
            replacement=replacement,
            reason=reason,
            requested_by=self.context.actor,
            over_seconds=length.total_seconds(),
            grace_seconds=waiting.total_seconds(),
            steps=schedule.build_steps(now, length, shares if replacement is not None else ()),
            consumers=consumers.merge((), self._traffic.callers(environment, model, version)),
            channels=channels,
            moves_aliases=aliases,
        )
        with self.context.store.transaction(actor=self.context.actor) as transaction:
            detail = {"replacement": replacement, "over_seconds": plan.over_seconds, "shares": shares}
            planned = transaction.insert(
                with_notices(plan, "planned", now), event="retirement.planned", detail=detail, reason=reason
            )
        if channels:
            self.context.ensure_supervisor()
        return planned

    def execute_retirement(self, ref: str, *, environment: str | None = None) -> Handle[Retirement]:
        """Start a planned retirement: its times count from now. One that runs already is attached to.

        Parameters
        ----------
        ref : str
            The retirement's id, or the version.
        environment : str, optional
            With a version: where; needed when it retires in several environments.
        """
        record = self.find(ref, environment)
        if record.phase in ENDED_PHASES:
            raise Refused(f"this retirement is {record.phase}", value=record.id, remedy="plan a new one")
        if record.phase == PLANNED:
            self._check_again(record)
            self._start(record)
        self.context.ensure_supervisor()
        return self.handle(record.id)

    def _start(self, record: Retirement) -> None:
        now = self.context.clock.now()
        late = max(now - record.steps[0].due_at, timedelta(0))
        where = (record.environment, record.model, record.model_version)
        tags = self._registry.tags(record.model, record.model_version)
        before = Before(
            address=self._traffic.address(*where),
            aliases=self._registry.aliases(record.model),
            tags={key: value for key, value in tags.items() if key in OUR_TAGS},
            running=self._traffic.running(*where),
            warm_seconds=self._traffic.warm_seconds(*where),
        )
        callers = self._traffic.callers(*where)

        def started(found: Retirement) -> Retirement:
            if found.phase != PLANNED:
                return found  # somebody else was first
            begun = replace(
                found,
                phase=RAMPING,
                started_at=now,
                steps=tuple(replace(step, due_at=step.due_at + late) for step in found.steps),
                consumers=consumers.merge(found.consumers, callers),
                before=before,
            )
            return with_notices(begun, "started", now)

        self._amend(record.id, started, "retirement.started", {"replacement": record.replacement})

    # -- people ----------------------------------------------------------------------------------------------

    def acknowledge(
        self, ref: str, consumer: str, *, environment: str | None = None, by: str = "", note: str = ""
    ) -> Retirement:
        """Record that a consumer knows of the end and will have moved."""
        return self._answer(ref, environment, consumer, "acknowledged", by, note)

    def waive(
        self, ref: str, consumer: str, *, reason: str, environment: str | None = None, by: str = ""
    ) -> Retirement:
        """Let the ramp go on without a consumer's acknowledgement; needs a reason."""
        return self._answer(ref, environment, consumer, "waived", by, reason)

    def note(self, ref: str, field: str, text: str, *, environment: str | None = None) -> Retirement:
        """Write one field of the knowledge transfer: ``migration``, ``contact``, ``lessons`` or ``open_issues``."""

        def written(record: Retirement) -> Retirement:
            if record.phase in (ARCHIVING, CLEARING, CANCELLING, RESTORING, *ENDED_PHASES):
                raise Refused(f"the knowledge transfer is closed: the retirement is {record.phase}", value=record.id)
            return replace(record, notes=with_note(record.notes, field, text))

        return self._amend(self.find(ref, environment).id, written, "retirement.noted", {"field": field})

    def handover(self, ref: str, *, environment: str | None = None) -> str:
        """Return the knowledge transfer as Markdown, as far as it is written."""
        from mlcycle_nb.retirement.evidence import documents

        record = self._with_callers(self.find(ref, environment))
        known = documents(self.context.store, record.model)
        return document(record, known, self._registry.lineage(record.model, record.model_version))

    # -- the ways back ---------------------------------------------------------------------------------------

    def cancel(self, ref: str, *, reason: str, environment: str | None = None) -> Handle[Retirement]:
        """Stop a retirement and bring back split, headers, aliases, tags, replicas and package as they were before."""
        reason = planning.check_reason(reason)

        def cancelled(record: Retirement) -> Retirement:
            if record.phase == PLANNED:
                return replace(record, phase=CANCELLED, ended_at=self.context.clock.now())
            if record.phase == CANCELLING:
                return record
            if record.deleted_at is not None:
                raise Refused("its package is deleted", value=record.id, remedy=f"%retire restore {record.reference}")
            if record.phase not in _BACK:
                raise Refused(f"this retirement is {record.phase}", value=record.id)
            return replace(record, phase=CANCELLING)

        return self._go_back(self.find(ref, environment).id, cancelled, "retirement.cancelling", reason)

    def restore(self, ref: str, *, reason: str, environment: str | None = None) -> Handle[Retirement]:
        """Bring a retired version back from its archive, to what it was before the retirement."""
        reason = planning.check_reason(reason)

        def restored(record: Retirement) -> Retirement:
            if record.phase not in (COMPLETED, CLEARING, RESTORING):
                remedy = f"%retire cancel {record.reference}" if record.phase in _BACK else ""
                raise Refused(f"there is nothing to restore: it is {record.phase}", value=record.id, remedy=remedy)
            return replace(record, phase=RESTORING, ended_at=None)

        return self._go_back(self.find(ref, environment).id, restored, "retirement.restoring", reason)

    def rearchive(self, ref: str, *, reason: str, environment: str | None = None) -> Handle[Retirement]:
        """Write the archive again, from the package that still is there: after its file was lost or damaged."""
        reason = planning.check_reason(reason)

        def again(record: Retirement) -> Retirement:
            if record.phase not in (ARCHIVING, CLEARING) or record.deleted_at is not None:
                raise Refused(f"the archive cannot be written again: it is {record.phase}", value=record.id)
            return replace(record, phase=ARCHIVING, archive=None)

        return self._go_back(self.find(ref, environment).id, again, "retirement.rearchiving", reason)

    # -- reading ---------------------------------------------------------------------------------------------

    def retirements(self, model: str | None = None) -> list[Retirement]:
        """Return all retirements, newest first."""
        return self.context.store.find(Retirement, name=model)

    def find(self, ref: str, environment: str | None = None) -> Retirement:
        """Return the newest retirement of an id or a version.

        Raises
        ------
        NotFound
            When there is none; says how to plan one.
        InvalidInput
            When a version retires in several environments and none is named.
        """
        by_id = self.context.store.maybe(Retirement, ref)
        if by_id is not None:
            return by_id
        model, version = planning.read_version(ref, self._registry, where="REF")
        known = [r for r in self.context.store.find(Retirement, name=model) if r.model_version == version]
        found = [r for r in known if environment in (None, r.environment)]
        if not found:
            where = f" in {environment}" if environment else ""
            raise NotFound(f"{model}/{version} has no retirement{where}", remedy=f"%retire plan {model}/{version}")
        environments = sorted({one.environment for one in found})
        if len(environments) > 1:
            raise InvalidInput("in which environment?", value=ref, remedy=f"--env {' or '.join(environments)}")
        return max(found, key=lambda one: (one.phase not in ENDED_PHASES, int(one.id.rpartition("/")[2])))

    def status(self, ref: str, *, environment: str | None = None) -> RetirementStatus:
        """Return the record beside what the gateway counts now and what the clean-up would do."""
        from mlcycle_nb.retirement.status import RetirementStatus

        record = self._with_callers(self.find(ref, environment))
        return RetirementStatus(
            record=record,
            consumers=record.consumers,
            cleanup=record.cleanup or self._cleanup(record),
            now=self.context.clock.now(),
            error=str(self.context.store.observed(Retirement, record.id).get("error", "")),
        )

    def settle(self, ref: str, *, environment: str | None = None, timeout: float | None = 120.0) -> Retirement:
        """Block until the retirement waits for a time or for people, or has ended; return it.

        What takes weeks is not waited for: this returns when all that is due now was done and seen in force.

        Raises
        ------
        WaitTimeout
            When `timeout` seconds have passed; the work goes on.
        """
        id = self.find(ref, environment).id
        waiting: Handle[Retirement] = Handle(
            id,
            lambda: self.context.store.get(Retirement, id),
            lambda record: is_settled(record, self.context.clock.now()),
        )
        return waiting.wait(timeout)

    def cleanup_plan(self, ref: str, *, environment: str | None = None) -> tuple[CleanupItem, ...]:
        """Return each thing of the version with its size and what the clean-up would do with it now."""
        return self._cleanup(self.find(ref, environment))

    def verify(self, ref: str, *, environment: str | None = None) -> RetirementVerification:
        """Prove that nothing is left, and that the archive can be lived from: every look is made again."""
        from mlcycle_nb.retirement.verification import verify

        return verify(self.context, self.find(ref, environment), self._traffic, self._registry)

    def handle(self, id: str) -> Handle[Retirement]:
        """Return a handle to a retirement, to show, wait for or await."""
        from mlcycle_nb.retirement.panel import RetirementPanel

        return Handle(
            id,
            lambda: self.context.store.get(Retirement, id),
            lambda record: record.phase in ENDED_PHASES,
            lambda: RetirementPanel(self, id),
            sustain=self.context.revive_supervisor,
        )

    # -- parts -----------------------------------------------------------------------------------------------

    def _number(self, environment: str, model: str, version: int) -> int:
        known = self.context.store.find(Retirement, name=model)
        return 1 + sum((one.environment, one.model_version) == (environment, version) for one in known)

    def _check_again(self, record: Retirement) -> None:
        """Check what may have changed since the plan was made."""
        place = (record.environment, record.model, record.model_version)
        planning.check_not_needed(self.context, *place)
        if record.replacement is not None:
            planning.check_replacement(self.context, self._traffic, self._registry, *place, record.replacement)
        planning.check_alone(self._traffic, self._registry, *place, record.replacement)

    def _answer(
        self, ref: str, environment: str | None, consumer: str, state: ConsumerState, by: str, said: str
    ) -> Retirement:
        by = by or self.context.actor

        def answered(record: Retirement) -> Retirement:
            if record.phase in ENDED_PHASES:
                raise Refused(f"this retirement is {record.phase}", value=record.id)
            known = consumers.merge(record.consumers, callers)
            at = self.context.clock.now()
            after = replace(record, consumers=consumers.answer(known, consumer, state, by=by, said=said, at=at))
            # A paused ramp is looked at again; it pauses anew when anything else speaks against it.
            return replace(after, phase=RAMPING, blockers=()) if record.phase == PAUSED else after

        found = self.find(ref, environment)
        callers = self._traffic.callers(found.environment, found.model, found.model_version)
        detail = {"consumer": consumer, "by": by}
        return self._amend(found.id, answered, f"retirement.{state}", detail, reason=said)

    def _go_back(
        self, id: str, change: Callable[[Retirement], Retirement], event: str, reason: str
    ) -> Handle[Retirement]:
        if self._amend(id, change, event, reason=reason).active:
            self.context.ensure_supervisor()
        return self.handle(id)

    def _amend(
        self,
        id: str,
        change: Callable[[Retirement], Retirement],
        event: str,
        detail: dict[str, Any] | None = None,
        *,
        reason: str = "",
    ) -> Retirement:
        """Read, change and store in one transaction: the supervisor writes the same record all the time."""
        with self.context.store.transaction(actor=self.context.actor) as transaction:
            record = transaction.get(Retirement, id)
            changed = change(record)
            if changed == record:
                return record
            return transaction.update(changed, event=event, detail=detail, reason=reason)

    def _with_callers(self, record: Retirement) -> Retirement:
        callers = self._traffic.callers(record.environment, record.model, record.model_version)
        return replace(record, consumers=consumers.merge(record.consumers, callers))

    def _cleanup(self, record: Retirement) -> tuple[CleanupItem, ...]:
        from mlcycle_nb.retirement import cleanup

        return cleanup.plan(self.context, record, self._traffic, self._registry)
