"""The lifecycle service: creates lifecycles, moves them from stage to stage past their gates, tells where they are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mlcycle_nb.context import Context
from mlcycle_nb.errors import Conflict, InvalidInput, NotFound, Refused, did_you_mean
from mlcycle_nb.lifecycle.approvals import Approvals
from mlcycle_nb.lifecycle.evidence import Evidence, WorkspaceEvidence
from mlcycle_nb.lifecycle.records import Approval, GateReading, Lifecycle, Transition
from mlcycle_nb.lifecycle.stages import NEVER_FORCED, Stage, check_order, only_next, parse_stage
from mlcycle_nb.lifecycle.status import LifecycleHistory, LifecycleStatus, NextStage
from mlcycle_nb.references import check_name

if TYPE_CHECKING:
    from mlcycle_nb.development.service import ModelDevelopmentManager
    from mlcycle_nb.validation.service import ModelValidator


class ModelLifecycleManager:
    """The lifecycles of one workspace.

    Parameters
    ----------
    context : Context
    development, training, validation, deployment, monitoring, retirement
        The other stage services.
    evidence : Evidence, optional
        What the gates read; the workspace's records by default.
    """

    def __init__(
        self,
        context: Context,
        development: ModelDevelopmentManager,
        training: Any,
        validation: ModelValidator,
        deployment: Any,
        monitoring: Any,
        retirement: Any,
        *,
        evidence: Evidence | None = None,
    ) -> None:
        self.context = context
        self.development = development
        self.training = training
        self.validation = validation
        self.deployment = deployment
        self.monitoring = monitoring
        self.retirement = retirement
        self._evidence = evidence

    @cached_property
    def approvals(self) -> Approvals:
        """Who approved what."""
        return Approvals(self.context, self.development, self.validation)

    @cached_property
    def evidence(self) -> Evidence:
        """What the gates read."""
        if self._evidence is not None:
            return self._evidence
        return WorkspaceEvidence(self.context, self.development, self.validation, self.approvals)

    # -- verbs -----------------------------------------------------------------------------------------------

    def create_model_lifecycle(
        self, name: str, *, model: str | None = None, environment: str = "production", purpose: str = ""
    ) -> LifecycleStatus:
        """Begin the lifecycle of a model, in development; one that is there already is returned as it is.

        Parameters
        ----------
        name : str
            Of the lifecycle.
        model : str, optional
            The model it is about; `name` by default.
        environment : str
            Where it leads.
        purpose : str
            What the model is for.

        Raises
        ------
        Conflict
            When a lifecycle of this name is about another model or environment.
        """
        check_name(name, "lifecycle name")
        model = check_name(model or name, "model name")
        known = self.context.settings.deployment.environments
        if environment not in known:
            raise InvalidInput(
                "there is no environment of this name",
                value=environment,
                remedy=f"{did_you_mean(environment, known)}known: {', '.join(known)}",
            )
        existing = self.context.store.maybe(Lifecycle, name)
        if existing is None:
            fresh = Lifecycle(
                id=name,
                phase=Stage.DEVELOPMENT.value,
                created_at=self.context.clock.now(),
                model=model,
                environment=environment,
                owner=self.context.actor,
                purpose=purpose,
            )
            with self.context.store.transaction(actor=self.context.actor) as transaction:
                detail = {"model": model, "environment": environment}
                transaction.insert(fresh, event="lifecycle.created", detail=detail, reason=purpose)
        elif (existing.model, existing.environment) != (model, environment):
            raise Conflict(
                f"lifecycle {name} is about {existing.model} in {existing.environment}", remedy="choose another name"
            )
        return self.get_lifecycle_status(name)

    def progress_to_stage(
        self,
        name: str,
        stage: str | Stage | None = None,
        *,
        version: int | None = None,
        force: bool = False,
        reason: str = "",
    ) -> LifecycleStatus:
        """Move a lifecycle to a stage when every gate before it has passed.

        Parameters
        ----------
        name : str
        stage : str, optional
            The next one by default; the one it is in changes nothing.
        version : int, optional
            On the way to validation, the version to go on with; the newest one of this cycle by default.
        force : bool
            Go on although gates have not passed. It needs a `reason`; both are recorded for good. No reason opens a
            gate that says that there is no version, or that its bytes are others.

        Raises
        ------
        Refused
            When the order of stages has no such step, or naming each gate that has not passed, what it found and
            what to do.
        """
        current = self._get(name)
        target = only_next(name, current.stage) if stage is None else parse_stage(stage)
        if target is current.stage:
            return self.get_lifecycle_status(name)
        if force and not reason.strip():
            raise InvalidInput("going on against a gate needs a reason", where="--force", remedy="--reason '...'")
        try:
            check_order(name, current.stage, target)
            moved, readings = self._prepared(current, target, version)
            closed = [reading for reading in readings if not reading.passed]
            self._refuse_closed(current, target, closed, force=force)
        except (Refused, NotFound) as refusal:
            self._note_refusal(current, target, str(refusal))
            raise
        step = Transition(
            time=self.context.clock.now(),
            actor=self.context.actor,
            source=current.stage,
            target=target,
            cycle=moved.cycle,
            model_version=moved.model_version,
            gates=readings,
            forced=bool(closed),
            reason=reason,
        )
        after = replace(moved, phase=target.value, transitions=(*current.transitions, step))
        detail = {
            "from": current.phase,
            "to": target.value,
            "version": moved.reference,
            "gates": {reading.gate: str(reading.outcome) for reading in readings},
            "evidence": {reading.gate: reading.evidence for reading in readings},
        }
        event = "lifecycle.forced" if closed else "lifecycle.advanced"
        with self.context.store.transaction(actor=self.context.actor) as transaction:
            transaction.update(after, event=event, detail=detail, reason=reason)
        return self.get_lifecycle_status(name)

    def approve(self, ref: str, environment: str = "production", *, reason: str = "") -> Approval:
        """Approve a version for an environment; see `Approvals.approve`."""
        return self.approvals.approve(ref, environment, reason=reason)

    # -- reading ---------------------------------------------------------------------------------------------

    def get_lifecycle_status(self, name: str) -> LifecycleStatus:
        """Return where a lifecycle is, and what each gate before the next stages shows now."""
        current = self._get(name)
        options = []
        for target in current.next_stages:
            try:
                _, readings = self._prepared(current, target, None)
                options.append(NextStage(target, readings, ""))
            except NotFound as absent:
                options.append(NextStage(target, (), f"{absent.problem}; {absent.remedy}".rstrip("; ")))
        standing = None
        if current.model_version is not None:
            standing, _ = self._standing(current)
        return LifecycleStatus(current, tuple(options), standing)

    def lifecycles(self, model: str | None = None) -> list[Lifecycle]:
        """Return lifecycles, newest first."""
        return self.context.store.find(Lifecycle, name=model)

    def history(self, name: str) -> LifecycleHistory:
        """Return all that happened to a lifecycle, refusals too, as the audit trail has it."""
        from mlcycle_nb.store.audit import events

        self._get(name)
        return LifecycleHistory(name, tuple(events(self.context.store, subject=f"lifecycle:{name}")))

    # -- parts -----------------------------------------------------------------------------------------------

    def _get(self, name: str) -> Lifecycle:
        found = self.context.store.maybe(Lifecycle, check_name(name, "lifecycle name"))
        if found is None:
            known = [record.id for record in self.lifecycles()]
            listed = ", ".join(known[:10]) or f"none yet; %lifecycle create {name}"
            raise NotFound(
                "there is no lifecycle of this name", value=name, remedy=f"{did_you_mean(name, known)}known: {listed}"
            )
        return found

    def _prepared(
        self, current: Lifecycle, target: Stage, version: int | None
    ) -> tuple[Lifecycle, tuple[GateReading, ...]]:
        """Return the lifecycle as it would enter `target`, and what the gates before it show."""
        entering = current
        if target is Stage.VALIDATION:
            chosen = self.evidence.candidate(current, version)
            entering = replace(current, model_version=chosen.version, package_digest=chosen.package_digest)
        elif version is not None:
            raise InvalidInput("a version is chosen on the way to validation only", value=version, where="--version")
        elif target is Stage.TRAINING and current.stage is not Stage.DEVELOPMENT:
            past = (*current.earlier_versions, *([current.model_version] if current.model_version else []))
            entering = replace(
                current, cycle=current.cycle + 1, model_version=None, package_digest="", earlier_versions=past
            )
        names = self.evidence.gates(target, entering)
        return entering, tuple(self.evidence.read(gate, entering, self.context.actor) for gate in names)

    def _refuse_closed(self, current: Lifecycle, target: Stage, closed: Iterable[GateReading], *, force: bool) -> None:
        standing = [reading for reading in closed if not force or reading.gate in NEVER_FORCED]
        if not standing:
            return
        told = "; ".join(str(reading) for reading in standing)
        remedies = [reading.remedy for reading in standing if reading.remedy]
        if force:
            remedies.append("this gate cannot be forced")
        raise Refused(
            f"{current.id} cannot go from {current.phase} to {target.value}: {told}",
            where=f"lifecycle {current.id}",
            remedy="; then ".join(dict.fromkeys(remedies)),
        )

    def _note_refusal(self, current: Lifecycle, target: Stage, why: str) -> None:
        with self.context.store.transaction(actor=self.context.actor) as transaction:
            detail = {"from": current.phase, "to": target.value, "why": why[:500]}
            transaction.note("lifecycle.refused", subject=f"lifecycle:{current.id}", detail=detail)

    def _standing(self, current: Lifecycle) -> tuple[Approval | None, str]:
        if not self.approvals.given(current.reference, current.environment):
            return None, ""
        return self.approvals.standing(current.reference, current.environment)
