"""Every kind of record that names a version or a run keeps it from being deleted, or says why it does not."""

from __future__ import annotations

import ast
import dataclasses
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import mlcycle_nb
from mlcycle_nb.context import Context
from mlcycle_nb.deployment.records import (
    DeploymentStrategy,
    PinnedRoute,
    Revision,
    Rollout,
    RolloutPolicy,
    Service,
    Weight,
)
from mlcycle_nb.development.records import ModelAlias, RegisteredVersion, run_subject, version_subject
from mlcycle_nb.development.referrers import referrers
from mlcycle_nb.lifecycle.records import Approval, Lifecycle
from mlcycle_nb.monitoring.action_records import AlertAction
from mlcycle_nb.monitoring.records import Alert, Monitor
from mlcycle_nb.retirement.records import Retirement
from mlcycle_nb.stage_knowledge import record_kinds
from mlcycle_nb.store import Record
from mlcycle_nb.training.search.records import TrainingSearch
from mlcycle_nb.validation.records import Evidence, Validation
from tests.builders import training_job

NOW = datetime(2026, 1, 1, tzinfo=UTC)
RUN = "f" * 32
VERSION = version_subject("digits", 3)
NAMES = {
    *("model_version", "target", "base", "stable", "stables", "versions", "earlier_versions", "replacement"),
    *("run", "run_id", "parent", "registered", "digests", "split", "mirror", "pinned"),
}
"""Fields that name a version or a run, wherever they stand."""
NEEDS_NONE = {
    "deletion": "it says that something is gone",
    "comment": "it is about something, which can go without it; it stays",
    "card_texts": "it is about a version, which can go without it",
    "ownership": "it names a model",
    "environment": "runs name it, not the other way round",
    "gateway": "it names an environment",
    "consumer": "it names an environment",
    "silence": "it names a monitor",
    "notification": "it names an alert",
    "maintenance": "it names a service",
    "trial": "it names a search and a job; its run is nested in the search's",
}


def common(id: str, phase: str) -> dict[str, Any]:
    return {"id": id, "phase": phase, "created_at": NOW}


def service(**more: Any) -> Service:
    return Service(**common("production/digits", "serving"), environment="production", model="digits", **more)


def rollout(**more: Any) -> Rollout:
    return Rollout(
        **common("production/digits/r1", "completed"),
        environment="production",
        model="digits",
        digest="x",
        strategy=DeploymentStrategy.CANARY,
        replicas=1,
        policy=RolloutPolicy(),
        actor="a",
        pid=1,
        phase_since=NOW,
        **more,
    )


def search() -> TrainingSearch:
    return TrainingSearch(
        **common("s", "running"),
        model="digits",
        key="k",
        cell_digest="c",
        data_digest="d",
        space=(),
        sampler="tpe",
        pruner="none",
        metric="loss",
        direction="minimize",
        trials=1,
        concurrent=1,
        max_failures=1,
        seed=0,
        processes=1,
        epochs=1,
        params={},
        run_id=RUN,
    )


