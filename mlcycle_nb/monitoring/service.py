"""The verbs of monitoring: start, stop, look, acknowledge, silence, label."""

from __future__ import annotations

import logging
import math
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlcycle_nb.context import Context
from mlcycle_nb.errors import InvalidInput, NotFound, Refused, did_you_mean
from mlcycle_nb.monitoring import actions, alerts, channels, detectors, state
from mlcycle_nb.monitoring.action_records import AlertAction
from mlcycle_nb.monitoring.handle import MonitorHandle
from mlcycle_nb.monitoring.maintenance import Maintenance, check_plan, parse_days
from mlcycle_nb.monitoring.records import (
    ALERT_KINDS,
    GROUPS,
    OPEN_PHASES,
    Alert,
    Monitor,
    MonitoringMetric,
    Notification,
    Performance,
    Silence,
    WindowVerdict,
    monitor_id,
    read_row,
)
from mlcycle_nb.monitoring.status import MonitorStatus, read_status
from mlcycle_nb.monitoring.traffic import resource_metrics, traffic_metrics
from mlcycle_nb.monitoring.verdicts import WINDOW
from mlcycle_nb.monitoring.windows import Stream, everything_read
from mlcycle_nb.references import ModelReference, check_name, parse_duration

if TYPE_CHECKING:
    from mlcycle_nb.deployment.service import ModelDeploymentManager
    from mlcycle_nb.development.service import ModelDevelopmentManager
    from mlcycle_nb.monitoring.panel import DriftPanel
    from mlcycle_nb.monitoring.replay import Replay

logger = logging.getLogger(__name__)
SMALLEST_WINDOW = 20
LARGEST_WINDOW = 1_000_000


