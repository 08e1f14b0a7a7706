"""One real model through all stages: real verdict, real replicas behind the real gateway, real monitor, real plan."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlcycle_nb.errors import NotFound, Refused
from mlcycle_nb.packages import PackageStore, build_package
from mlcycle_nb.validation import ValidationData
from mlcycle_nb.workspace import Workspace

pytestmark = pytest.mark.timeout(400)


def rows(count: int, seed: int) -> tuple[Any, Any]:
    data = np.random.default_rng(seed).normal(size=(count, 4)).astype(np.float32)
    return data, (data[:, 0] + data[:, 1] > 0).astype(np.int64)


def package(workspace: Workspace) -> Any:
    from sklearn.linear_model import LogisticRegression

    data, labels = rows(400, 0)
    return build_package(
        LogisticRegression().fit(data, labels),
        example=data[:50],
        reference=data,
        reference_labels=labels,
        out=PackageStore(workspace.context.folder("packages")),
    )


def gates(metric_minimum: float) -> dict[str, Any]:
    return {"gates": [{"check": "accuracy", "min": metric_minimum}]}


def test_each_gate_opens_only_on_the_stage_s_own_evidence(workspace: Workspace) -> None:
    life = workspace.lifecycle
    data = ValidationData(*rows(300, 1))
    life.create_model_lifecycle("digits", environment="staging", purpose="tells two signs apart")
    life.progress_to_stage("digits", "training")
    with pytest.raises(NotFound, match="no version of digits has been registered"):
        life.progress_to_stage("digits", "validation")

    workspace.development.register_model("digits", package(workspace))
    life.progress_to_stage("digits", "validation")
    with pytest.raises(Refused, match="gate verdict is inconclusive"):
        life.progress_to_stage("digits", "deployment")

    workspace.validation.validate_model("digits/1", gates(0.9999), data)
    with pytest.raises(Refused, match=r"gate verdict is (failed|inconclusive)"):
        life.progress_to_stage("digits", "deployment")
    workspace.validation.validate_model("digits/1", gates(0.6), data)
    life.approve("digits/1", "staging", reason="seen")
    life.progress_to_stage("digits", "deployment")
    with pytest.raises(Refused, match=r"gate rollout is inconclusive.*gate monitor is inconclusive"):
        life.progress_to_stage("digits", "monitoring")

    workspace.deployment.deploy_model("digits/1", "staging").wait(120)
    with pytest.raises(Refused, match="nothing watches digits in staging"):
        life.progress_to_stage("digits", "monitoring")
    workspace.monitoring.start_monitoring("digits", environment="staging")
    status = life.progress_to_stage("digits", "monitoring")
    assert status.lifecycle.transitions[-1].gates[1].evidence["rollout"]
    with pytest.raises(Refused, match="nobody has planned the retirement"):
        life.progress_to_stage("digits", "retirement")

    workspace.development.register_model("digits", package(workspace))
    workspace.validation.validate_model("digits/2", gates(0.6), data)
    workspace.deployment.deploy_model("digits/2", "staging").wait(120)
    workspace.retirement.plan_retirement("digits/1", environment="staging", replacement="digits/2", reason="replaced")
    done = life.progress_to_stage("digits", "retirement")

    assert done.next == ()
    assert not any(step.forced for step in done.lifecycle.transitions)
    assert [event["event"] for event in life.history("digits").events].count("lifecycle.refused") == 6
    assert workspace.verify_audit().intact


def test_a_deployment_waits_for_its_approval(workspace: Workspace) -> None:
    """An environment named in lifecycle.approvals takes nothing that nobody approved, by %deploy either."""
    strict = Workspace.open(workspace.home, settings={"lifecycle": {"approvals": ["staging"]}})
    try:
        strict.development.register_model("digits", package(strict))
        strict.validation.validate_model("digits/1", gates(0.6), ValidationData(*rows(300, 1)))
        with pytest.raises(Refused, match="nobody has approved digits/1 for staging"):
            strict.deployment.deploy_model("digits/1", "staging")
        strict.lifecycle.approve("digits/1", "staging")
        rollout = strict.deployment.deploy_model("digits/1", "staging").wait(120)
        assert rollout.phase == "completed"
    finally:
        strict.close()
