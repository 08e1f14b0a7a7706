"""Drives rollouts: reads the world, asks the state machine, and stores each step with its audit event."""

from __future__ import annotations

import importlib
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from mlcycle_nb.context import Context
from mlcycle_nb.deployment.judgement import Judgement
from mlcycle_nb.deployment.records import (
    DeploymentStrategy,
    Gateway,
    Revision,
    Rollout,
    Service,
    revision_id,
    share,
)
from mlcycle_nb.deployment.revisions import IDLE, let_go, size_revision
from mlcycle_nb.deployment.rollout import (
    CLOCK_SLACK,
    Abort,
    Action,
    Complete,
    Conclude,
    Finish,
    Rewind,
    RolloutObservation,
    Route,
    Seen,
    SetAlias,
    Settle,
    Size,
    Take,
    is_settled,
    next_action,
)
from mlcycle_nb.deployment.shadow import concluded
from mlcycle_nb.errors import MLCycleError
from mlcycle_nb.outcomes import Outcome
from mlcycle_nb.serving.gateway import AccessLogReader
from mlcycle_nb.store import Record, Transaction
from mlcycle_nb.supervisor.crash import crash_point

if TYPE_CHECKING:
    import pyarrow as pa

    from mlcycle_nb.deployment.analysis import AnalysisMemory, AnalysisState, Baseline
    from mlcycle_nb.serving.labels import LabelStore

READ_SECONDS = 0.5
PAIR_SECONDS = 1.0
SERIES_SECONDS = 1.0
SERIES_KEPT = 3000
BASELINE = timedelta(minutes=10)
CHAMPION = "champion"
_STEP_EVENTS = {
    Take: "rollout.begun",
    Settle: "rollout.in_force",
    Abort: "rollout.aborting",
    Conclude: "rollout.concluding",
    Rewind: "rollout.clock_set_back",
}


