"""The worker's part: reference and rows from the real package and the real prediction log."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlcycle_nb.context import Context
from mlcycle_nb.errors import MLCycleError
from mlcycle_nb.monitoring.inspection import Inspector
from mlcycle_nb.monitoring.records import WindowVerdict, read_row
from mlcycle_nb.monitoring.samples import reference_columns
from mlcycle_nb.monitoring.segments import served_rows
from mlcycle_nb.monitoring.verdicts import new_control
from mlcycle_nb.monitoring.windows import Stream, admit, arrivals, take
from mlcycle_nb.packages import Package, load_runtime
from mlcycle_nb.testing.predictions import PredictionFeed
from tests.unit.monitoring.conftest import rows


class Served:
    """Sends rows through the package's own model into the prediction log, and asks for verdicts."""

    def __init__(self, context: Context, package: Package) -> None:
        self.context, self.package = context, package
        self.feed = PredictionFeed(context.home, "production", "credit", 1)
        self.runtime = load_runtime(package)
        self.stream = Stream()
        self.control = new_control(0.05)
        self.inspector = Inspector(context.home)

    def send(self, inputs: np.ndarray[Any, Any], **more: Any) -> None:
        finite = np.nan_to_num(inputs)
        self.feed.send(inputs, self.runtime.predict({"input": finite}), **more)

    def window(self, size: int, **request: Any) -> WindowVerdict:
        folder = self.context.home / "predictions" / "production" / "credit" / "v1"
        self.stream = admit(self.stream, [(s.name, served_rows(s)) for s in arrivals(folder, self.stream)])
        parts, left = take(self.stream, size)
        reply = self.inspector.answer(
            {
                "op": "judge",
                "environment": "production",
                "model": "credit",
                "version": 1,
                "digest": self.package.digest,
                "detectors": ["ks", "chi_squared"],
                "categorical": [],
                "bounds": {},
                "control": self.control,
                "parts": [[part.segment, part.start, part.stop] for part in parts],
                **request,
            }
        )
        self.control = reply.pop("control")
        self.stream = Stream(marks=self.stream.marks, waiting=left)
        row = {"version": 1, "index": 1, "generation": 1, "time": self.context.clock.now(), **reply}
        return read_row(WindowVerdict, row)


@pytest.fixture
def served(context: Context, package: Package) -> Served:
    return Served(context, package)


def test_the_reference_has_features_label_and_confidence(package: Package) -> None:
    columns = {(c.family, c.name): c for c in reference_columns(package)}

    assert [name for family, name in columns if family == "prediction"] == ["label", "confidence"]
    assert columns["data", "member"].kind == "categorical"
    assert columns["data", "age"].kind == "numeric"
    assert columns["prediction", "confidence"].values.min() >= 0.5


def test_traffic_like_the_reference_is_without_drift(served: Served) -> None:
    served.send(rows(300, 11))
    verdict = served.window(300)

    assert verdict.outcome == "passed"
    assert (verdict.rows, verdict.judged, verdict.columns) == (300, 8, 8)
    assert verdict.latency_p50_ms == 1.5
    assert verdict.first_time


def test_planted_drift_is_named_and_shown(served: Served) -> None:
    moved = rows(300, 12)
    moved[:, 1] += 1.0
    moved[:, 5] = (np.random.default_rng(0).random(300) < 0.9).astype(np.float32)
    served.send(moved)
    verdict = served.window(300)

    assert {f.name for f in verdict.drifted("data")} == {"income", "member"}
    assert "label" in {f.name for f in verdict.drifted("prediction")}
    assert verdict.shares[0].name in {"income", "member"}
    assert sum(verdict.shares[0].current) == pytest.approx(1.0, abs=0.01)


def test_mirrored_rows_do_not_count(served: Served) -> None:
    served.send(rows(200, 13))
    served.send(rows(200, 13) + 5, mirrored=True)
    verdict = served.window(200)

    assert verdict.outcome == "passed"


def test_a_retried_request_counts_once(served: Served) -> None:
    ids = [f"id-{i}" for i in range(100)]
    served.send(rows(100, 14), ids=ids)
    served.send(rows(100, 14), ids=ids)

    assert served.window(200).rows == 100


def test_values_that_are_not_finite_are_inconclusive(served: Served) -> None:
    broken = rows(200, 15)
    broken[3, 2] = np.nan
    served.send(broken)
    verdict = served.window(200)

    assert verdict.outcome == "inconclusive"
    assert "debt" in verdict.why
    assert next(f for f in verdict.findings if f.name == "debt").why == "1 of 200 values of the window are not finite"


def test_rows_that_retention_took_are_inconclusive(served: Served) -> None:
    served.send(rows(100, 16))
    folder = served.context.home / "predictions" / "production" / "credit" / "v1"
    served.stream = admit(served.stream, [(s.name, served_rows(s)) for s in arrivals(folder, served.stream)])
    for file in folder.glob("*.arrow"):
        file.unlink()
    verdict = served.window(100)

    assert (verdict.outcome, verdict.rows) == ("inconclusive", 0)


def test_shared_values_in_single_precision_are_not_drift(package: Package) -> None:
    """0.1 as float64 and as float32 are two numbers; a column where half the rows hold it would look drifted."""
    columns = reference_columns(package)

    assert all(c.values.astype(np.float32).astype(float).tolist() == c.values.tolist() for c in columns[:6])


def test_a_package_that_was_changed_is_not_used(served: Served) -> None:
    served.send(rows(100, 17))
    reference = served.package.path / "reference.parquet"
    reference.chmod(0o600)
    reference.write_bytes(reference.read_bytes()[:-1] + b"x")
    with pytest.raises(MLCycleError, match="not loaded"):
        served.window(100)
