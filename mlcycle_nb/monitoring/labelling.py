"""Labels come in: stored, joined, measured for each version, and told when a version got worse."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from mlcycle_nb.context import Context
from mlcycle_nb.deployment.records import Revision, revision_id
from mlcycle_nb.errors import NotFound
from mlcycle_nb.monitoring.alerts import Evidence, State
from mlcycle_nb.monitoring.incidents import record_evidence
from mlcycle_nb.monitoring.measuring import measure_service
from mlcycle_nb.monitoring.records import MODEL_DRIFT, Monitor, Performance, monitor_id
from mlcycle_nb.monitoring.windows import Streak
from mlcycle_nb.packages import Package, PackageStore
from mlcycle_nb.serving.labels import Label, LabelStore
from mlcycle_nb.supervisor.crash import crash_point

if TYPE_CHECKING:
    from mlcycle_nb.development.service import ModelDevelopmentManager

KEPT = 2000
_STATES: dict[str, State] = {"failed": "bad", "passed": "clear"}


def record(
    context: Context, development: ModelDevelopmentManager, model: str, environment: str, labels: list[Label]
) -> list[Performance]:
    """Store labels; measure every version that served, and store and return what was measured."""
    store = LabelStore(context.folder("labels"), environment, model)
    if not any((context.home / "predictions" / environment / model).glob("v*")):
        raise NotFound(f"no prediction of {model} is logged in {environment}", remedy="send requests first")
    by_http = new_files(context, environment, model)
    if by_http:
        note_arrivals(context, environment, model, by_http)
    digest = store.add(labels, context.clock.now())
    owner = monitor_id(environment, model)
    _note(context, owner, {"labels": len(labels), "sha256": digest})
    return _measure_here(context, development, model, environment)


def catch_up(
    context: Context, development: ModelDevelopmentManager, model: str, environment: str
) -> list[Performance] | None:
    """Measure when labels have come by HTTP since somebody last did; None when there are no new ones."""
    files = new_files(context, environment, model)
    if not files:
        return None
    note_arrivals(context, environment, model, files)
    return _measure_here(context, development, model, environment)


def new_files(context: Context, environment: str, model: str) -> list[str]:
    """Return the files of labels that nothing was measured with yet."""
    store = LabelStore(context.home / "labels", environment, model)
    return store.names(after=measured_until(context, environment, model))


def measured_until(context: Context, environment: str, model: str) -> str:
    """Return the last file of labels that was measured with; empty before the first."""
    seen = context.store.observed(Monitor, _cursor(monitor_id(environment, model)))
    return str(seen.get("measured_until", ""))


def owed(context: Context, environment: str, model: str) -> str:
    """Return the file of labels up to which a second look is due: some of their predictions were not in the log."""
    seen = context.store.observed(Monitor, _cursor(monitor_id(environment, model)))
    return str(seen.get("measured_until", "")) if seen.get("look_again") else ""


def keep(
    context: Context, environment: str, model: str, measured: list[Performance], until: str, *, again: bool = False
) -> None:
    """Store what was measured with the labels up to a file, and tell when a version got worse.

    With `again`, `owed` says so until something is kept without it.
    """
    owner = monitor_id(environment, model)
    rows = [{**asdict(one), "kind": "performance"} for one in measured]
    context.store.add_measurements(f"labels:{owner}", rows)
    context.store.prune_measurements(f"labels:{owner}", keep=KEPT)
    _tell(context, owner, measured)
    crash_point("labels.after_alerts")
    context.store.observe(Monitor, _cursor(owner), measured_until=until, look_again=again)


def note_arrivals(context: Context, environment: str, model: str, files: list[str]) -> None:
    """Have the audit trail say which files of labels came by HTTP."""
    _note(context, monitor_id(environment, model), {"files": files[-20:], "count": len(files), "by": "http"})


def evidence_of(monitor: Monitor, measured: list[Performance]) -> list[Evidence]:
    """Return what a look at all labels says about model drift, one piece for each version."""
    # One look at all labels so far is as good as any number of windows.
    streaks = {
        one.version: Streak(bad=monitor.confirm_windows)
        if one.outcome == "failed"
        else Streak(clear=monitor.clear_windows if one.outcome == "passed" else 0)
        for one in measured
    }
    return [
        Evidence(
            kind=MODEL_DRIFT,
            version=one.version,
            state=_STATES.get(one.outcome, "unknown"),
            subjects=(one.metric,),
            summary=f"version {one.version}: {one.metric} {one.value} on {one.labelled} labels; {one.why}",
            streaks=streaks,
        )
        for one in measured
    ]


def _measure_here(
    context: Context, development: ModelDevelopmentManager, model: str, environment: str
) -> list[Performance]:
    def package_of(version: int) -> Package:
        return _package(context, development, model, environment, version)

    names = LabelStore(context.home / "labels", environment, model).names()
    measured = measure_service(context.home, environment, model, package_of, context.clock.now())
    keep(context, environment, model, measured, names[-1], again=any(one.unknown for one in measured))
    return measured


def _note(context: Context, owner: str, detail: dict[str, Any]) -> None:
    with context.store.transaction(actor=context.actor) as transaction:
        transaction.note("labels.recorded", subject=f"service:{owner}", detail=detail)


def _cursor(owner: str) -> str:
    return f"labels:{owner}"


def _package(
    context: Context, development: ModelDevelopmentManager, model: str, environment: str, version: int
) -> Package:
    deployed = context.store.maybe(Revision, revision_id(environment, model, version))
    digest = deployed.digest if deployed else development.get_version(f"{model}/{version}").package_digest
    return PackageStore(context.folder("packages")).open(digest)


def _tell(context: Context, owner: str, measured: list[Performance]) -> None:
    monitor = context.store.maybe(Monitor, owner)
    if monitor is not None:
        for evidence in evidence_of(monitor, measured):
            record_evidence(context, monitor, evidence)
