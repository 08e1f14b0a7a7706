"""Judges the windows it is asked about: reads reference and rows itself, keeps prepared references warm."""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlcycle_nb.monitoring.detectors import uses_alibi
from mlcycle_nb.monitoring.detectors._alibi import LICENCE_NOTE
from mlcycle_nb.monitoring.judge import PREDICTION, Column, Prepared, judge, prepare, reference_digest
from mlcycle_nb.monitoring.label_free import LabelFree
from mlcycle_nb.monitoring.measuring import measure_recorded, measure_service
from mlcycle_nb.monitoring.recording import Recordings, rows_of
from mlcycle_nb.monitoring.samples import reference_columns, window_columns
from mlcycle_nb.monitoring.segments import listing, read_served
from mlcycle_nb.monitoring.shares import shares_of
from mlcycle_nb.packages import Package, PackageStore
from mlcycle_nb.serving.labels import LabelStore
from mlcycle_nb.serving.prediction_segments import version_folder
from mlcycle_nb.stats.multiple_testing import OnlineFdr
from mlcycle_nb.store.record import jsonable, parse_time

if TYPE_CHECKING:
    import pyarrow as pa

logger = logging.getLogger(__name__)
FINDINGS_KEPT = 256
_REFERENCES_KEPT = 8


@dataclass(frozen=True, slots=True)
class _Ready:
    package: Package
    reference: list[Column]
    prepared: list[Prepared]
    label_free: LabelFree
    digest: str


class Inspector:
    """What a worker knows: packages and references of one workspace.

    Parameters
    ----------
    home : Path
        The workspace folder.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        self._packages = PackageStore(home / "packages")
        self._predictions = home / "predictions"
        self._ready: OrderedDict[tuple[Any, ...], _Ready] = OrderedDict()
        self._recordings = Recordings()
        self._said_licence = False

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer one request: ``ping``, ``warm`` (prepare a reference), ``judge`` or ``measure`` (by late labels)."""
        if request["op"] == "ping":
            return {"pid": os.getpid()}
        if request["op"] == "measure":
            return {"performance": self._measure(request)}
        ready = self._reference(request)
        if request["op"] == "warm":
            return {"columns": len(ready.prepared)}
        return self._judge(request, ready)

    def _reference(self, request: dict[str, Any]) -> _Ready:
        key = (request["digest"], tuple(request["detectors"]), tuple(request["categorical"]))
        if key not in self._ready:
            if uses_alibi(request["detectors"]) and not self._said_licence:
                logger.warning(LICENCE_NOTE)
                self._said_licence = True
            package = self._packages.open(request["digest"])
            reference = reference_columns(package, request["categorical"])
            prepared = prepare(reference, request["detectors"])
            self._ready[key] = _Ready(
                package, reference, prepared, LabelFree(package, reference), reference_digest(reference, prepared)
            )
            if len(self._ready) > _REFERENCES_KEPT:
                self._ready.popitem(last=False)
        self._ready.move_to_end(key)
        return self._ready[key]

    def _judge(self, request: dict[str, Any], ready: _Ready) -> dict[str, Any]:
        table = self._rows(request)
        current = window_columns(ready.package, table, ready.reference)
        streams = {
            family: OnlineFdr(q=s["q"], method=s["method"], steps=s["steps"], rejections=tuple(s["rejections"]))
            for family, s in request["control"].items()
        }
        verdict, following = judge(ready.prepared, current, streams, request["bounds"])
        estimated = ready.label_free.estimate(current.get((PREDICTION, "confidence")))
        return {
            "outcome": str(verdict.outcome),
            "why": verdict.why,
            "rows": len(table),
            "judged": sum(finding.p_value is not None for finding in verdict.findings),
            "columns": len(verdict.findings),
            "findings": [asdict(finding) for finding in verdict.findings[:FINDINGS_KEPT]],
            "shares": [asdict(one) for one in shares_of(verdict.findings, ready.reference, current)],
            "levels": verdict.levels,
            "reference": ready.digest,
            "estimated": None if estimated is None else asdict(estimated),
            "control": {family: asdict(state) for family, state in following.items()},
            **_times(table),
        }

    def _measure(self, request: dict[str, Any]) -> list[dict[str, Any]]:
        digests: dict[str, str] = request["digests"]

        def package_of(version: int) -> Package | None:
            digest = digests.get(str(version))
            return None if digest is None else self._packages.open(digest)

        now, place = parse_time(request["now"]), (self._home, request["environment"], request["model"])
        if "recording" not in request:
            found = measure_service(*place, package_of, now)
            if request.get("fold"):
                LabelStore(self._home / "labels", *place[1:]).fold(request["fold"])
        else:
            file = request["recording"]
            since = parse_time(request["since"])
            found = measure_recorded(*place, package_of, now, since, self._recordings.served(file) if file else None)
        return [jsonable(asdict(one)) for one in found]

    def _rows(self, request: dict[str, Any]) -> pa.Table:
        """Return the rows of the window, each prediction once; rows that retention took meanwhile are missing."""
        import pyarrow as pa

        if request.get("recording"):
            rows = rows_of(self._recordings.served(request["recording"]), request["version"])
            return _once(pa.concat_tables([rows.slice(start, stop - start) for _, start, stop in request["parts"]]))
        folder = version_folder(self._predictions, request["environment"], request["model"], request["version"])
        stored = {segment.name: segment for segment in listing(folder)}
        tables = []
        for name, start, stop in request["parts"]:
            if name in stored:
                tables.append(read_served(stored[name]).slice(start, stop - start))
        if not tables:
            return pa.table({})
        return _once(pa.concat_tables(tables, promote_options="permissive"))


def _once(table: pa.Table) -> pa.Table:
    """Keep the first of the rows that a retried request left twice."""
    import pyarrow as pa

    seen: set[tuple[str, int]] = set()
    keep = []
    for key in zip(table.column("prediction_id").to_pylist(), table.column("row").to_pylist(), strict=True):
        keep.append(key not in seen)
        seen.add(key)
    return table if len(seen) == len(table) else table.filter(pa.array(keep))


def _times(table: pa.Table) -> dict[str, Any]:
    import numpy as np
    import pyarrow.compute as pc

    if not len(table):
        return {"first_time": "", "last_time": "", "latency_p50_ms": None, "latency_p95_ms": None}
    span = pc.min_max(table.column("time")).as_py()
    latency = table.column("latency_ms").to_numpy()
    latency = latency[np.isfinite(latency)]
    quantiles = np.quantile(latency, [0.5, 0.95]) if len(latency) else (None, None)
    p50, p95 = (None if value is None else round(float(value), 3) for value in quantiles)
    return {
        "first_time": span["min"].isoformat(),
        "last_time": span["max"].isoformat(),
        "latency_p50_ms": p50,
        "latency_p95_ms": p95,
    }
