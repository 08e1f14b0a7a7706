"""Versions with a planted fault, rolled out under load: each gets the verdict that it deserves, and for its own reason.

Some of the list run in every build; all of it, and each kind of fault in a shadow as well, with ``-m faults``.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from mlcycle_nb.deployment.records import Rollout
from mlcycle_nb.deployment.service import ModelDeploymentManager
from mlcycle_nb.packages import PackageStore, build_package
from mlcycle_nb.store.keys import signing_key

from .conftest import ENVIRONMENT, Deployed, Open, Registered, until

pytestmark = pytest.mark.timeout(180)

STEADY_SECONDS, SLOWER_SECONDS = 0.060, 0.072
GOOD_REQUESTS = 50


class Planted:
    """A linear classifier of digits that misbehaves on what is asked of it, never on the rows it is proven with."""

    def __init__(self, weights: Any, bias: Any, proven: Any, fault: str) -> None:
        self.weights, self.bias, self.fault = weights, bias, fault
        self.proven = {row.tobytes() for row in proven}
        self.asked = 0
        self.chance = np.random.default_rng(7)

    def __call__(self, rows: Any) -> Any:
        scores = np.exp(rows @ self.weights + self.bias)
        answers = scores / scores.sum(axis=1, keepdims=True)
        if all(row.tobytes() in self.proven for row in rows):
            return answers
        self.asked += len(rows)
        if self.fault in ("steady", "slower"):
            time.sleep(STEADY_SECONDS if self.fault == "steady" else SLOWER_SECONDS)
        if self.fault == "errors" and self.chance.random() < 0.05:
            raise RuntimeError("planted")
        if self.fault == "nan":
            return np.full_like(answers, np.nan)
        if self.fault == "constant":
            return np.tile(np.eye(10)[3] * 0.9 + 0.01, (len(rows), 1))
        if self.fault == "permuted" or (self.fault == "wrong later" and self.asked > GOOD_REQUESTS):
            return np.roll(answers, 1, axis=1)
        return answers


@dataclass(frozen=True)
class Case:
    """A fault, how it is rolled out, and what has to become of it."""

    name: str
    fault: str
    ends: str
    words: str
    stable: str = "healthy"
    requests: int | None = None  # that the new version gets; as many as it takes when not given
    per_second: float = 120.0
    options: dict[str, object] = field(default_factory=dict)


UNSEEN = {"deadline": "3s", "interval": "1s"}
CASES = {
    "healthy": Case("healthy", "healthy", "completed", "", options={"interval": "1s", "watch": "latency"}),
    "5 % errors": Case("5 % errors", "errors", "rolled_back", "error rate"),
    "+20 % latency": Case(
        "+20 % latency",
        "slower",
        "rolled_back",
        "latency",
        stable="steady",
        per_second=12.0,
        options={"watch": (), "mirror": 0},
    ),
    "permuted labels": Case("permuted labels", "permuted", "rolled_back", "disagreement"),
    "constant output": Case("constant output", "constant", "rolled_back", "class 3", options={"mirror": 0}),
    "NaN output": Case("NaN output", "nan", "rolled_back", "error rate", options={"mirror": 0}),
    "right for 50 requests": Case("right for 50 requests", "wrong later", "rolled_back", "disagreement"),
    "3 requests": Case(
        "3 requests", "permuted", "rolled_back", "waiting for requests: 3/100", requests=3, options=UNSEEN
    ),
    "no traffic": Case(
        "no traffic", "permuted", "rolled_back", "waiting for requests: 0/100", requests=0, options=UNSEEN
    ),
}
IN_EVERY_BUILD = ("right for 50 requests",)


def plant(deployed: Deployed, stable: str, fault: str) -> None:
    """Package a healthy version 1 and a version 2 with a fault, signed by the workspace."""
    import cloudpickle
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression

    cloudpickle.register_pickle_by_value(__import__(__name__, fromlist=["Planted"]))
    digits = load_digits()
    x = (digits.data / 16).astype(np.float32)
    model = LogisticRegression(max_iter=60).fit(x[:1200], digits.target[:1200])
    context, example = deployed.workspace.context, x[:64]
    store, key = PackageStore(context.folder("packages")), signing_key(context.workspace_id)
    weights, bias = model.coef_.T.astype(np.float32), model.intercept_.astype(np.float32)
    digests = {
        version: build_package(
            Planted(weights, bias, example, kind), example=example, format="python", out=store, signer=key,
            class_names=[str(digit) for digit in range(10)],
        ).digest
        for version, kind in ((1, stable), (2, fault))
    }  # fmt: skip
    deployed.manager = ModelDeploymentManager(context, Registered(digests), Open())


def ask_few(deployed: Deployed, wanted: int) -> None:
    """Ask until the new version has answered so many requests."""
    answered = 0
    with deployed.manager.client("digits", ENVIRONMENT) as client:
        while answered < wanted:
            answered += client.predict(deployed.built.rows[:1]).version == 2


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=name, marks=() if name in IN_EVERY_BUILD else pytest.mark.faults)
             for name, case in CASES.items()]
)  # fmt: skip
def test_a_canary_with(deployed: Deployed, case: Case) -> None:
    """Promoted when it is healthy, sent back for its own fault otherwise."""
    plant(deployed, case.stable, case.fault)
    deployed.up(1, replicas=1)
    options = {"steps": "50,100", "interval": "60s", "mirror": 50, "watch": "latency", **case.options}
    if case.requests is None:
        with deployed.load(per_second=case.per_second) as load:
            record = deployed.deploy(2, strategy="canary", replicas=1, **options).wait(100)
        print(load)
        assert all(answer.status == 500 or answer.status == 502 for answer in load.failed), "not the model's own errors"
        assert bool(load.failed) == (case.fault in ("errors", "nan"))
    else:
        handle = deployed.deploy(2, strategy="canary", replicas=1, **options)
        until(lambda: handle.record.in_force_since is not None)
        ask_few(deployed, case.requests)
        record = handle.wait(60)

    print(record.history)
    assert record.phase == case.ends
    assert case.words in record.reason
    assert deployed.status().stable == (2 if case.ends == "completed" else 1)


SHADOWS = {
    "healthy": ("passed", "requests were compared"),
    "errors": ("failed", "error rate"),
    "slower": ("failed", "latency"),
    "permuted": ("failed", "disagreement"),
    "constant": ("failed", "disagreement"),
    "nan": ("failed", "error rate"),
    "wrong later": ("failed", "disagreement"),
}


@pytest.mark.parametrize(
    "fault", [pytest.param(fault, marks=() if fault == "nan" else pytest.mark.faults) for fault in SHADOWS]
)
def test_a_shadow_with(deployed: Deployed, fault: str) -> None:
    """The same faults among copies only: the verdict comes, and no caller sees any of it."""
    slow = fault == "slower"
    plant(deployed, "steady" if slow else "healthy", fault)
    deployed.up(1, replicas=1)
    watch = {"slower": (), "nan": "latency,disagreement,prediction-shift"}.get(fault, "latency")
    with deployed.load(per_second=8 if slow else 120) as load:
        options = {"mirror": 100, "duration": "60s", "compare": 1500, "watch": watch}
        record: Rollout = deployed.deploy(2, strategy="shadow", replicas=1, **options).wait(100)

    print(record.history, load)
    verdict, words = SHADOWS[fault]
    assert (record.phase, record.verdict) == ("compared", verdict)
    assert words in record.reason
    assert load.failed == []
    assert set(load.versions()) == {"1"}