class RolloutController:
    """Moves the traffic of services from one version to another."""

    record_type: type[Record] = Rollout

    def __init__(self, context: Context) -> None:
        self._context = context
        self._analyses: dict[str, AnalysisMemory] = {}
        self._warm = False

    def next_action(self, record: Rollout, observation: RolloutObservation, now: datetime) -> Action | None:
        """See `rollout.next_action`."""
        return next_action(record, observation, now)

    # -- observing -------------------------------------------------------------------------------------------

    def observe(self, record: Rollout) -> RolloutObservation:
        """Read the service, its revisions, the gateway, and what they logged."""
        store = self._context.store
        service = store.get(Service, record.service_id)
        gateway = store.observed(Gateway, record.environment)
        if gateway.get("fence") != store.fence:
            gateway = {}  # an earlier leader's: all of it may have been stopped since
        reachable = gateway.get("reachable", {}) if gateway.get("alive") else {}
        predecessor = store.maybe(Rollout, record.after) if record.after else None
        return RolloutObservation(
            service=service,
            target=self._seen(record, record.target, reachable),
            base=self._seen(record, record.base, reachable),
            settled=is_settled(service, gateway),
            judgement=self._judgement(record),
            predecessor_ended=predecessor is None or predecessor.ended,
        )

    def _seen(self, record: Rollout, version: int | None, reachable: dict[str, int]) -> Seen:
        if version is None:
            return Seen()
        id = revision_id(record.environment, record.model, version)
        revision = self._context.store.maybe(Revision, id)
        if revision is None:
            return Seen()
        seen = self._context.store.observed(Revision, id)
        if revision.phase in IDLE:
            seen = {}  # what stopped an earlier attempt says nothing about the next
        if seen.get("attempt") != revision.attempt or seen.get("fence") != self._context.store.fence:
            seen = {}
        return Seen(
            revision=revision,
            ready=int(seen.get("ready", 0)),
            reachable=int(reachable.get(f"{record.model}/{version}", 0)),
            problem=str(seen.get("problem", "")),
        )

    def _judgement(self, record: Rollout) -> Judgement:
        if record.base is not None and not self._warm:
            # Imports of a second or more, while the replicas start: later they would delay the first verdict.
            self._warm = True
            threading.Thread(target=_load_analysis, name="load-analysis", daemon=True).start()
        if record.phase not in ("progressing", "paused") or record.base is None:
            self._analyses.pop(record.id, None)
            return Judgement()
        from mlcycle_nb.deployment import analysis, comparison

        store, now = self._context.store, time.monotonic()
        log = AccessLogReader(self._context.folder("gateway", record.environment))
        memory = self._analyses.get(record.id)
        if memory is None:
            stored = store.observed(Rollout, record.id).get("analysis")
            if stored is None:
                tail = store.observed(Gateway, record.environment).get("tail") or {}
                position = _end(log, tail.get("position"))
                state = analysis.begin(
                    record,
                    position,
                    datetime.now(UTC),
                    self._baseline(record),
                    classes=len(self._class_names(record)),
                    labels_until=max(self._labels(record).names(), default=""),
                )
            else:
                state = analysis.AnalysisState.from_json(stored)
            memory = self._analyses[record.id] = analysis.AnalysisMemory(state, analysis.judge(state, record.policy))
        state = memory.state
        if now - memory.read_at >= READ_SECONDS:
            memory.read_at = now
            batch = log.read(state.position)
            if record.strategy is DeploymentStrategy.SHADOW:
                copies = self._copies(record)
                state = comparison.add_requests(state, record, batch.rows, batch.position, copies)
            else:
                state = analysis.add_requests(state, record, batch.rows, batch.position)
        paired = state.disagreement is not None or state.shift is not None
        if paired and now - memory.paired_at >= PAIR_SECONDS:
            memory.paired_at = now
            until = datetime.now(UTC) - analysis.PAIR_LAG
            if state.paired_until is not None and until < state.paired_until - CLOCK_SLACK:
                state = analysis.compared_anew(state, record, until, classes=len(self._class_names(record)))
            if state.paired_until is None or until > state.paired_until:
                if record.strategy is DeploymentStrategy.SHADOW:
                    table = self._predictions(record, *comparison.window(state, until))
                    state = comparison.add_pairs(state, record, table, until)
                else:
                    table = self._predictions(record, state.paired_until, until)
                    state = analysis.add_pairs(state, record, table, until)
                if now >= memory.labels_due:
                    state = self._with_labels(state, record, until)
                    ended = time.monotonic()
                    # It reads the whole rollout's predictions: however many labels come, a tenth of the time at most.
                    memory.labels_due = ended + 10 * (ended - now)
        if state != memory.state:
            judgement = analysis.judge(state, record.policy)
            # State, position and verdicts in one write: a crash can neither lose nor double a request.
            store.observe(Rollout, record.id, analysis=state.to_json(), judgement=judgement)
            memory.state, memory.judgement = state, judgement
            if now - memory.noted_at >= SERIES_SECONDS:
                memory.noted_at = now
                self._note_series(record, judgement)
            crash_point("rollout.after_analysis")
        return memory.judgement

    def _with_labels(self, state: AnalysisState, record: Rollout, until: datetime) -> AnalysisState:
        """Return the state with labels that came before `until`: by then their predictions are in the log."""
        from mlcycle_nb.deployment import analysis

        store = self._labels(record)
        new = store.names(after=state.labels_until, until=until)
        if state.accuracy is None or not new:
            return state
        labels = store.all(after=state.labels_until, until=new[-1])
        began = min(record.created_at, record.phase_since)  # the earlier one, if the clock was set back in between
        table = self._predictions(record, began.astimezone(UTC) - self._ahead(), until)
        assert labels is not None
        return analysis.add_labels(state, record, table, labels, self._class_names(record), new[-1])

    def _copies(self, record: Rollout) -> tuple[int, int]:
        from mlcycle_nb.serving.prediction_log import copy_totals

        return copy_totals(self._context.folder("predictions"), record.environment, record.model, record.target)

    def _ahead(self) -> timedelta:
        """Return what the workspace's clock is ahead of the machine's, which stamps the predictions."""
        return self._context.clock.now() - datetime.now(UTC)

    def _labels(self, record: Rollout) -> LabelStore:
        from mlcycle_nb.serving.labels import LabelStore

        return LabelStore(self._context.folder("labels"), record.environment, record.model)

    def _class_names(self, record: Rollout) -> tuple[str, ...]:
        from mlcycle_nb.packages import PackageStore

        return PackageStore(self._context.folder("packages")).open(record.digest).class_names

    def _note_series(self, record: Rollout, judgement: Judgement) -> None:
        owner, now = f"rollout:{record.id}", self._context.clock.now()
        shown = ("name", "outcome", "requests", "estimate", "low", "high")
        points = [
            {"time": now, "kind": "verdict", **{field: getattr(metric, field) for field in shown}}
            for metric in judgement.metrics
        ]
        self._context.store.add_measurements(owner, points)
        self._context.store.prune_measurements(owner, keep=SERIES_KEPT)

    def _predictions(self, record: Rollout, since: datetime | None, until: datetime) -> pa.Table:
        from mlcycle_nb.serving.prediction_log import read_predictions

        return read_predictions(
            self._context.folder("predictions"),
            record.environment,
            record.model,
            since=since,
            until=until,
            mirrored=None,
        )

    def _baseline(self, record: Rollout) -> Baseline | None:
        from mlcycle_nb.deployment.analysis import Baseline

        if record.strategy is not DeploymentStrategy.BLUE_GREEN:
            return None
        since = self._context.clock.now() - BASELINE
        points = self._context.store.measurements(f"service:{record.service_id}", kind="traffic", since=since)
        return Baseline.of(points, record.base)

    # -- acting ----------------------------------------------------------------------------------------------

    def act(self, action: Action, record: Rollout, observation: RolloutObservation) -> None:
        """Store what the action means: the rollout, the service and their audit events in one transaction."""
        if isinstance(action, SetAlias):
            self._set_alias(record)
            return
        crash_point(f"rollout.before_{type(action).__name__.lower()}")
        with self._context.store.transaction(actor=self._context.actor) as transaction:
            if isinstance(action, Size):
                self._size(transaction, action, record)
            elif isinstance(action, Route):
                self._route(transaction, action, record)
            elif isinstance(action, Complete):
                self._complete(transaction, record)
            elif isinstance(action, Finish):
                self._finish(transaction, record)
            else:
                self._step(transaction, action, record)
        crash_point(f"rollout.after_{type(action).__name__.lower()}")

    def _step(
        self, transaction: Transaction, action: Take | Settle | Abort | Conclude | Rewind, record: Rollout
    ) -> None:
        now = self._context.clock.now()
        if isinstance(action, Take):
            service = transaction.get(Service, record.service_id)
            base = service.stable
            changes = {"base": base, "base_replicas": _size_of(transaction, record, base)}
            moved = record.moved(now, "preparing", "begins", **changes)
        elif isinstance(action, Settle):
            moved = replace(record.told(now, "the weights are in force"), in_force_since=now)
        elif isinstance(action, Rewind):
            told = record.told(now, "the clock was set back; the time of this step begins anew")
            moved = replace(told, phase_since=now, in_force_since=None if record.in_force_since is None else now)
        elif isinstance(action, Conclude):
            moved = concluded(record, now, action.verdict, action.reason)
        else:
            text = f"goes back: {action.reason}"
            moved = record.moved(now, "aborting", text, reason=action.reason, ends_as=action.ends_as)
        reason = action.reason if isinstance(action, Abort | Conclude) else ""
        event = _STEP_EVENTS[type(action)]
        transaction.update(moved, event=event, detail={"step": moved.step}, reason=reason)

    def _size(self, transaction: Transaction, action: Size, record: Rollout) -> None:
        target = action.version == record.target
        size_revision(
            transaction,
            self._context.clock.now(),
            environment=record.environment,
            model=record.model,
            version=action.version,
            replicas=action.replicas,
            digest=record.digest if target else _digest_of(transaction, record, action.version),
            runtime=record.runtime if target else None,
        )

    def _route(self, transaction: Transaction, action: Route, record: Rollout) -> None:
        now = self._context.clock.now()
        service = transaction.get(Service, record.service_id)
        detail = {"split": action.split, "mirror": action.mirror, "rollout": record.id}
        routed = service.routed(split=action.split, mirror=action.mirror)
        if action.split and service.phase != "serving":
            routed = replace(routed, phase="serving")
        transaction.update(routed, event="service.routed", detail=detail)
        weight = share(action.split, record.target)
        moved = record.moved(now, action.phase, action.text, weight=weight, step=action.step, in_force_since=None)
        transaction.update(moved, event=f"rollout.{action.phase}", detail=detail)

    def _complete(self, transaction: Transaction, record: Rollout) -> None:
        now = self._context.clock.now()
        service = transaction.get(Service, record.service_id)
        stables = (*(version for version in service.stables if version != record.target), record.target)
        transaction.update(
            replace(service, stable=record.target, stables=stables),
            event="service.promoted",
            detail={"stable": record.target, "before": service.stable, "rollout": record.id},
        )
        if service.stable is not None and service.stable != record.target:
            self._let_go(transaction, record, service.stable, record.policy.warm_seconds)
        due = record.environment == "production"
        moved = record.moved(now, "completed", f"{record.reference} is stable", alias_due=due)
        transaction.update(moved, event="rollout.completed", detail={"stable": record.target})

    def _finish(self, transaction: Transaction, record: Rollout) -> None:
        now = self._context.clock.now()
        # A canary may follow a shadow that was good: then its replicas are there already.
        warm = record.policy.warm_seconds if record.verdict == Outcome.PASSED else 0.0
        self._let_go(transaction, record, record.target, warm)
        ends_as = record.ends_as or "aborted"
        text = "nothing was left behind" if record.base is None else f"{record.model}/{record.base} serves as before"
        transaction.update(
            record.moved(now, ends_as, text), event=f"rollout.{ends_as}", detail={}, reason=record.reason
        )

    def _let_go(self, transaction: Transaction, record: Rollout, version: int, warm_seconds: float) -> None:
        let_go(
            transaction,
            self._context.clock.now(),
            environment=record.environment,
            model=record.model,
            version=version,
            warm_seconds=warm_seconds,
        )

    def _set_alias(self, record: Rollout) -> None:
        from mlcycle_nb.development.service import ModelDevelopmentManager

        now = self._context.clock.now()
        try:
            ModelDevelopmentManager(self._context).set_alias(record.model, CHAMPION, record.target)
            text = f"alias {CHAMPION} names {record.reference}"
        except MLCycleError as failure:
            # Traffic has moved; a registry that cannot be reached must not keep the rollout open.
            text = f"alias {CHAMPION} was not set: {failure.problem}"
        with self._context.store.transaction(actor=self._context.actor) as transaction:
            transaction.update(replace(record.told(now, text), alias_due=False), event="rollout.alias_set")


def _size_of(transaction: Transaction, record: Rollout, version: int | None) -> int:
    if version is None:
        return 0
    found = transaction.maybe(Revision, revision_id(record.environment, record.model, version))
    return 1 if found is None else found.replicas


def _digest_of(transaction: Transaction, record: Rollout, version: int) -> str:
    return transaction.get(Revision, revision_id(record.environment, record.model, version)).digest


def _load_analysis() -> None:
    for module in ("mlcycle_nb.deployment.analysis", "pyarrow.parquet", "pyarrow.acero"):
        importlib.import_module(module)


def _end(log: AccessLogReader, position: str | None) -> str | None:
    """Return the position after the newest row, so that what was before the rollout does not count.

    Parameters
    ----------
    position : str, optional
        Where the gateway's controller has read to: what is before needs no second reading.
    """
    while True:
        batch = log.read(position)
        if batch.position == position:
            return position
        position = batch.position
