"""A public data set with drift and late labels, through a deployed model.

The data are the 569 tumours of the Wisconsin breast cancer set, which scikit-learn carries. The drift is a change of
the population that is served, as when a model that was made in one clinic is used in another: the model learns from
tumours of fine texture (the lower 60 % of ``mean texture``), is asked first about others of these, and then about the
coarse ones. So ``mean texture`` drifts at a known row, and with it what depends on it; ``mean smoothness`` and
``mean fractal dimension`` do not, for they are alike in both halves. The labels are the diagnoses of the data set. They
come three days later.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from mlcycle_nb.clock import OffsetClock
from mlcycle_nb.monitoring.records import Performance
from mlcycle_nb.packages import PackageStore, build_package
from mlcycle_nb.workspace import Workspace
from tests.conftest import living

from .conftest import report, until

pytestmark = pytest.mark.timeout(240)
MODEL, ENVIRONMENT = "tumours", "dev"
WINDOW, BEFORE, AFTER = 56, 3, 4
FEATURES = 10
TEXTURE = 1
ALIKE = {"mean smoothness", "mean fractal dimension"}
DAYS = 3


@dataclass(frozen=True)
class Tumours:
    """The data set, cut by texture."""

    learned: NDArray[np.float32]
    learned_labels: NDArray[np.int64]
    asked: NDArray[np.float32]
    truth: NDArray[np.int64]
    names: tuple[str, ...]
    classes: tuple[str, ...]

    @classmethod
    def load(cls) -> Tumours:
        from sklearn.datasets import load_breast_cancer

        found = load_breast_cancer()
        inputs, truth = found.data[:, :FEATURES].astype(np.float32), found.target
        fine = inputs[:, TEXTURE] <= np.quantile(inputs[:, TEXTURE], 0.6)
        shuffled = np.random.default_rng(7).permutation(len(inputs))
        here = [number for number in shuffled if fine[number]]
        there = [number for number in shuffled if not fine[number]]
        known = here[BEFORE * WINDOW :]
        order = here[: BEFORE * WINDOW] + there[: AFTER * WINDOW]
        return cls(
            inputs[known], truth[known], inputs[order], truth[order],
            tuple(str(name) for name in found.feature_names[:FEATURES]), tuple(str(n) for n in found.target_names),
        )  # fmt: skip


@pytest.fixture(scope="module")
def tumours() -> Tumours:
    return Tumours.load()


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory, keys_of_their_own: Path, tumours: Tumours) -> Iterator[Workspace]:
    """A workspace whose clock can be moved on, with the model deployed in it."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    opened = Workspace.open(tmp_path_factory.mktemp("clinic") / ".mlcycle", settings={"workspace": {"clock": "offset"}})
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(tumours.learned, tumours.learned_labels)
    package = build_package(
        model,
        example=tumours.learned[:32],
        reference=tumours.learned,
        reference_labels=tumours.learned_labels,
        feature_names=tumours.names,
        class_names=tumours.classes,
        out=PackageStore(opened.context.folder("packages")),
    )
    opened.development.register_model(MODEL, package)
    opened.deployment.deploy_model(f"{MODEL}/1", ENVIRONMENT, "all-at-once", replicas=1).wait(90)
    yield opened
    opened.down()
    left = living(opened)
    opened.close()
    assert not left


def ask(workspace: Workspace, rows: NDArray[np.float32]) -> list[tuple[str, int]]:
    """Ask about one tumour after the other; return prediction ids and answers."""
    found = []
    with workspace.deployment.client(MODEL, ENVIRONMENT) as client:
        for row in rows:
            answer = client.predict(row[None])
            assert answer.labels is not None
            found.append((answer.prediction_id, int(answer.labels[0])))
    return found


