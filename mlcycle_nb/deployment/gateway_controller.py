"""Keeps each environment's gateway running and at what the records declare, and reads back what it does."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal

from mlcycle_nb.context import Context
from mlcycle_nb.deployment.intake import IntakeWatch
from mlcycle_nb.deployment.keys import ConsumerKeys, key_digest
from mlcycle_nb.deployment.log_care import LogCare
from mlcycle_nb.deployment.plan import make_plan
from mlcycle_nb.deployment.records import Consumer, Gateway, Revision, Service
from mlcycle_nb.deployment.sockets import intake_socket
from mlcycle_nb.deployment.traffic import POINTS_KEPT, add_callers, traffic_points
from mlcycle_nb.errors import EngineError, InvalidInput
from mlcycle_nb.serving import gateway as envoy
from mlcycle_nb.serving.gateway import GatewayPlan
from mlcycle_nb.serving.gateway.admin import mirrors_in_force, plan_in_force, weights_in_force
from mlcycle_nb.store import Record
from mlcycle_nb.supervisor.crash import crash_point

TAIL_SECONDS = 1.0
LOOK_SECONDS = 0.4
MAINTAIN_SECONDS = 5.0
PRUNE_SECONDS = 60.0
DRAIN_TURN_SECONDS = 1.0
DRAIN_LIMIT_SECONDS = 60.0

Action = Literal["start", "apply", "intake", "maintain"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayObservation:
    """The gateway as it is, beside what it should be."""

    alive: bool
    plan: GatewayPlan | None
    generations: dict[str, int]
    applied: bool  # this leader's plan is in force, as Envoy says
    drained: bool
    maintenance_due: bool = False
    intake_missing: bool = False  # nobody takes labels, and it is time to start somebody


@dataclass(slots=True)
class _Memory:
    """What the controller remembers of one environment; all of it can be read again."""

    gateway: envoy.Gateway
    intake: IntakeWatch
    seen: dict[str, Any]
    tailed_at: float = 0.0
    looked_at: float = 0.0
    maintained_at: float = field(default_factory=time.monotonic)
    pruned_at: float = field(default_factory=time.monotonic)
    busy_since: float | None = None


def next_action(record: Gateway, seen: GatewayObservation, now: datetime) -> Action | None:
    """Return what a gateway needs: to run, then somebody who takes labels, then its plan, then upkeep."""
    if not seen.alive:
        return "start"
    if seen.intake_missing:  # first: a long drain would have labels wait, and this is asked for once a second at most
        return "intake"
    if seen.plan is not None and not (seen.applied and seen.drained):
        return "apply"
    return "maintain" if seen.maintenance_due else None


class GatewayController:
    """Runs one Envoy for each environment."""

    record_type: type[Record] = Gateway

    def __init__(self, context: Context) -> None:
        self._context = context
        self._memories: dict[str, _Memory] = {}
        self._log_care = LogCare(context)

    def next_action(self, record: Gateway, observation: GatewayObservation, now: datetime) -> Action | None:
        """See `next_action` of this module."""
        return next_action(record, observation, now)

    def observe(self, record: Gateway) -> GatewayObservation:
        """Read Envoy and the records; count what the access log has got meanwhile."""
        memory = self._memory(record.id)
        alive = memory.gateway.process.alive()
        plan, generations = self._plan(record.id, memory)
        now = time.monotonic()
        applied = False
        if alive and plan is not None:
            if now - memory.tailed_at >= TAIL_SECONDS:
                self._tail(record.id, memory, now)
            committed = memory.gateway.files.committed()
            current = (self._fence(), plan.digest(), committed.generation)
            applied = current == (committed.fence, committed.digest, plan.generation)
            applied = applied and memory.seen.get("label") == committed.label
            if now - memory.looked_at >= LOOK_SECONDS:
                memory.looked_at = now
                self._look(record.id, memory, generations if applied else None)
        if not alive:
            self._remember(record.id, memory, alive=False)
        return GatewayObservation(
            alive=alive,
            plan=plan,
            generations=generations,
            applied=applied,
            drained=memory.busy_since is None,
            maintenance_due=now - memory.maintained_at >= MAINTAIN_SECONDS,
            intake_missing=plan is not None and bool(plan.services) and memory.intake.missing(),
        )

    def act(self, action: Action, record: Gateway, observation: GatewayObservation) -> None:
        """Start, apply or maintain; each is harmless when repeated."""
        memory = self._memory(record.id)
        if action == "start":
            memory.gateway.ensure()
            starts = int(memory.seen.get("starts", 0)) + 1
            self._remember(record.id, memory, alive=True, url=memory.gateway.url, starts=starts, label="")
        elif action == "apply":
            assert observation.plan is not None  # next_action asks for it
            self._apply(record.id, memory, observation.plan, observation.generations)
        elif action == "intake":
            memory.intake.start()
        else:
            memory.maintained_at = time.monotonic()
            memory.gateway.maintain()
            self._log_care.turn(record.id)

    # -- parts -----------------------------------------------------------------------------------------------

    def _memory(self, environment: str) -> _Memory:
        memory = self._memories.get(environment)
        if memory is None:
            seen = self._context.store.observed(Gateway, environment)
            # What an earlier leader saw in force is not what this one has applied.
            gateway, intake = envoy.Gateway(self._context, environment), IntakeWatch(self._context, environment)
            memory = _Memory(gateway, intake, {**seen, "label": ""})
            self._memories[environment] = memory
        return memory

    def _fence(self) -> int:
        return self._context.store.fence or 0

    def _plan(self, environment: str, memory: _Memory) -> tuple[GatewayPlan | None, dict[str, int]]:
        store = self._context.store
        services = [s for s in store.find(Service) if s.environment == environment]
        try:
            plan = make_plan(
                self._context.home,
                services,
                [r for r in store.find(Revision, phase="ready") if r.environment == environment],
                [c for c in store.find(Consumer, phase="active") if c.environment == environment],
                ConsumerKeys(memory.gateway.files.folder).read(),
                fence=self._fence(),
                intake=str(intake_socket(self._context.home, environment)) if services else "",
            )
        except InvalidInput as impossible:
            # The last plan stays in force; Envoy is still looked after.
            self._remember(environment, memory, problem=str(impossible))
            return None, {}
        if memory.seen.get("problem"):
            self._remember(environment, memory, problem="")
        committed = memory.gateway.files.committed()
        generation = committed.generation + (committed.digest != plan.digest())
        return replace(plan, generation=generation), {service.model: service.generation for service in services}

    def _apply(self, environment: str, memory: _Memory, plan: GatewayPlan, generations: dict[str, int]) -> None:
        crash_point("gateway.before_apply")
        applied = memory.gateway.apply(plan, drain_seconds=DRAIN_TURN_SECONDS)
        now = time.monotonic()
        if applied.drained:
            memory.busy_since = None
        else:
            memory.busy_since = memory.busy_since or now
            if now - memory.busy_since > DRAIN_LIMIT_SECONDS:
                memory.busy_since = None
        crash_point("gateway.after_apply")
        memory.looked_at = now
        # What left the plan has no requests any more once this is stored: its replicas may stop.
        self._remember(
            environment,
            memory,
            label=applied.plan,
            applied_by=self._context.store.fence,
            sockets=sorted(socket for cluster in plan.clusters for socket in cluster.sockets),
            drained=memory.busy_since is None,
            keys=sorted(f"{name}:{key_digest(key)}" for name, key in plan.consumers.items()),
        )
        self._look(environment, memory, generations)

    def _look(self, environment: str, memory: _Memory, generations: dict[str, int] | None) -> None:
        """Read back what is in force: never assumed, always what Envoy says."""
        gateway = memory.gateway
        try:
            table = gateway.admin.route_table()
            weights, mirrors = weights_in_force(table), mirrors_in_force(table)
            in_force = plan_in_force(table)
            reachable = {
                name: sum(state.sockets.values()) for name, state in gateway.replicas().items() if "~" not in name
            }
        except EngineError:
            return  # the next turn finds out whether it lives
        if in_force != memory.seen.get("label") and generations is not None:
            self._remember(environment, memory, label="")  # somebody changed it behind our back: apply again
            return
        seen: dict[str, Any] = {
            "alive": True,
            "url": gateway.url,
            "weights": {m: {str(v): w for v, w in one.items()} for m, one in weights.items()},
            "mirrors": {m: {str(v): w for v, w in one.items()} for m, one in mirrors.items()},
            "reachable": reachable,
        }
        if generations is not None:
            seen["generations"] = generations
        self._remember(environment, memory, **seen)

    def _remember(self, environment: str, memory: _Memory, **seen: Any) -> None:
        # What an earlier leader saw may be long past: readers compare the fence.
        seen["fence"] = self._context.store.fence
        changed = {key: value for key, value in seen.items() if memory.seen.get(key) != value}
        memory.seen.update(seen)
        if changed:
            self._context.store.observe(Gateway, environment, **changed)

    def _tail(self, environment: str, memory: _Memory, now: float) -> None:
        tail = memory.seen.get("tail") or {"position": None, "callers": {}}
        batch = memory.gateway.access_log.read(tail["position"])
        seconds = min(now - memory.tailed_at, 60.0) if memory.tailed_at else TAIL_SECONDS
        memory.tailed_at = now
        if batch.position == tail["position"]:
            return
        shift = self._context.clock.now() - datetime.now(UTC)
        callers = add_callers(tail["callers"], batch.rows, shift)
        # The position goes first: after a crash here a second of the series is missing, and nothing counts twice.
        self._remember(environment, memory, tail={"position": batch.position, "callers": callers})
        store = self._context.store
        for model, points in traffic_points(batch.rows, seconds, shift).items():
            store.add_measurements(f"service:{environment}/{model}", points)
            if now - memory.pruned_at > PRUNE_SECONDS:
                store.prune_measurements(f"service:{environment}/{model}", keep=POINTS_KEPT)
        if now - memory.pruned_at > PRUNE_SECONDS:
            memory.pruned_at = now