class ModelMonitor:
    """Monitoring of deployed models.

    Parameters
    ----------
    context : Context
        The workspace.
    development : ModelDevelopmentManager
        Knows the versions and their packages.
    deployment : ModelDeploymentManager
        Knows what is deployed.
    """

    def __init__(
        self, context: Context, development: ModelDevelopmentManager, deployment: ModelDeploymentManager
    ) -> None:
        self._context = context
        self._development = development
        self._deployment = deployment

    # -- monitors --------------------------------------------------------------------------------------------

    def start_monitoring(
        self,
        model: str,
        *,
        environment: str = "production",
        window: int = 100,
        detectors: Sequence[str] | str = detectors.AUTO,
        q: float = 0.05,
        effect_bounds: Mapping[str, float] | None = None,
        categorical: Sequence[str] = (),
        channels: Sequence[str] | None = None,
        since: str = "now",
        confirm_windows: int = 1,
        clear_windows: int = 2,
        repeat: str = "4h",
        stale_after: str = "60s",
        group_by: str = "kind",
        group: str = "5m",
        on_alert: Sequence[str] = (),
    ) -> MonitorHandle:
        """Watch a deployed model: one verdict for each full window of served rows, of each version.

        Calling it again with the same arguments attaches to the running monitor; with others it begins anew.

        Parameters
        ----------
        model : str
            Name of the model; all versions that serve are watched.
        window : int
            Served rows in a window, from 20.
        detectors : str or sequence of str
            Plug-in names; ``auto`` takes alibi-detect when it is installed, and the built-in ones otherwise.
        q : float
            Bound on the share of false alarms among all alarms of one kind and version, for as long as it runs.
        effect_bounds : mapping, optional
            Detector name to the smallest effect that counts as drift.
        categorical : sequence of str
            Features to take for categories; others are judged by their reference values.
        channels : sequence of str, optional
            Where alerts go: ``notebook``, ``log`` and, when they are set up, ``webhook`` and ``apprise``.
        since : str
            ``now``, ``beginning`` (all that is logged), or a duration such as ``15m``.
        confirm_windows, clear_windows : int
            Drifted windows in a row before an alert fires, and clear ones before it is resolved.
        repeat, stale_after : str
            Durations: when a firing alert is told again, and how long rows may be absent before that is a state.
        group_by : {"kind", "service"}
            Which alerts share messages: those of one kind, or all of the service.
        group : str
            Least time between two messages about one group.
        on_alert : sequence of str
            Actions by policy, such as ``accuracy=rollback`` or ``drift=pause,retrain``; each once an alert.

        Raises
        ------
        NotFound
            When there is no such model.
        """
        monitor = self._declared(
            model,
            environment=environment,
            window=_whole(window, "window", SMALLEST_WINDOW, LARGEST_WINDOW),
            names=detectors,
            channel_names=channels,
            q=_fraction(q, "q"),
            effect_bounds=_bounds(effect_bounds or {}),
            categorical=tuple(categorical),
            confirm_windows=_whole(confirm_windows, "confirm_windows", 1, 1000),
            clear_windows=_whole(clear_windows, "clear_windows", 1, 1000),
            repeat_seconds=parse_duration(repeat, what="repeat").total_seconds(),
            stale_seconds=parse_duration(stale_after, what="stale_after").total_seconds(),
            group_by=_group_by(group_by),
            group_seconds=parse_duration(group, what="group").total_seconds(),
            on_alert=actions.parse_policy(on_alert),
        )
        stored = self._store(monitor, since)
        self._context.ensure_supervisor()
        return self._handle(stored)

    def stop_monitoring(self, model: str, *, environment: str = "production", reason: str = "") -> Monitor:
        """End the watching; verdicts and alerts stay."""
        with self._context.store.transaction(actor=self._context.actor) as transaction:
            monitor = transaction.get(Monitor, self._id(model, environment))
            if monitor.phase != "running":
                raise Refused(f"monitor {monitor.id} is {monitor.phase}")
            stopped = transaction.update(replace(monitor, phase="stopping"), event="monitor.stopping", reason=reason)
        self._context.ensure_supervisor()
        return stopped

    def monitors(self) -> list[Monitor]:
        """Return all monitors, running or not."""
        return self._context.store.find(Monitor)

    def monitor(self, model: str, *, environment: str = "production") -> MonitorHandle:
        """Return the handle of a monitor that exists."""
        return self._handle(self._context.store.get(Monitor, self._id(model, environment)))

    def status(self, model: str, *, environment: str = "production") -> MonitorStatus:
        """Return how the watching goes, and what was found."""
        monitor = self._context.store.get(Monitor, self._id(model, environment))
        return read_status(self._context, monitor)

    def windows(
        self, model: str, *, environment: str = "production", version: int | None = None, limit: int = 200
    ) -> list[WindowVerdict]:
        """Return the verdicts of the running generation, oldest first, one for each window."""
        monitor = self._context.store.get(Monitor, self._id(model, environment))
        rows = self._context.store.measurements(monitor.owner, kind=WINDOW, limit=limit)
        # A window that was judged twice, because the supervisor died in between, counts once.
        last = {
            (row["version"], row["index"]): row
            for row in rows
            if row["generation"] == monitor.generation and version in {None, row["version"]}
        }
        return [read_row(WindowVerdict, row) for row in last.values()]

    def metrics(self, model: str, *, environment: str = "production", limit: int = 500) -> list[MonitoringMetric]:
        """Return numbers of each version over time, the newest `limit` looks of either source.

        Request rate, error rate and latency are the gateway's; ``cpu`` (cores) and ``memory`` (MiB) are the sums over
        the version's replicas, looked at every five seconds. About ten hours of each are kept.
        """
        monitor = self._context.store.get(Monitor, self._id(model, environment))
        taken = resource_metrics(self._context, monitor, limit)
        return [*traffic_metrics(self._context, monitor, limit), *taken]

    def panel(self, model: str, *, environment: str = "production") -> DriftPanel:
        """Return the drift panel of a monitored model."""
        from mlcycle_nb.monitoring.panel import DriftPanel

        self._context.store.get(Monitor, self._id(model, environment))
        return DriftPanel(self, model, environment)

    def replay(
        self,
        model: str,
        recorded: str | Path,
        *,
        environment: str = "production",
        window: int | None = None,
        detectors: Sequence[str] | str | None = None,
        q: float | None = None,
        effect_bounds: Mapping[str, float] | None = None,
        categorical: Sequence[str] | None = None,
        confirm_windows: int | None = None,
        clear_windows: int | None = None,
    ) -> Replay:
        """Judge recorded traffic as if it came now: same windows, verdicts and alerts, in virtual time.

        Nobody is told and nothing is stored. What is not given is as the model's monitor has it, or else as
        `start_monitoring` would have it. Labels count from the time at which they were known.

        Parameters
        ----------
        recorded : str or Path
            A time such as ``24h``: the service's own prediction log; or a ``.parquet`` or ``.arrow`` file with its
            columns ``prediction_id, time, version, row, input`` and, where known, ``label`` or ``value``,
            ``probabilities``, ``mirrored`` and ``latency_ms``.

        Raises
        ------
        InvalidInput
            When nothing was recorded, or it cannot be read.
        Refused
            When it is too long.
        """
        from mlcycle_nb.monitoring.rehearsal import rehearse

        before = self._context.store.maybe(Monitor, self._id(model, environment))
        monitor = self._declared(
            model,
            environment=environment,
            window=_whole(_or(window, before, "window", 100), "window", SMALLEST_WINDOW, LARGEST_WINDOW),
            names=_or(detectors, before, "detectors", "auto"),
            channel_names=["notebook"],
            q=_fraction(_or(q, before, "q", 0.05), "q"),
            effect_bounds=_bounds(_or(effect_bounds, before, "effect_bounds", {})),
            categorical=tuple(_or(categorical, before, "categorical", ())),
            confirm_windows=_whole(_or(confirm_windows, before, "confirm_windows", 1), "confirm_windows", 1, 1000),
            clear_windows=_whole(_or(clear_windows, before, "clear_windows", 2), "clear_windows", 1, 1000),
        )
        if before is not None:
            monitor = replace(monitor, digests={**before.digests, **monitor.digests})
        return rehearse(self._context, replace(monitor, phase="replayed", channels=()), str(recorded))

    # -- alerts ----------------------------------------------------------------------------------------------

    def alerts(
        self, model: str | None = None, *, environment: str | None = None, open_only: bool = False, limit: int = 100
    ) -> list[Alert]:
        """Return alerts, the newest first."""
        phase = OPEN_PHASES if open_only else None
        name = monitor_id(environment, model) if model is not None and environment is not None else None
        whole = name is not None or (model is None and environment is None)  # else the rest is filtered here
        found = self._context.store.find(Alert, name=name, phase=phase, limit=limit if whole else None)
        wanted = [one for one in found if model is None or one.monitor.partition("/")[2] == model]
        return [one for one in wanted if environment in {None, one.monitor.partition("/")[0]}][:limit]

    def notifications(self, alert_id: str | None = None) -> list[Notification]:
        """Return the messages made about alerts: queued, delivered, or given up."""
        return [n for n in self._context.store.find(Notification) if alert_id in {None, n.alert}]

    def acknowledge(self, alert_id: str, *, reason: str = "") -> Alert:
        """Take an alert on: it is told no more, and ends by itself when the trouble does."""
        now = self._context.clock.now()
        with self._context.store.transaction(actor=self._context.actor) as transaction:
            alert = transaction.get(Alert, alert_id)
            taken = alerts.acknowledged(alert, self._context.actor, now)
            return transaction.update(taken, event="alert.acknowledged", reason=reason)

    def resolve(self, alert_id: str, *, reason: str) -> Alert:
        """Say that the trouble is over, although no window has shown it."""
        if not reason.strip():
            raise InvalidInput("a reason is missing", where="resolve", remedy="say why the trouble is over")
        with self._context.store.transaction(actor=self._context.actor) as transaction:
            alert = alerts.resolved_by_hand(
                transaction.get(Alert, alert_id), self._context.actor, self._context.clock.now()
            )
            return transaction.update(alert, event="alert.resolved", reason=reason)

    def silence(
        self, model: str, *, environment: str = "production", duration: str, reason: str, kind: str = ""
    ) -> Silence:
        """Keep alerts of a model untold for a while; they are recorded all the same."""
        if kind and kind not in ALERT_KINDS:
            raise InvalidInput("there is no such kind of alert", value=kind, remedy=_known_kinds(kind))
        if not reason.strip():
            raise InvalidInput("a reason is missing", where="silence", remedy="say why nobody is to be told")
        now = self._context.clock.now()
        until = now + parse_duration(duration, what="duration")
        silence = Silence(
            id=f"silence-{uuid.uuid4().hex[:12]}",
            phase="active",
            created_at=now,
            monitor=self._context.store.get(Monitor, self._id(model, environment)).id,
            kind=kind,
            until=until,
            reason=reason,
            created_by=self._context.actor,
        )
        with self._context.store.transaction(actor=self._context.actor) as transaction:
            return transaction.insert(silence, event="silence.created", reason=reason)

    def silences(self, *, active_only: bool = True) -> list[Silence]:
        """Return silences, the newest first."""
        return self._context.store.find(Silence, active=True if active_only else None)

    def end_silence(self, silence_id: str) -> Silence:
        """End a silence before its time."""
        with self._context.store.transaction(actor=self._context.actor) as transaction:
            silence = transaction.get(Silence, silence_id)
            if not silence.active:
                raise Refused(f"silence {silence.id} is {silence.phase} already")
            return transaction.update(replace(silence, phase="ended"), event="silence.ended")

    # -- maintenance -----------------------------------------------------------------------------------------

    def plan_maintenance(
        self,
        model: str = "",
        *,
        environment: str = "production",
        start: str,
        duration: str,
        reason: str,
        every: str = "",
        zone: str = "UTC",
        kind: str = "",
    ) -> Maintenance:
        """Plan when alerts of a model, or of all of an environment, are neither told nor acted on.

        Parameters
        ----------
        model : str
            Empty: every model of the environment.
        start : str
            ``2027-01-31T22:00`` for a window that comes once, ``02:00`` with `every`; wall-clock time in `zone`.
        duration : str
            Such as ``2h``; at most 7 days when it recurs.
        every : str
            ``sun``, ``mon,thu``, ``day``, ``weekday``, ``weekend`` or days of the month such as ``1.``.
        zone : str
            IANA name of a time zone, such as ``Europe/Berlin``.
        kind : str
            Only this kind of alert.

        Raises
        ------
        InvalidInput
            When the plan cannot be read, or its only window is over.
        """
        watched = self._id(model, environment) if model else self._id("any", environment)
        if kind and kind not in ALERT_KINDS:
            raise InvalidInput("there is no such kind of alert", value=kind, remedy=_known_kinds(kind))
        if not reason.strip():
            raise InvalidInput("a reason is missing", where="maintenance", remedy="say what is being done")
        now, days, length = self._context.clock.now(), parse_days(every), parse_duration(duration, what="duration")
        plan = Maintenance(
            id=f"maintenance-{uuid.uuid4().hex[:12]}",
            phase="planned",
            created_at=now,
            environment=watched.partition("/")[0],
            model=model,
            kind=kind,
            days=days,
            start=check_plan(days, start, length, zone, now),
            seconds=length.total_seconds(),
            zone=zone,
            reason=reason,
            created_by=self._context.actor,
        )
        with self._context.store.transaction(actor=self._context.actor) as transaction:
            if model:
                transaction.get(Monitor, watched)
            for past in transaction.find(Maintenance, name=plan.environment, phase="planned"):
                if not past.days and past.until(now) is None and past.next_begin(now) is None:
                    transaction.update(replace(past, phase="over"), event="maintenance.over")
            return transaction.insert(plan, event="maintenance.planned", detail={"when": plan.when}, reason=reason)

    def maintenance(self, *, environment: str | None = None, planned_only: bool = True) -> list[Maintenance]:
        """Return maintenance windows, the newest first."""
        phase = "planned" if planned_only else None
        return self._context.store.find(Maintenance, name=environment, phase=phase)

    def end_maintenance(self, maintenance_id: str) -> Maintenance:
        """End a window, or a plan of recurring ones, for good."""
        with self._context.store.transaction(actor=self._context.actor) as transaction:
            plan = transaction.get(Maintenance, maintenance_id)
            if plan.phase != "planned":
                raise Refused(f"maintenance {plan.id} is {plan.phase} already")
            return transaction.update(replace(plan, phase="ended"), event="maintenance.ended")

    def alert_actions(self, model: str | None = None, *, environment: str = "production") -> list[AlertAction]:
        """Return what alerts did by policy, or why they did not; the newest first."""
        name = None if model is None else self._id(model, environment)
        return self._context.store.find(AlertAction, name=name)

    # -- labels ----------------------------------------------------------------------------------------------

    def record_labels(
        self,
        model: str,
        labels: Mapping[str, Any] | Iterable[tuple[str, int, Any]] | str | Path,
        *,
        environment: str = "production",
    ) -> list[Performance]:
        """Store labels that came late, and return how good each version was as far as they tell.

        Parameters
        ----------
        labels : mapping, iterable or path
            ``{prediction_id: label}``, ``(prediction_id, row, label)``, or a CSV file with ``prediction_id,label``
            and, if needed, ``row`` (for requests of several rows) and ``at`` (when it became known). A label is a
            class name, a class index or a number.
        """
        from mlcycle_nb.monitoring import labelling
        from mlcycle_nb.serving.labels import from_mapping, read_csv

        self._id(model, environment)
        found = read_csv(Path(labels)) if isinstance(labels, str | Path) else from_mapping(labels)
        return labelling.record(self._context, self._development, model, environment, found)

    def performance(self, model: str, *, environment: str = "production") -> list[Performance]:
        """Return the newest performance of each version, as labels told it.

        Labels that came by HTTP are counted in by the monitor within seconds; without one, they are counted in here.
        """
        from mlcycle_nb.monitoring import labelling

        monitor = self._context.store.maybe(Monitor, self._id(model, environment))
        if monitor is None or monitor.phase != "running":  # else the supervisor does it
            labelling.catch_up(self._context, self._development, model, environment)
        rows = self._context.store.measurements(f"labels:{self._id(model, environment)}", kind="performance")
        newest = {row["version"]: row for row in rows}
        return [read_row(Performance, newest[version]) for version in sorted(newest)]

    # -- parts -----------------------------------------------------------------------------------------------

    def _id(self, model: str, environment: str) -> str:
        reference = ModelReference.parse(model)
        if reference.version is not None or reference.alias is not None:
            raise InvalidInput(
                "monitoring watches a model with all its versions", value=model, remedy=f"write {reference.name}"
            )
        known = self._context.settings.deployment.environments
        if check_name(environment, "environment") not in known:
            raise NotFound(
                "there is no such environment",
                value=environment,
                remedy=f"{did_you_mean(environment, known)}known: {', '.join(known)}",
            )
        return monitor_id(environment, reference.name)

    def _declared(
        self,
        model: str,
        *,
        environment: str,
        names: Sequence[str] | str,
        channel_names: Sequence[str] | None,
        **fields: Any,
    ) -> Monitor:
        found, watched = detectors.resolve(names), self._id(model, environment)
        versions = self._development.versions(model)
        if not versions:
            known = self._development.models()
            remedy = f"{did_you_mean(model, known)}known: {', '.join(known) or 'none yet'}"
            raise NotFound("no version of this model is registered", value=model, remedy=remedy)
        return Monitor(
            id=watched,
            phase="running",
            created_at=self._context.clock.now(),
            environment=environment,
            model=model,
            detectors=found,
            channels=channels.resolve(channel_names, self._context.settings),
            digests={str(v.version): v.package_digest for v in versions},
            notes=self._licence(found),
            **fields,
        )

    def _licence(self, names: Sequence[str]) -> tuple[str, ...]:
        if not detectors.uses_alibi(names):
            return ()
        from mlcycle_nb.monitoring.detectors._alibi import LICENCE_NOTE

        if not self._context.store.observed(Monitor, "alibi-detect").get("said"):
            logger.warning(LICENCE_NOTE)
            self._context.store.observe(Monitor, "alibi-detect", said=True)
        return (LICENCE_NOTE,)

    def _store(self, monitor: Monitor, since: str) -> Monitor:
        before = self._context.store.maybe(Monitor, monitor.id)
        if before is None:
            return self._begin(monitor, None, since)
        if before.phase == "stopping":
            raise Refused(f"monitor {monitor.id} is stopping", remedy="wait a moment, then start it again")
        same = replace(
            monitor,
            version=before.version,
            created_at=before.created_at,
            generation=before.generation,
            digests={**before.digests, **monitor.digests},
        )
        if same == before:
            return before
        if replace(same, digests=before.digests) == before:  # versions were registered since, nothing else
            with self._context.store.transaction(actor=self._context.actor) as transaction:
                return transaction.update(same, event="monitor.versions", detail={"versions": sorted(same.digests)})
        return self._begin(replace(monitor, version=before.version, generation=before.generation + 1), before, since)

    def _begin(self, monitor: Monitor, before: Monitor | None, since: str) -> Monitor:
        # Streams before the record: the supervisor must not begin with rows that are not meant.
        gone: dict[str, Any] = {} if before is None else {state.key(before): {}}
        state.save(self._context, monitor, self._streams(monitor, since), last_row_at="", no_data=False, **gone)
        detail = {"window": monitor.window, "detectors": monitor.detectors, "channels": monitor.channels}
        with self._context.store.transaction(actor=self._context.actor) as transaction:
            if before is None:
                return transaction.insert(monitor, event="monitor.started", detail=detail)
            return transaction.update(monitor, event="monitor.started", detail=detail)

    def _streams(self, monitor: Monitor, since: str) -> dict[int, Stream]:
        if since == "beginning":
            return {}
        now = self._context.clock.now()
        from_time: datetime = now if since == "now" else now - parse_duration(since, what="since")
        before_ns = None if since == "now" else int(from_time.timestamp() * 1e9)
        base = self._context.home / "predictions" / monitor.environment / monitor.model
        folders = base.glob("v*") if base.is_dir() else ()
        return {
            int(folder.name[1:]): everything_read(folder, before_ns=before_ns)
            for folder in folders
            if folder.name[1:].isdigit()
        }

    def _handle(self, monitor: Monitor) -> MonitorHandle:
        return MonitorHandle(
            monitor.id,
            lambda: self.status(monitor.model, environment=monitor.environment),
            lambda: self.panel(monitor.model, environment=monitor.environment),
            lambda: self.stop_monitoring(monitor.model, environment=monitor.environment),
            sustain=self._context.revive_supervisor,
        )


