"""What each gate reads: the records of the stages, never somebody's word for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from mlcycle_nb.context import Context
from mlcycle_nb.development.records import ModelVersion
from mlcycle_nb.errors import MLCycleError, NotFound
from mlcycle_nb.lifecycle import stages
from mlcycle_nb.lifecycle.approvals import Approvals
from mlcycle_nb.lifecycle.records import GateReading, Lifecycle
from mlcycle_nb.outcomes import Outcome

if TYPE_CHECKING:
    from mlcycle_nb.development.service import ModelDevelopmentManager
    from mlcycle_nb.lifecycle.approvals import Verdicts


class Evidence(Protocol):
    """What the lifecycle service asks."""

    def candidate(self, lifecycle: Lifecycle, wanted: int | None) -> ModelVersion:
        """Return the version that a cycle goes on with; NotFound when there is none."""
        ...

    def gates(self, target: stages.Stage, lifecycle: Lifecycle) -> tuple[str, ...]:
        """Return the names of the gates before a stage, as the settings have them."""
        ...

    def read(self, gate: str, lifecycle: Lifecycle, requester: str) -> GateReading:
        """Look at one gate. A gate that cannot be read is an error, never passed."""
        ...


class WorkspaceEvidence:
    """Evidence from the workspace's own records.

    Parameters
    ----------
    context : Context
    development : ModelDevelopmentManager
    validation : Verdicts
    approvals : Approvals
    """

    def __init__(
        self, context: Context, development: ModelDevelopmentManager, validation: Verdicts, approvals: Approvals
    ) -> None:
        self._context = context
        self._development = development
        self._validation = validation
        self._approvals = approvals
        self._readers: dict[str, Callable[[Lifecycle, str], GateReading]] = {
            stages.VERSION: self._version,
            stages.PACKAGE: self._package,
            stages.VERDICT: self._verdict,
            stages.APPROVAL: self._approval,
            stages.ROLLOUT: self._rollout,
            stages.MONITOR: self._monitor,
            stages.PLAN: self._plan,
        }

    def candidate(self, lifecycle: Lifecycle, wanted: int | None) -> ModelVersion:
        if wanted is not None:
            return self._development.get_version(f"{lifecycle.model}/{wanted}")
        newest = self._development.versions(lifecycle.model)
        known = max(lifecycle.earlier_versions, default=0)
        if newest and newest[0].version > known:
            return newest[0]
        since = f" since version {known}" if known else ""
        raise NotFound(
            f"no version of {lifecycle.model} has been registered{since}",
            remedy=f"%%train {lifecycle.model} --register, or register_model",
        )

    def gates(self, target: stages.Stage, lifecycle: Lifecycle) -> tuple[str, ...]:
        needed = self._approvals.needed(lifecycle.environment)
        return tuple(gate for gate in stages.GATES[target] if gate != stages.APPROVAL or needed)

    def read(self, gate: str, lifecycle: Lifecycle, requester: str) -> GateReading:
        try:
            return self._readers[gate](lifecycle, requester)
        except MLCycleError as failure:
            return GateReading(
                gate=gate,
                outcome=Outcome.ERROR,
                value="could not be read",
                problem=failure.problem,
                remedy=failure.remedy,
            )

    # -- one method a gate -----------------------------------------------------------------------------------

    def _version(self, lifecycle: Lifecycle, _: str) -> GateReading:
        from mlcycle_nb.training.records import TrainingJob

        version = self._development.get_version(lifecycle.reference)
        job_id = version.tags.get("training.job", "")
        evidence = {"version": version.reference, "run": version.run_id or "none", "job": job_id or "none"}
        job = self._context.store.maybe(TrainingJob, job_id) if job_id else None
        if job is not None and job.phase != "finished":
            problem, remedy = f"training job {job.id} is {job.phase}", f"%train logs {job.id}"
            return _closed(stages.VERSION, job.phase, problem, remedy, evidence)
        return _open(stages.VERSION, version.reference, evidence)

    def _package(self, lifecycle: Lifecycle, _: str) -> GateReading:
        from mlcycle_nb.packages import PackageStore

        version = self._development.get_version(lifecycle.reference)
        evidence = {"package": version.package_digest}
        if version.package_digest != lifecycle.package_digest:
            problem = f"{version.reference} is not the package {lifecycle.package_digest[:19]} of this cycle"
            return _closed(stages.PACKAGE, version.package_digest[:19], problem, "begin a new cycle", evidence)
        PackageStore(self._context.folder("packages")).open(version.package_digest).check_files()
        return _open(stages.PACKAGE, version.package_digest[:19], evidence)

    def _verdict(self, lifecycle: Lifecycle, _: str) -> GateReading:
        version = self._development.get_version(lifecycle.reference)
        valid, why = self._validation.is_valid_for(version.reference, lifecycle.environment)
        verdict = self._approvals.deciding_verdict(version, lifecycle.environment)
        evidence = {"package": version.package_digest}
        if verdict is not None:
            evidence |= {"validation": verdict.id, "data": verdict.evidence.data, "gates": verdict.evidence.gates}
        if valid:
            return _open(stages.VERDICT, why, evidence)
        remedy = f"%validate {version.reference}"
        if verdict is None:
            return _closed(stages.VERDICT, "none", why, remedy, evidence, Outcome.INCONCLUSIVE)
        # A passed verdict that is void now has failed as evidence, whatever it said then.
        outcome = Outcome.FAILED if verdict.passed else verdict.outcome
        return _closed(stages.VERDICT, f"validation {verdict.id}", why, remedy, evidence, outcome)

    def _approval(self, lifecycle: Lifecycle, requester: str) -> GateReading:
        reference, environment = lifecycle.reference, lifecycle.environment
        approval, why = self._approvals.standing(reference, environment, requester=requester)
        if approval is None:
            return _closed(stages.APPROVAL, "none", why, f"%approve {reference} --stage {environment}", {})
        return _open(stages.APPROVAL, why, {"approval": approval.id, "verdict": approval.verdict_digest})

    def _rollout(self, lifecycle: Lifecycle, _: str) -> GateReading:
        from mlcycle_nb.deployment.records import Rollout, Service

        service_id = f"{lifecycle.environment}/{lifecycle.model}"
        remedy = f"%deploy {lifecycle.reference} --env {lifecycle.environment}"
        found = self._context.store.find(Rollout, name=service_id)
        mine = [r for r in found if r.target == lifecycle.model_version and r.digest == lifecycle.package_digest]
        mine = [r for r in mine if r.strategy != "shadow"]  # compared, never served: no deployment
        if not mine:
            problem = f"{lifecycle.reference} has not been deployed to {lifecycle.environment}"
            return _closed(stages.ROLLOUT, "none", problem, remedy, {}, Outcome.INCONCLUSIVE)
        newest = mine[0]
        evidence = {"rollout": newest.id, "package": newest.digest}
        if newest.phase != "completed":
            outcome = Outcome.FAILED if newest.ended else Outcome.INCONCLUSIVE
            last = newest.history[-1].text if newest.history else newest.phase
            return _closed(stages.ROLLOUT, newest.phase, f"rollout {newest.id}: {last}", remedy, evidence, outcome)
        service = self._context.store.maybe(Service, service_id)
        stable = None if service is None else service.stable
        if stable != lifecycle.model_version:
            problem = f"stable in {lifecycle.environment} is {stable or 'nothing'}, no longer {lifecycle.model_version}"
            return _closed(stages.ROLLOUT, f"stable {stable or 'none'}", problem, remedy, evidence)
        return _open(stages.ROLLOUT, f"rollout {newest.id} completed", evidence)

    def _monitor(self, lifecycle: Lifecycle, _: str) -> GateReading:
        from mlcycle_nb.monitoring.records import Monitor, monitor_id

        monitor = self._context.store.maybe(Monitor, monitor_id(lifecycle.environment, lifecycle.model))
        remedy = f"%monitor {lifecycle.model} --env {lifecycle.environment}"
        if monitor is None or monitor.phase != "running":
            value = "none" if monitor is None else monitor.phase
            problem = f"nothing watches {lifecycle.model} in {lifecycle.environment}"
            return _closed(stages.MONITOR, value, problem, remedy, {}, Outcome.INCONCLUSIVE)
        trouble = self._context.store.observed(Monitor, monitor.id).get("error")
        if trouble:
            return _closed(stages.MONITOR, "in trouble", str(trouble), "%mlcycle status", {"monitor": monitor.id})
        return _open(stages.MONITOR, f"monitor {monitor.id} runs", {"monitor": monitor.id})

    def _plan(self, lifecycle: Lifecycle, _: str) -> GateReading:
        from mlcycle_nb.retirement.records import CANCELLED, RESTORED, Retirement

        for plan in self._context.store.find(Retirement, name=lifecycle.model):
            same = plan.environment == lifecycle.environment and plan.model_version == lifecycle.model_version
            if same and plan.phase not in (CANCELLED, RESTORED):
                evidence = {"retirement": plan.id, "package": plan.package_digest}
                return _open(stages.PLAN, f"retirement {plan.id} is {plan.phase}", evidence)
        problem = f"nobody has planned the retirement of {lifecycle.reference}"
        return _closed(stages.PLAN, "none", problem, f"%retire plan {lifecycle.reference}", {}, Outcome.INCONCLUSIVE)


def _open(gate: str, value: str, evidence: dict[str, str]) -> GateReading:
    return GateReading(gate=gate, outcome=Outcome.PASSED, value=value, evidence=evidence)


def _closed(
    gate: str, value: str, problem: str, remedy: str, evidence: dict[str, str], outcome: Outcome = Outcome.FAILED
) -> GateReading:
    return GateReading(gate=gate, outcome=outcome, value=value, problem=problem, remedy=remedy, evidence=evidence)
