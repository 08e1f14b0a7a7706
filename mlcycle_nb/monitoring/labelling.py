"""Labels come in: stored, joined, measured for each version, and told when a version got worse."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from mlcycle_nb.context import Context
from mlcycle_nb.deployment.records import Revision, revision_id
from mlcycle_nb.errors import NotFound
from mlcycle_nb.monitoring.alerts import Evidence, State
from mlcycle_nb.monitoring.incidents import record_evidence
from mlcycle_nb.monitoring.performance import measure
from mlcycle_nb.monitoring.records import MODEL_DRIFT, Monitor, Performance, monitor_id
from mlcycle_nb.monitoring.windows import Streak
from mlcycle_nb.packages import Package, PackageStore
from mlcycle_nb.serving.labels import Label, LabelStore
from mlcycle_nb.serving.prediction_log import read_predictions

if TYPE_CHECKING:
    from mlcycle_nb.development.service import ModelDevelopmentManager

_STATES: dict[str, State] = {"failed": "bad", "passed": "clear"}


def record(
    context: Context, development: ModelDevelopmentManager, model: str, environment: str, labels: list[Label]
) -> list[Performance]:
    """Store labels; measure every version that served, and store and return what was measured."""
    import pyarrow.compute as pc

    served = read_predictions(context.home / "predictions", environment, model)
    if not len(served):
        raise NotFound(f"no prediction of {model} is logged in {environment}", remedy="send requests first")
    store = LabelStore(context.folder("labels"), environment, model)
    now = context.clock.now()
    digest = store.add(labels, now)
    owner = monitor_id(environment, model)
    detail = {"labels": len(labels), "sha256": digest}
    with context.store.transaction(actor=context.actor) as transaction:
        transaction.note("labels.recorded", subject=f"service:{owner}", detail=detail)
    known = store.all()
    measured = []
    for version in sorted(set(served["version"].to_pylist())):
        own = served.filter(pc.equal(served["version"], version))
        package = _package(context, development, model, environment, version)
        measured.append(measure(package, version, own, known, now))
    rows = [{**asdict(one), "kind": "performance"} for one in measured]
    context.store.add_measurements(f"labels:{owner}", rows)
    _tell(context, owner, measured)
    return measured


def _package(
    context: Context, development: ModelDevelopmentManager, model: str, environment: str, version: int
) -> Package:
    deployed = context.store.maybe(Revision, revision_id(environment, model, version))
    digest = deployed.digest if deployed else development.get_version(f"{model}/{version}").package_digest
    return PackageStore(context.folder("packages")).open(digest)


def _tell(context: Context, owner: str, measured: list[Performance]) -> None:
    monitor = context.store.maybe(Monitor, owner)
    if monitor is None:
        return
    # One look at all labels so far is as good as any number of windows.
    streaks = {
        one.version: Streak(bad=monitor.confirm_windows)
        if one.outcome == "failed"
        else Streak(clear=monitor.clear_windows if one.outcome == "passed" else 0)
        for one in measured
    }
    for one in measured:
        summary = f"version {one.version}: {one.metric} {one.value} on {one.labelled} labels; {one.why}"
        evidence = Evidence(
            kind=MODEL_DRIFT,
            version=one.version,
            state=_STATES.get(one.outcome, "unknown"),
            subjects=(one.metric,),
            summary=summary,
            streaks=streaks,
        )
        record_evidence(context, monitor, evidence)
