"""The deployment service: validates what is asked, writes what should be, reads back what is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mlcycle_nb.context import Context
from mlcycle_nb.deployment import consumers, following, routes, verbs
from mlcycle_nb.deployment.begin import Wish, begin, declare_gateway, held
from mlcycle_nb.deployment.consumers import ConsumerState, NewConsumer
from mlcycle_nb.deployment.policy import make_policy, parse_strategy, whole_number
from mlcycle_nb.deployment.records import (
    RETIREMENT_TAG,
    WHOLE,
    DeploymentStrategy,
    Gateway,
    PinnedRoute,
    Revision,
    Rollout,
    Service,
    revision_id,
    service_id,
)
from mlcycle_nb.deployment.revisions import IDLE
from mlcycle_nb.deployment.runtimes import check_runtime
from mlcycle_nb.deployment.status import DeploymentStatus, read_status
from mlcycle_nb.errors import InvalidInput, NotFound, Refused, did_you_mean
from mlcycle_nb.notebook.handle import Handle
from mlcycle_nb.references import ModelReference, check_name

if TYPE_CHECKING:
    from mlcycle_nb.deployment.disagreements import Disagreements
    from mlcycle_nb.deployment.export.manifest import ExportedPlan
    from mlcycle_nb.deployment.panel import RolloutPanel
    from mlcycle_nb.deployment.simulation import Simulation
    from mlcycle_nb.deployment.traffic import Caller
    from mlcycle_nb.serving.client import ServingClient

_DEFAULT = {"dev": DeploymentStrategy.ALL_AT_ONCE, "production": DeploymentStrategy.CANARY}


class RegisteredVersion(Protocol):
    """A model version, as the registry knows it."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def package_digest(self) -> str: ...


class Registry(Protocol):
    """What deployment asks of the registry."""

    def get_version(self, reference: str) -> RegisteredVersion:
        """Return the version that a reference names."""
        ...


class Gatekeeper(Protocol):
    """What deployment asks of validation."""

    def is_valid_for(self, reference: str, environment: str) -> tuple[bool, str]:
        """Return whether a version may go to an environment, and why not."""
        ...


