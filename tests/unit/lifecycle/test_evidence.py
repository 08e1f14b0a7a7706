"""Each gate over the records of its stage: what opens it, and everything that must not."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from mlcycle_nb.context import Context
from mlcycle_nb.deployment.policy import make_policy
from mlcycle_nb.deployment.records import DeploymentStrategy, Rollout, Service
from mlcycle_nb.development.records import ModelVersion
from mlcycle_nb.errors import NotFound
from mlcycle_nb.lifecycle.approvals import Approvals
from mlcycle_nb.lifecycle.evidence import WorkspaceEvidence
from mlcycle_nb.lifecycle.records import GateReading, Lifecycle
from mlcycle_nb.lifecycle.stages import Stage
from mlcycle_nb.monitoring.records import Monitor
from mlcycle_nb.outcomes import Outcome
from mlcycle_nb.packages import Package, PackageStore, build_package
from mlcycle_nb.retirement.records import Retirement
from mlcycle_nb.store import Record
from mlcycle_nb.validation.records import Evidence as VerdictEvidence
from mlcycle_nb.validation.records import Validation
from tests.builders import training_job

from .conftest import StoredVerdicts, Versions


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Package:
    from sklearn.linear_model import LogisticRegression

    rows = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    model = LogisticRegression().fit(rows, (rows[:, 0] > 0).astype(np.int64))
    store = PackageStore(tmp_path_factory.mktemp("packages"))
    return build_package(model, example=rows[:10], task="classification", out=store)


class Stages:
    """One registered version of one model, and ways to store what the stages would store of it."""

    def __init__(self, context: Context, package: Package) -> None:
        import shutil

        self.context = context
        folder = context.folder("packages") / package.path.name
        shutil.copytree(package.path, folder)
        self.package = folder
        self.digest = package.digest
        self.version = ModelVersion(
            name="digits", version=1, package_digest=package.digest, run_id=None, created_at=context.clock.now()
        )
        self.registry = Versions(self.version)
        self.verdicts = StoredVerdicts(context.store)
        self.approvals = Approvals(context, self.registry, self.verdicts)
        self.evidence = WorkspaceEvidence(context, self.registry, self.verdicts, self.approvals)  # type: ignore[arg-type]
        self.lifecycle = Lifecycle(
            id="digits",
            phase=Stage.VALIDATION.value,
            created_at=context.clock.now(),
            model="digits",
            environment="production",
            owner="tester",
            model_version=1,
            package_digest=package.digest,
        )

    def store(self, record: Record) -> None:
        with self.context.store.transaction(actor="stage") as transaction:
            transaction.insert(record, event="test.stored")

    def read(self, gate: str) -> GateReading:
        return self.evidence.read(gate, self.lifecycle, self.context.actor)

    def validate(self, outcome: Outcome = Outcome.PASSED, **changes: Any) -> Validation:
        number = 1 + len(self.verdicts.validations("digits"))
        verdict = Validation(
            id=f"digits-1-{number}",
            phase="finished",
            created_at=self.context.clock.now() + timedelta(seconds=number),
            model="digits",
            model_version=1,
            evidence=VerdictEvidence(package=self.digest, data="sha256:d", gates="sha256:g", code="sha256:c"),
            gates=(),
            outcome=outcome,
        )
        self.store(replace(verdict, **changes))
        return verdict

    def roll_out(self, phase: str = "completed", *, target: int = 1, digest: str = "", number: int = 1) -> None:
        now = self.context.clock.now() + timedelta(seconds=number)
        self.store(
            Rollout(
                id=f"production/digits/{number}",
                phase=phase,
                created_at=now,
                environment="production",
                model="digits",
                target=target,
                digest=digest or self.digest,
                strategy=DeploymentStrategy.CANARY,
                replicas=2,
                policy=make_policy(DeploymentStrategy.CANARY),
                actor="tester",
                pid=1,
                phase_since=now,
            )
        )

    def serve(self, stable: int | None) -> None:
        self.store(
            Service(
                id="production/digits",
                phase="running",
                created_at=self.context.clock.now(),
                environment="production",
                model="digits",
                stable=stable,
            )
        )

    def watch(self, phase: str) -> None:
        self.store(
            Monitor(
                id="production/digits",
                phase=phase,
                created_at=self.context.clock.now(),
                environment="production",
                model="digits",
                window=100,
                detectors=("ks",),
                channels=("log",),
            )
        )

    def plan(self, phase: str, *, version: int = 1, environment: str = "production") -> None:
        self.store(
            Retirement(
                id=f"{environment}/digits/{version}",
                phase=phase,
                created_at=self.context.clock.now(),
                environment=environment,
                model="digits",
                model_version=version,
                package_digest=self.digest,
                replacement=None,
                reason="old",
                requested_by="tester",
                over_seconds=1.0,
                grace_seconds=1.0,
            )
        )


@pytest.fixture
def there(context: Context, built: Package) -> Stages:
    return Stages(context, built)


class TestVersion:
    def test_a_version_of_a_finished_job_opens(self, there: Stages, context: Context) -> None:
        assert there.read("version").passed

    @pytest.mark.parametrize("phase", ["running", "failed", "stopped"])
    def test_a_job_that_has_not_finished_keeps_it_shut(self, there: Stages, context: Context, phase: str) -> None:
        job = training_job(phase=phase, created_at=context.clock.now())
        there.store(job)
        trained = replace(there.version, tags={"training.job": "digits-1"})
        there.registry.known["digits/1"] = trained
        reading = there.read("version")

        assert reading.outcome is Outcome.FAILED
        assert f"training job digits-1 is {phase}" in reading.problem

    def test_the_newest_of_this_cycle_is_the_candidate(self, there: Stages) -> None:
        assert there.evidence.candidate(there.lifecycle, None) == there.version
        with pytest.raises(NotFound, match="since version 1"):
            there.evidence.candidate(replace(there.lifecycle, earlier_versions=(1,)), None)


class TestPackage:
    def test_the_bytes_that_were_registered_open(self, there: Stages) -> None:
        assert there.read("package").evidence == {"package": there.digest}
        assert there.read("package").passed

    def test_one_changed_byte_is_an_error(self, there: Stages) -> None:
        file = next(f for f in there.package.iterdir() if f.suffix == ".onnx")
        file.chmod(0o600)
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(bytes(content))

        assert there.read("package").outcome is Outcome.ERROR

    def test_another_package_under_the_number_is_refused(self, there: Stages) -> None:
        there.registry.known["digits/1"] = replace(there.version, package_digest="sha256:" + "0" * 64)

        assert there.read("package").outcome is Outcome.FAILED

    def test_a_package_that_is_gone_is_an_error(self, there: Stages) -> None:
        import shutil

        shutil.rmtree(there.package)

        assert there.read("package").outcome is Outcome.ERROR


class TestVerdict:
    def test_none_is_inconclusive(self, there: Stages) -> None:
        reading = there.read("verdict")

        assert reading.outcome is Outcome.INCONCLUSIVE
        assert reading.remedy == "%validate digits/1"

    def test_a_passed_one_opens_and_names_its_digests(self, there: Stages) -> None:
        there.validate()
        reading = there.read("verdict")

        assert reading.passed
        assert reading.evidence == {
            "package": there.digest,
            "validation": "digits-1-1",
            "data": "sha256:d",
            "gates": "sha256:g",
        }

    @pytest.mark.parametrize("outcome", [o for o in Outcome if o is not Outcome.PASSED])
    def test_any_other_outcome_keeps_it_shut(self, there: Stages, outcome: Outcome) -> None:
        there.validate(outcome)

        assert there.read("verdict").outcome is outcome

    def test_a_void_one_has_failed(self, there: Stages) -> None:
        there.validate()
        there.verdicts.void = "the gates file has changed"

        assert there.read("verdict").outcome is Outcome.FAILED
        assert "void" in there.read("verdict").problem

    def test_one_for_another_environment_does_not_count(self, there: Stages) -> None:
        there.validate(environments=("staging",))

        assert there.read("verdict").outcome is Outcome.INCONCLUSIVE


class TestRollout:
    def test_a_completed_one_that_is_still_stable_opens(self, there: Stages) -> None:
        there.roll_out()
        there.serve(1)

        assert there.read("rollout").passed

    @pytest.mark.parametrize(
        ("phase", "outcome"),
        [
            ("queued", Outcome.INCONCLUSIVE),
            ("progressing", Outcome.INCONCLUSIVE),
            ("paused", Outcome.INCONCLUSIVE),
            ("aborted", Outcome.FAILED),
            ("rolled_back", Outcome.FAILED),
        ],
    )
    def test_any_other_phase_keeps_it_shut(self, there: Stages, phase: str, outcome: Outcome) -> None:
        there.roll_out(phase)
        there.serve(1)

        assert there.read("rollout").outcome is outcome

    @pytest.mark.parametrize("stable", [None, 2])
    def test_a_version_that_is_stable_no_longer_keeps_it_shut(self, there: Stages, stable: int | None) -> None:
        there.roll_out()
        there.serve(stable)

        assert there.read("rollout").outcome is Outcome.FAILED

    @pytest.mark.parametrize("other", [{"target": 2}, {"digest": "sha256:other"}])
    def test_that_of_another_version_or_package_does_not_count(self, there: Stages, other: Any) -> None:
        there.roll_out(**other)
        there.serve(1)

        assert there.read("rollout").outcome is Outcome.INCONCLUSIVE

    def test_the_newest_one_decides(self, there: Stages) -> None:
        there.roll_out("completed", number=1)
        there.roll_out("rolled_back", number=2)
        there.serve(1)

        assert there.read("rollout").outcome is Outcome.FAILED


class TestMonitor:
    def test_a_running_one_opens(self, there: Stages) -> None:
        there.watch("running")

        assert there.read("monitor").passed

    def test_none_and_a_stopped_one_keep_it_shut(self, there: Stages) -> None:
        assert there.read("monitor").outcome is Outcome.INCONCLUSIVE
        there.watch("stopped")
        assert there.read("monitor").outcome is Outcome.INCONCLUSIVE

    def test_one_in_trouble_keeps_it_shut(self, there: Stages) -> None:
        there.watch("running")
        there.context.store.observe(Monitor, "production/digits", error="the disk is full")

        assert there.read("monitor").problem == "the disk is full"
        assert not there.read("monitor").passed


class TestPlan:
    @pytest.mark.parametrize("phase", ["planned", "ramping", "completed"])
    def test_a_standing_one_opens(self, there: Stages, phase: str) -> None:
        there.plan(phase)

        assert there.read("plan").passed

    @pytest.mark.parametrize(
        "other", [{"phase": "cancelled"}, {"phase": "restored"}, {"version": 2}, {"environment": "staging"}]
    )
    def test_no_other_does(self, there: Stages, other: Any) -> None:
        there.plan(**{"phase": "planned", **other})

        assert there.read("plan").outcome is Outcome.INCONCLUSIVE