def test_drift_is_told_where_it_is_and_late_labels_tell_how_good_the_answers_were(
    clinic: Workspace, tumours: Tumours, request: pytest.FixtureRequest
) -> None:
    monitoring = clinic.monitoring
    handle = monitoring.start_monitoring(
        MODEL, environment=ENVIRONMENT, window=WINDOW, detectors=("ks", "chi_squared"), channels=["log"]
    )
    answers = ask(clinic, tumours.asked[: BEFORE * WINDOW])
    handle.wait_windows(BEFORE, 60)
    assert [w.outcome for w in monitoring.windows(MODEL, environment=ENVIRONMENT)] == ["passed"] * BEFORE
    assert monitoring.alerts(MODEL) == []

    answers += ask(clinic, tumours.asked[BEFORE * WINDOW :])
    handle.wait_windows(BEFORE + AFTER, 60)
    windows = monitoring.windows(MODEL, environment=ENVIRONMENT)
    told = [{f.name for f in window.drifted("data")} for window in windows]
    [alert] = until(lambda: [one for one in monitoring.alerts(MODEL) if one.kind == "data_drift"])

    assert [window.rows for window in windows] == [WINDOW] * (BEFORE + AFTER)
    assert told[:BEFORE] == [set()] * BEFORE
    assert all("mean texture" in names for names in told[BEFORE:])
    assert not set().union(*told) & ALIKE
    assert windows[BEFORE].findings[0].name == "mean texture"
    assert (alert.phase, alert.subjects[0]) == ("firing", "mean texture")
    assert not set(alert.subjects) & ALIKE

    found = labels_come_late(clinic, tumours, answers)
    accuracy = f"accuracy {found.value:.3f} [{found.low:.3f}, {found.high:.3f}], coverage {found.coverage:.2f}"
    report(request, f"drift by window: {[sorted(names) for names in told]}; {accuracy}")
    the_same_is_said_in_a_replay(clinic, windows, alert)
    until(lambda: {"cpu", "memory"} <= {m.metric for m in monitoring.metrics(MODEL, environment=ENVIRONMENT)})
    [memory] = {m.version for m in monitoring.metrics(MODEL, environment=ENVIRONMENT) if m.metric == "memory"}
    assert memory == 1


def labels_come_late(workspace: Workspace, tumours: Tumours, answers: list[tuple[str, int]]) -> Performance:
    """Send the diagnoses of two thirds of the tumours, three days later; the rest never becomes known."""
    OffsetClock(workspace.home / "clock.json").advance(timedelta(days=DAYS))
    known = [place for place in range(len(answers)) if place % 3]
    items = [{"id": answers[place][0], "label": tumours.classes[tumours.truth[place]]} for place in known]
    key = workspace.deployment.add_consumer("laboratory", ENVIRONMENT).key
    url = workspace.deployment.status(MODEL, ENVIRONMENT).url
    with httpx.Client(base_url=url, headers={"authorization": f"Bearer {key}"}, trust_env=False, timeout=20) as client:
        sent = until(lambda: taken(client, items))
    right = sum(answers[place][1] == tumours.truth[place] for place in known)

    def measured() -> Any:
        found = workspace.monitoring.performance(MODEL, environment=ENVIRONMENT)
        return found[0] if found and found[0].labelled == len(known) else None

    found = until(measured)

    assert sent["recorded"] + sent["repeated"] == len(known)
    assert sent["unknown"] == 0
    assert found.value == pytest.approx(right / len(known))
    assert found.low < found.value < found.high
    assert found.coverage == pytest.approx(len(known) / len(answers))
    assert found.lag_seconds == pytest.approx(DAYS * 86_400, abs=600)
    assert found.unknown == 0
    return found  # type: ignore[no-any-return]


def taken(client: httpx.Client, items: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Send labels; None while the new key is not in force yet."""
    answer = client.post(f"/v2/models/{MODEL}/feedback", json={"feedback": items})
    return answer.json() if answer.status_code == 200 else None


def the_same_is_said_in_a_replay(workspace: Workspace, windows: Any, alert: Any) -> None:
    found = workspace.monitoring.replay(MODEL, "24h", environment=ENVIRONMENT)
    moment = datetime(2026, 1, 1, tzinfo=UTC)

    assert [replace(w, time=moment) for w in found.windows] == [replace(w, time=moment) for w in windows]
    assert [one.subjects for one in found.alerts if one.kind == "data_drift"] == [alert.subjects]
    assert found.performance[-1].lag_seconds == pytest.approx(DAYS * 86_400, abs=600)