class ModelDeploymentManager:
    """Deploys model versions: each verb writes desired state and its audit event, and returns at once.

    Parameters
    ----------
    context : Context
        The workspace.
    development : Registry
        Resolves model references.
    validation : Gatekeeper
        Says whether a version may go to an environment.
    """

    def __init__(self, context: Context, development: Registry, validation: Gatekeeper) -> None:
        self.context = context
        self._development = development
        self._validation = validation

    # -- rollouts --------------------------------------------------------------------------------------------

    def deploy_model(
        self,
        reference: str,
        environment: str = "dev",
        strategy: DeploymentStrategy | str | None = None,
        *,
        replicas: int | None = None,
        steps: str | Sequence[float] | None = None,
        interval: str | None = None,
        min_requests: int | None = None,
        mirror: str | float | None = None,
        deadline: str | None = None,
        max_disagreement: str | float | None = None,
        max_error_increase: str | float | None = None,
        max_slowdown: str | float | None = None,
        max_shift: str | float | None = None,
        max_accuracy_loss: str | float | None = None,
        require: str | Sequence[str] = (),
        optional: str | Sequence[str] = (),
        watch: str | Sequence[str] = (),
        warm: str | None = None,
        duration: str | None = None,
        compare: int | None = None,
        force: bool = False,
        reason: str = "",
        supersede: bool = False,
        runtime: str = "",
    ) -> Handle[Rollout]:
        """Deploy a model version behind the gateway of an environment.

        The first version of a service gets all requests once its replicas are ready, whatever the strategy; a shadow
        needs a stable version to compare with. A shadow's answers are never served, and stable stays at 100 %.

        Parameters
        ----------
        reference : str
            ``digits/7`` or ``digits@challenger``.
        environment : str
            ``dev``, ``staging`` or ``production``.
        strategy : DeploymentStrategy or str, optional
            ``canary`` in production, ``all-at-once`` in dev and ``rolling`` elsewhere by default.
        replicas : int, optional
            Replicas of the new version.
        steps, interval, min_requests, deadline
            Canary weights in percent; how long, and for how many requests of the new version, each is held at least;
            and for how long at most, while nothing is decided.
        mirror, max_disagreement, max_error_increase, max_slowdown, max_shift, max_accuracy_loss
            Percentage of requests that both versions answer; and what the analysis tolerates.
        require, optional, watch : str or sequence of str
            Metrics that must be shown to be good before all requests move; that can only send the version back; and
            that are shown and decide nothing. By default ``prediction-shift`` and ``accuracy`` are optional.
        duration, compare : str, int
            Of a shadow: it ends after this time (30m by default), or once so many copied requests were compared.
        warm : str
            How long the old version's replicas are kept after the switch.
        force, reason : bool, str
            Deploy although the gates of the environment do not allow it; the reason is recorded.
        supersede : bool
            Have a running rollout go back first, then begin.
        runtime : str
            Isolated environment that the replicas run in, as made by ``%environment create``; the workspace's own
            interpreter by default. The package has to answer its golden batch there first.

        Raises
        ------
        InvalidInput
            When an option makes no sense.
        NotFound
            When there is no such version, or its package is gone.
        Refused
            When the gates do not allow it, or the version is stable already.
        Conflict
            When another rollout of the service runs; names its holder.
        """
        environment = self._check_environment(environment)
        chosen = parse_strategy(strategy or _DEFAULT.get(environment, DeploymentStrategy.ROLLING))
        wanted = self.context.settings.serving.replicas if replicas is None else replicas
        wanted = whole_number(wanted, what="--replicas", low=1, high=64)
        policy = make_policy(
            chosen,
            steps=steps,
            interval=interval,
            min_requests=min_requests,
            mirror=mirror,
            deadline=deadline,
            max_disagreement=max_disagreement,
            max_error_increase=max_error_increase,
            max_slowdown=max_slowdown,
            max_shift=max_shift,
            max_accuracy_loss=max_accuracy_loss,
            require=require,
            optional=optional,
            watch=watch,
            warm=warm,
            duration=duration,
            compare=compare,
        )
        if chosen is DeploymentStrategy.ROLLING:
            policy = replace(policy, steps=tuple(WHOLE * done // wanted for done in range(1, wanted + 1)))
        version = self._resolve(reference)
        self._refuse_retiring(version)
        self._check_package(version.package_digest, f"{version.name}/{version.version}")
        overridden = self._pass_gates(version, environment, force=force, reason=reason)
        check_runtime(self.context, runtime, version.package_digest)  # takes seconds, so it comes last
        wish = Wish(
            environment=environment,
            model=version.name,
            target=version.version,
            runtime=runtime,
            digest=version.package_digest,
            strategy=chosen,
            replicas=wanted,
            policy=policy,
            supersede=supersede,
            reason=reason,
            overridden=overridden,
        )
        return self._begin(wish)

    def simulate(
        self, reference: str, environment: str = "production", recorded: str = "24h", **policy: Any
    ) -> Simulation:
        """Say what a canary of a version would have done on recorded requests; nothing is deployed or changed.

        The state machine and the analysis are those of a real canary, in virtual time. Both versions answer the
        recorded rows here; how long they would take is estimated, so latency is shown and decides nothing.

        Parameters
        ----------
        recorded : str
            A time such as ``24h``: the model's own prediction log in the environment; or a ``.parquet`` or ``.arrow``
            file with its columns.
        **policy
            ``steps``, ``interval``, ``min_requests``, ``mirror`` and all that `deploy_model` takes of a canary.

        Raises
        ------
        InvalidInput
            When an option makes no sense, nothing was recorded, or the rows do not fit the models.
        Refused
            When nothing is stable in the environment, or a version's package runs code.
        """
        from mlcycle_nb.deployment.rehearsal import rehearse

        replicas = policy.pop("replicas", None) or self.context.settings.serving.replicas
        wanted = make_policy(DeploymentStrategy.CANARY, **policy)
        version = self._resolve(reference)
        self._check_package(version.package_digest, f"{version.name}/{version.version}")
        return rehearse(
            self.context,
            self._service(version.name, environment),
            target=version.version,
            digest=version.package_digest,
            policy=wanted,
            recorded=recorded,
            replicas=whole_number(replicas, what="--replicas", low=1, high=64),
        )

    def export_plan(
        self,
        reference: str,
        target: str,
        environment: str = "production",
        strategy: DeploymentStrategy | str | None = None,
        *,
        to: Path | str | None = None,
        replicas: int | None = None,
        image: str = "",
        namespace: str = "",
        prometheus: str = "",
        storage: str = "",
        force: bool = False,
        reason: str = "",
        **policy: Any,
    ) -> ExportedPlan:
        """Return the plan of a rollout as manifests for a cluster; nothing is deployed here.

        Parameters
        ----------
        target : str
            ``argo`` (Argo Rollouts), ``flagger`` or ``kserve``.
        to : Path or str, optional
            A folder to write the files into; another's files are not overwritten.
        image, namespace : str
            Container image with mlcycle_nb and the package in ``/package``; namespace of the objects, the current
            one by default.
        prometheus : str
            Address of the Prometheus that scrapes the replicas; ``http://prometheus.istio-system:9090`` by default.
        storage : str
            Where KServe's own runtime finds the model when no image is given.
        force, reason : bool, str
            Export although the gates of the environment do not allow it; recorded in the audit trail.
        **policy
            ``steps``, ``interval``, ``min_requests`` and all that `deploy_model` takes of a rollout.

        Raises
        ------
        InvalidInput
            When an option makes no sense, or the target has no such weights.
        Refused
            When the gates do not allow it, or the target has no such strategy.
        """
        from mlcycle_nb.deployment.export.prepare import export, prepare
        from mlcycle_nb.deployment.export.wish import check_target

        chosen_target, environment = check_target(target), self._check_environment(environment)
        chosen = parse_strategy(strategy or _DEFAULT.get(environment, DeploymentStrategy.ROLLING))
        wanted = self.context.settings.serving.replicas if replicas is None else replicas
        version = self._resolve(reference)
        self._refuse_retiring(version)
        self._check_package(version.package_digest, f"{version.name}/{version.version}")
        wish = prepare(
            self.context,
            model=version.name,
            version=version.version,
            digest=version.package_digest,
            environment=environment,
            strategy=chosen,
            replicas=whole_number(wanted, what="--replicas", low=1, high=64),
            policy=policy,
            image=image,
            namespace=namespace,
            prometheus=prometheus,
            storage=storage,
            target=chosen_target,
        )
        overridden = self._pass_gates(version, environment, force=force, reason=reason)
        plan = export(wish, chosen_target)
        detail = {
            "target": chosen_target,
            "environment": environment,
            "strategy": str(chosen),
            "policy": wish.policy,
            "digest": wish.digest,
            "overridden": overridden,
        }
        with self.context.store.transaction(actor=self.context.actor) as transaction:
            transaction.note("rollout.exported", subject=f"model:{wish.reference}", detail=detail, reason=reason)
            # Nothing is exported without its entry, and a write that fails takes the entry back.
            return plan if to is None else plan.write(to)

    def rollback_deployment(
        self, model: str, environment: str = "production", *, to: int | None = None, reason: str = ""
    ) -> Handle[Rollout]:
        """Bring an earlier stable version back; a running rollout is aborted, which brings its stable back.

        Parameters
        ----------
        to : int, optional
            An earlier stable version; the one before the present by default.

        Raises
        ------
        Refused
            When there is nothing to roll back to, or the target's package is gone; traffic has not moved then.
        """
        environment = self._check_environment(environment)
        service = self._service(model, environment)
        running = self._running(service.id)
        moves_nothing = (DeploymentStrategy.ROLLBACK, DeploymentStrategy.SHADOW)
        if running is not None and to is None and running.strategy not in moves_nothing:
            return self.abort(running.id, reason=reason or "rolled back by hand")
        target = service.rollback_target if to is None else to
        if target is None:
            raise Refused(
                f"nothing to roll back to; {model}/{service.stable} is the first deployment in {environment}",
                remedy="deploy another version",
            )
        moving = running is not None and running.strategy is not DeploymentStrategy.SHADOW
        if target == service.stable and not moving:
            raise Refused(f"{model}/{target} is stable in {environment} already")
        if target not in service.stables:
            known = ", ".join(f"{model}/{version}" for version in service.stables) or "none"
            raise Refused(
                "a rollback goes to a version that was stable here", value=f"{model}/{target}", remedy=f"known: {known}"
            )
        revision = self.context.store.get(Revision, revision_id(environment, model, target))
        try:
            self._check_package(revision.digest, f"{model}/{target}")
        except NotFound as gone:
            raise Refused(
                f"the package of {model}/{target} is gone, so nothing was moved",
                value=revision.digest,
                remedy="restore it from its archive, or roll back to another version with --to",
            ) from gone
        if revision.phase in IDLE:
            check_runtime(self.context, revision.runtime, revision.digest)
        wish = Wish(
            environment=environment,
            model=model,
            target=target,
            digest=revision.digest,
            strategy=DeploymentStrategy.ROLLBACK,
            runtime=revision.runtime,
            replicas=max(revision.replicas, 1),
            policy=replace(make_policy(DeploymentStrategy.ALL_AT_ONCE), mirror=0),
            supersede=running is not None,
            reason=reason,
        )
        return self._begin(wish)

    def promote(self, rollout: str | None = None, *, environment: str = "", reason: str = "") -> Handle[Rollout]:
        """Send all requests to the new version now, without waiting for the remaining steps.

        Of a shadow that has passed, running or ended last: begin a canary of its version, which tolerates the same.

        Raises
        ------
        Refused
            When it is too early or too late; or, of a shadow, why no canary follows.
        """
        try:
            record = verbs.find_rollout(self.context, rollout, environment)
        except NotFound:
            ended = verbs.find_shadow(self.context, rollout, environment)
            if ended is None:
                raise
            record = ended
        if record.strategy is DeploymentStrategy.SHADOW:
            return self._follow_shadow(record, reason)
        return self._change(verbs.promote, rollout, environment, reason)

    def abort(self, rollout: str | None = None, *, environment: str = "", reason: str = "") -> Handle[Rollout]:
        """Bring all requests back to the stable version."""
        return self._change(verbs.abort, rollout, environment, reason)

    def pause(self, rollout: str | None = None, *, environment: str = "", reason: str = "") -> Handle[Rollout]:
        """Keep the present weights until `resume`; a canary that fails meanwhile still goes back."""
        return self._change(verbs.pause, rollout, environment, reason)

    def resume(self, rollout: str | None = None, *, environment: str = "", reason: str = "") -> Handle[Rollout]:
        """Go on with a paused rollout; its present step begins anew."""
        return self._change(verbs.resume, rollout, environment, reason)

    def rollout(self, id: str) -> Handle[Rollout]:
        """Return the handle of a rollout, in any kernel."""
        self.context.store.get(Rollout, id)

        def panel() -> RolloutPanel:
            from mlcycle_nb.deployment.panel import RolloutPanel

            return RolloutPanel(self, id)

        return Handle(
            id,
            lambda: self.context.store.get(Rollout, id),
            lambda record: not record.active,
            panel,
            sustain=self.context.revive_supervisor,
        )

    def disagreements(self, rollout: str | None = None, *, environment: str = "") -> Disagreements:
        """Return the compared requests on which a rollout's two versions differ most, the largest first.

        Parameters
        ----------
        rollout : str, optional
            A rollout's id, or the model that is rolled out; the only rollout, or the last shadow, when left out.
        """
        from mlcycle_nb.deployment.disagreements import Disagreements, rows_of

        try:
            record = verbs.find_rollout(self.context, rollout, environment)
        except NotFound:
            ended = verbs.find_shadow(self.context, rollout, environment)
            if ended is None:
                raise
            record = ended
        analysis = self.context.store.observed(Rollout, record.id).get("analysis") or {}
        rows = rows_of(analysis.get("worst", ()))
        return Disagreements(record.id, f"{record.model}/{record.base}", record.reference, rows)

    def rollouts(self, model: str | None = None, environment: str = "production") -> list[Rollout]:
        """Return rollouts, newest first."""
        name = None if model is None else service_id(environment, model)
        return self.context.store.find(Rollout, name=name)

    # -- what is ---------------------------------------------------------------------------------------------

    def services(self) -> list[Service]:
        """Return all services."""
        return self.context.store.find(Service, newest_first=False)

    def status(self, model: str, environment: str = "production") -> DeploymentStatus:
        """Return what is planned and what is in force for one model."""
        return read_status(self.context, self._service(model, environment))

    def callers(self, model: str, version: int | None = None, environment: str = "production") -> list[Caller]:
        """Return who has asked a model, or one version of it, as the gateway counted; the busiest first.

        What the supervisor has not counted yet is read from the gateway's log, so that a caller of this very
        second is not missed.
        """
        from mlcycle_nb.deployment.calls import current_callers

        return current_callers(self.context, self._check_environment(environment), model, version)

    # -- consumers -------------------------------------------------------------------------------------------

    def client(
        self, model: str, environment: str = "production", consumer: str = "notebook", *, version: int | None = None
    ) -> ServingClient:
        """Return a client of a deployed model, with the key of `consumer`; the consumer is added when it is new.

        With `version` the client asks that version's own address instead of the one that the split chooses.
        """
        from mlcycle_nb.serving.client import ServingClient

        service = self._service(model, environment)
        if not service.split:
            raise Refused(f"{service.id} answers no requests", remedy="see the deployment's status")
        self._bring_up(environment, consumer)
        key = consumers.key_of(self.context, environment, consumer)
        url = consumers.wait_until_served(self.context, environment, model, consumer)
        return ServingClient(url, key, model, version=version)

    def add_consumer(self, name: str, environment: str = "production") -> NewConsumer:
        """Make a consumer and its key, which is shown once."""
        environment = self._check_environment(environment)
        self._ensure_gateway(environment)
        made = consumers.add(self.context, environment, check_name(name, "consumer name"))
        self.context.ensure_supervisor()
        consumers.wait_until_accepted(self.context, environment, made.key)
        return made

    def revoke_consumer(self, name: str, environment: str = "production") -> None:
        """Take a consumer's key away; requests with it are refused as soon as the gateway has the new plan."""
        consumers.revoke(self.context, self._check_environment(environment), name)
        self.context.ensure_supervisor()

    def consumers(self, environment: str = "production") -> list[ConsumerState]:
        """Return the consumers of an environment with what they have asked."""
        return consumers.listed(self.context, self._check_environment(environment))

    # -- routes of single versions, for retirement -------------------------------------------------------------

    def set_pinned(
        self, model: str, environment: str, pinned: PinnedRoute, *, replicas: int = 1, reason: str = ""
    ) -> Service:
        """Set who answers at a version's own address; versions that it needs are started."""
        service = self._service(model, environment)
        digests = {}
        for one in pinned.split:
            if self.context.store.maybe(Revision, revision_id(environment, model, one.version)) is None:
                digests[one.version] = self._resolve(f"{model}/{one.version}").package_digest
        changed = routes.set_pinned(self.context, service.id, pinned, digests, replicas=replicas, reason=reason)
        self._bring_up(environment)
        return changed

    def clear_pinned(self, model: str, environment: str, version: int, *, reason: str = "") -> Service:
        """Give a version its plain address back."""
        return routes.clear_pinned(self.context, self._service(model, environment).id, version, reason=reason)

    def settled(self, model: str, environment: str) -> bool:
        """Return whether the gateway answers by the service's present routes, pinned ones included."""
        from mlcycle_nb.deployment.rollout import is_settled

        return is_settled(self._service(model, environment), self.context.store.observed(Gateway, environment))

    def stop_version(self, model: str, environment: str, version: int, *, reason: str = "") -> None:
        """Stop a version's replicas, unless a route or the rank of stable needs them."""
        routes.stop_version(self.context, self._service(model, environment).id, version, reason=reason)

    def undeploy(self, model: str, environment: str, *, successor: str | None = None, reason: str = "") -> Service:
        """End a service: its address answers 410 and names the successor, and its replicas stop."""
        service = self._service(model, environment)
        running = self._running(service.id)
        if running is not None:
            raise held(running)
        return routes.undeploy(self.context, service.id, successor=successor, reason=reason)

    # -- parts -----------------------------------------------------------------------------------------------

    def _check_environment(self, environment: str) -> str:
        known = self.context.settings.deployment.environments
        if environment not in known:
            raise InvalidInput(
                "unknown environment",
                value=environment,
                where="--env",
                remedy=f"{did_you_mean(environment, known)}known: {', '.join(known)}",
            )
        return environment

    def _service(self, model: str, environment: str) -> Service:
        self._check_environment(environment)
        found = self.context.store.maybe(Service, service_id(environment, check_name(model, "model name")))
        if found is None:
            known = ", ".join(sorted(s.id for s in self.services())) or "none yet"
            raise NotFound(
                f"{model} is not deployed in {environment}", remedy=f"deployed: {known}; %deploy MODEL/VERSION"
            )
        return found

    def _resolve(self, reference: str) -> RegisteredVersion:
        parsed = ModelReference.parse(reference)
        if parsed.version is None and parsed.alias is None:
            raise InvalidInput(
                "a deployment needs MODEL/VERSION or MODEL@ALIAS", value=reference, remedy=f"such as {parsed.name}/1"
            )
        return self._development.get_version(str(parsed))

    def _refuse_retiring(self, version: RegisteredVersion) -> None:
        tags = getattr(version, "tags", {})
        if tags.get(RETIREMENT_TAG):  # an empty tag is one that was removed
            raise Refused(
                f"{version.name}/{version.version} is being retired, or is",
                where=f"retirement {tags[RETIREMENT_TAG]}",
                remedy="cancel the retirement, or deploy another version",
            )

    def _check_package(self, digest: str, reference: str) -> None:
        from mlcycle_nb.packages import PackageStore

        try:
            PackageStore(self.context.folder("packages")).open(digest)
        except NotFound as gone:
            raise NotFound(f"the package of {reference} is gone", value=digest) from gone

    def _pass_gates(self, version: RegisteredVersion, environment: str, *, force: bool, reason: str) -> str:
        """Return what was overridden by force; empty when the gates allow it."""
        if force and not reason.strip():
            raise InvalidInput("--force needs a reason, which is recorded", where="--reason", remedy='--reason "..."')
        if environment not in self.context.settings.deployment.gated:
            return ""
        reference = f"{version.name}/{version.version}"
        allowed, why = self._validation.is_valid_for(reference, environment)
        if allowed:
            return ""
        if not force:
            raise Refused(
                f"{reference} may not go to {environment}: {why}",
                remedy=f"%validate {reference}, or --force with --reason, which is recorded",
            )
        return why or "the gates did not pass"

    def _begin(self, wish: Wish) -> Handle[Rollout]:
        rollout = begin(self.context, wish)
        self._bring_up(wish.environment)
        return self.rollout(rollout.id)

    def _change(self, change: verbs.Change, rollout: str | None, environment: str, reason: str) -> Handle[Rollout]:
        record = verbs.find_rollout(self.context, rollout, environment)
        changed = verbs.change_rollout(self.context, record, change, reason)
        self.context.ensure_supervisor()
        return self.rollout(changed.id)

    def _follow_shadow(self, record: Rollout, reason: str) -> Handle[Rollout]:
        following.check_shadow(self.context, record)
        version = self._resolve(record.reference)
        self._pass_gates(version, record.environment, force=False, reason=reason)  # before the shadow is ended for it
        following.conclude(self.context, record, reason)
        return self.deploy_model(
            record.reference,
            record.environment,
            DeploymentStrategy.CANARY,
            reason=reason or f"follows the shadow {record.id}",
            supersede=not record.ended,
            runtime=record.runtime,
            **following.canary_options(record),
        )

    def _ensure_gateway(self, environment: str) -> None:
        if self.context.store.maybe(Gateway, environment) is None:
            with self.context.store.transaction(actor=self.context.actor) as transaction:
                declare_gateway(transaction, environment, self.context.clock.now())

    def _bring_up(self, environment: str, consumer: str = "notebook") -> None:
        self._ensure_gateway(environment)
        consumers.ensure(self.context, environment, check_name(consumer, "consumer name"))
        self.context.ensure_supervisor()

    def _running(self, service: str) -> Rollout | None:
        running = [one for one in self.context.store.find(Rollout, name=service) if not one.ended]
        return next((one for one in running if one.phase != "queued"), running[0] if running else None)