SAMPLES: list[tuple[Record, str]] = [
    (ModelAlias(**common("digits@champion", "set"), model="digits", alias="champion", number=3), VERSION),
    (
        RegisteredVersion(
            **common("finer/1", "registered"), model="finer", number=1, package_digest="x", tags={"parent": "digits/3"}
        ),
        VERSION,
    ),
    (
        RegisteredVersion(**common("other/1", "registered"), model="other", number=1, package_digest="x", run_id=RUN),
        run_subject(RUN),
    ),
    (training_job(run_id=RUN), run_subject(RUN)),
    (search(), run_subject(RUN)),
    (
        Validation(
            **common("v", "finished"),
            model="digits",
            model_version=3,
            evidence=Evidence(package="p", data="d", gates="g", code="c"),
            gates=(),
        ),
        VERSION,
    ),
    (service(stable=3), VERSION),
    (service(stable=4, stables=(3, 4)), VERSION),
    (service(split=(Weight(3, 10_000),)), VERSION),
    (service(mirror=(Weight(3, 100),)), VERSION),
    (service(pinned=(PinnedRoute(version=3, split=(Weight(3, 10_000),)),)), VERSION),
    (
        Revision(
            **common("production/digits/3", "stopped"),
            environment="production",
            model="digits",
            model_version=3,
            digest="x",
            replicas=1,
        ),
        VERSION,
    ),
    (rollout(target=3), VERSION),
    (rollout(target=4, base=3), VERSION),
    (
        Monitor(
            **common("production/digits", "running"),
            environment="production",
            model="digits",
            window=100,
            detectors=(),
            channels=(),
            digests={"3": "x"},
        ),
        VERSION,
    ),
    (
        Alert(
            **common("a", "firing"),
            monitor="production/digits",
            kind="data_drift",
            subjects=(),
            versions=(3,),
            summary="",
        ),
        VERSION,
    ),
    (
        AlertAction(
            **common("a-rollback", "queued"),
            alert="a",
            monitor="production/digits",
            action="rollback",
            versions=(3,),
        ),
        VERSION,
    ),
    *(
        (
            Retirement(
                **common("r", "completed"),
                environment="production",
                model="digits",
                model_version=number,
                package_digest="x",
                replacement=instead,
                reason="",
                requested_by="a",
                over_seconds=1,
                grace_seconds=1,
            ),
            VERSION,
        )
        for number, instead in ((3, None), (2, "digits/3"))
    ),
    *(
        (
            Lifecycle(
                **common("digits@production", "deployment"),
                model="digits",
                environment="production",
                owner="a",
                model_version=number,
                earlier_versions=earlier,
            ),
            VERSION,
        )
        for number, earlier in ((3, ()), (4, (3,)))
    ),
    (
        Approval(
            **common("digits/3@production/1", "given"),
            model="digits",
            model_version=3,
            environment="production",
            package_digest="x",
            verdict="v",
            verdict_digest="d",
            approver="a",
        ),
        VERSION,
    ),
]


@pytest.mark.parametrize(("record", "subject"), SAMPLES, ids=lambda one: getattr(one, "KIND", ""))
def test_it_is_found(record: Record, subject: str, context: Context) -> None:
    """Stored, it is among the referrers, by its kind and id; and nothing else is."""
    with context.store.transaction("tester") as transaction:
        transaction.insert(record, event="made")
        found = referrers(transaction, record_kinds(), subject)
        others = referrers(transaction, record_kinds(), version_subject("digits", 33))

    assert [(one.kind, one.id) for one in found] == [(record.KIND, record.id)]
    assert others == []


def test_every_kind_is_known() -> None:
    """A class that `record_kinds` does not have would never be asked."""
    root = Path(mlcycle_nb.__file__).parent
    written = {
        statement.value.value
        for file in root.rglob("*.py")
        if "testing" not in file.parts
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ClassDef)
        for statement in node.body
        if isinstance(statement, ast.AnnAssign)
        and isinstance(statement.target, ast.Name)
        and statement.target.id == "KIND"
        and isinstance(statement.value, ast.Constant)
    }

    assert written == {kind.KIND for kind in record_kinds()}


def test_every_kind_has_said_what_it_needs() -> None:
    """By `refers_to` and a sample above, or in `NEEDS_NONE` with the reason."""
    sampled = {type(record) for record, _ in SAMPLES}
    silent = {kind.KIND for kind in record_kinds() if kind.refers_to is Record.refers_to}

    assert silent == set(NEEDS_NONE)
    assert {kind.KIND for kind in record_kinds() if kind not in sampled} == set(NEEDS_NONE)


def test_no_silent_kind_names_a_version() -> None:
    """A field of such a name in a kind that needs nothing is a reference forgotten."""
    found = {
        kind.KIND: sorted({field.name for field in dataclasses.fields(kind)} & NAMES)
        for kind in record_kinds()
        if kind.KIND in NEEDS_NONE
    }
    assert found.pop("environment") == ["base"]  # the interpreter that it was made with

    assert {kind: names for kind, names in found.items() if names} == {}
