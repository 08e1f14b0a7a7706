"""All labels of a service against all that it answered: one performance for each version."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from mlcycle_nb.monitoring.performance import measure
from mlcycle_nb.monitoring.records import Performance
from mlcycle_nb.serving.labels import LabelStore
from mlcycle_nb.serving.prediction_log import read_predictions

OUTPUTS = ("label", "value")
"""What of the log is measured; its inputs, which are most of it, are not read."""

if TYPE_CHECKING:
    import pyarrow as pa

    from mlcycle_nb.packages import Package


def measure_service(
    home: Path, environment: str, model: str, package_of: Callable[[int], Package | None], now: datetime
) -> list[Performance]:
    """Return the performance of each version that served, as far as labels tell; empty when nothing was served.

    Parameters
    ----------
    home : Path
        The workspace folder.
    package_of : callable
        Version to its package; None leaves the version out.
    """
    served = read_predictions(home / "predictions", environment, model, columns=OUTPUTS)
    labels = LabelStore(home / "labels", environment, model).all()
    return [] if labels is None or not len(served) else measure_tables(served, labels, package_of, now)


def measure_recorded(
    home: Path,
    environment: str,
    model: str,
    package_of: Callable[[int], Package | None],
    now: datetime,
    since: datetime,
    recording: pa.Table | None,
) -> list[Performance]:
    """Return what would have been measured at a past time: with the rows served and the labels known by then.

    Parameters
    ----------
    now : datetime
        The time that is replayed.
    since : datetime
        When the recording begins; earlier rows of the log are none of it.
    recording : pyarrow.Table, optional
        Served rows of a file; by default the prediction log's.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    moment = pa.timestamp("us", tz="UTC")
    if recording is None:
        served = read_predictions(home / "predictions", environment, model, since=since, until=now, columns=OUTPUTS)
    else:
        served = recording.filter(pc.less(recording["time"].cast(moment), pa.scalar(now, moment)))
    labels = LabelStore(home / "labels", environment, model).all()
    if labels is None or not len(served):
        return []
    # Labels of what was not recorded are no fault of anybody.
    mine = pc.is_in(labels["prediction_id"], value_set=served["prediction_id"].combine_chunks())
    known = labels.filter(pc.and_(mine, pc.less_equal(labels["received_at"], pa.scalar(now, moment))))
    return measure_tables(served, known, package_of, now) if len(known) else []


def measure_tables(
    served: pa.Table, labels: pa.Table, package_of: Callable[[int], Package | None], now: datetime
) -> list[Performance]:
    """Return the performance of each version among served rows."""
    import pyarrow.compute as pc

    unknown = _unknown(served, labels)
    measured = []
    for version in sorted(set(served["version"].to_pylist())):
        package = package_of(version)
        if package is None:
            continue
        own = measure(package, version, served.filter(pc.equal(served["version"], version)), labels, now)
        measured.append(_with_unknown(own, unknown))
    return measured


def _unknown(served: pa.Table, labels: pa.Table) -> int:
    """Return how many labels are of no row that was served."""
    return len(_keys(labels).join(_keys(served), keys=["prediction_id", "row"], join_type="left anti"))


def _keys(table: pa.Table) -> pa.Table:
    import pyarrow as pa

    # A recording may have been written with other types than the log's.
    return pa.table({"prediction_id": table["prediction_id"].cast(pa.string()), "row": table["row"].cast(pa.int64())})


def _with_unknown(found: Performance, unknown: int) -> Performance:
    if not unknown:
        return found
    said = f"{unknown} labels are of no logged prediction"
    return replace(found, unknown=unknown, why=f"{found.why}; {said}" if found.why else said)