def _or(given: Any, monitor: Monitor | None, name: str, default: Any) -> Any:
    """Return what is given, else what the monitor has, else the default."""
    if given is not None:
        return given
    return default if monitor is None else getattr(monitor, name)


def _whole(value: Any, what: str, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidInput(f"{what} must be a whole number", value=value)
    if not low <= value <= high:
        raise InvalidInput(f"{what} must be from {low} to {high}", value=value)
    return value


def _fraction(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise InvalidInput(f"{what} must be a number between 0 and 1", value=value)
    return float(value)


def _bounds(given: Mapping[str, float]) -> dict[str, float]:
    known = detectors.DETECTORS.names()
    for name, bound in given.items():
        if name not in known:
            remedy = f"{did_you_mean(name, known)}known: {', '.join(known)}"
            raise InvalidInput("an effect bound is for no detector", value=name, remedy=remedy)
        if isinstance(bound, bool) or not isinstance(bound, int | float) or not math.isfinite(bound) or bound < 0:
            raise InvalidInput("an effect bound must be a finite number from 0", value=bound, where=name)
    return {name: float(bound) for name, bound in given.items()}


def _group_by(value: str) -> str:
    if value not in GROUPS:
        remedy = f"{did_you_mean(str(value), GROUPS)}known: {', '.join(GROUPS)}"
        raise InvalidInput("alerts are not grouped by this", value=value, remedy=remedy)
    return value


def _known_kinds(kind: str) -> str:
    return f"{did_you_mean(kind, ALERT_KINDS)}known: {', '.join(ALERT_KINDS)}"
