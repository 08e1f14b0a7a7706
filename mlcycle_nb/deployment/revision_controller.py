"""Keeps the replicas of each revision alive, and lets them go only once no request can reach them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from mlcycle_nb.context import Context
from mlcycle_nb.deployment.records import Gateway, Revision, Rollout, Service, service_id
from mlcycle_nb.deployment.replicas import CRASHES_TOLERATED, SILENT_CHECKS, Replica, ReplicaMemory
from mlcycle_nb.deployment.resources import Resources
from mlcycle_nb.deployment.rollout import CLOCK_SLACK
from mlcycle_nb.deployment.traffic import read_callers
from mlcycle_nb.store import Record
from mlcycle_nb.supervisor.crash import crash_point


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaSeen:
    """One replica as it is."""

    index: int
    alive: bool = False
    ready: bool = False
    routed: bool = False  # the gateway's plan in force still has its socket
    stuck: bool = False  # alive, and silent for several checks
    may_start: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionObservation:
    """All replicas of a revision, and who needs it."""

    replicas: tuple[ReplicaSeen, ...] = ()
    gateway_drained: bool = True
    in_use: bool = False  # a route, the rank of stable or a rollout needs it
    last_pinned: datetime | None = None  # somebody asked its own address


@dataclass(frozen=True, slots=True)
class Start:
    """Start one replica."""

    index: int


@dataclass(frozen=True, slots=True)
class Stop:
    """End one replica; `gently` lets it answer what it has."""

    index: int
    gently: bool = True


@dataclass(frozen=True, slots=True)
class Move:
    """The revision gets another phase, or another time to drain."""

    phase: str
    drain_at: datetime | None = None


Action = Start | Stop | Move


def next_action(record: Revision, seen: RevisionObservation, now: datetime) -> Action | None:
    """Return what a revision needs next."""
    wanted = record.replicas if record.phase in ("starting", "ready") else 0
    for one in seen.replicas:
        if one.alive and one.stuck:
            # Also one that leaves: what hangs in it is sent to another replica at its end, and not before.
            return Stop(one.index, gently=False)
        if one.index < wanted:
            if not one.alive and one.may_start:
                return Start(one.index)
        elif one.alive and not one.routed and seen.gateway_drained:
            return Stop(one.index)
    if record.phase == "starting" and sum(one.ready for one in seen.replicas[:wanted]) == wanted:
        return Move("ready")
    if record.phase == "ready" and record.drain_at is not None:
        if now >= record.drain_at:
            return _leave(record, seen, now)
        if record.drain_at - now > _warm(record) + CLOCK_SLACK:
            return Move("ready", now + _warm(record))  # the clock was set back since
    if record.phase == "draining" and not any(one.alive for one in seen.replicas):
        return Move("stopped")
    return None


def _leave(record: Revision, seen: RevisionObservation, now: datetime) -> Move:
    if seen.in_use:
        return Move("ready")
    warm = _warm(record)
    # Nobody called in times to come: that was before the clock was set back.
    if seen.last_pinned is not None and now - warm < seen.last_pinned <= now + CLOCK_SLACK:
        return Move("ready", seen.last_pinned + warm)
    return Move("draining")


def _warm(record: Revision) -> timedelta:
    return timedelta(seconds=max(record.warm_seconds, 1.0))


@dataclass(slots=True)
class _Memory:
    attempt: int
    replicas: dict[int, ReplicaMemory] = field(default_factory=dict)
    noted: dict[str, object] = field(default_factory=dict)


class RevisionController:
    """Starts, watches and stops replicas."""

    record_type: type[Record] = Revision

    def __init__(self, context: Context) -> None:
        self._context = context
        self._memories: dict[str, _Memory] = {}
        self._resources = Resources(context)

    def next_action(self, record: Revision, observation: RevisionObservation, now: datetime) -> Action | None:
        """See `next_action` of this module."""
        return next_action(record, observation, now)

    def observe(self, record: Revision) -> RevisionObservation:
        """Look at each process, and at what the gateway still sends where."""
        memory = self._memory(record)
        known = max([record.replicas, *(index + 1 for index in memory.replicas)])
        gateway = self._context.store.observed(Gateway, record.environment)
        routed = set(gateway.get("sockets", ()))
        # Until this leader has applied a plan, nobody knows which sockets still get requests.
        known_routes = not gateway or gateway.get("applied_by") == self._context.store.fence
        seen = []
        for index in range(known):
            replica = self._replica(record, memory, index)
            replica.look()
            state = replica.memory
            seen.append(
                ReplicaSeen(
                    index=index,
                    alive=state.identity is not None,
                    ready=state.ready,
                    routed=str(replica.socket) in routed,
                    stuck=state.silent >= SILENT_CHECKS,
                    may_start=replica.may_start(),
                )
            )
        self._note(record, memory)
        self._resources.sample(record, [one.identity for one in memory.replicas.values() if one.identity is not None])
        leaving = record.phase == "ready" and record.drain_at is not None
        return RevisionObservation(
            replicas=tuple(seen),
            gateway_drained=known_routes and bool(gateway.get("drained", True)),
            in_use=leaving and self._in_use(record),
            last_pinned=self._last_pinned(record, gateway) if leaving else None,
        )

    def act(self, action: Action, record: Revision, observation: RevisionObservation) -> None:
        """Do one thing to one replica, or move the record on."""
        if isinstance(action, Move):
            self._move(action, record)
            return
        replica = self._replica(record, self._memory(record), action.index)
        if isinstance(action, Start):
            crash_point("revision.before_spawn")
            replica.start()
            crash_point("revision.after_spawn")
        elif action.gently:
            replica.stop()
            crash_point("revision.after_stop")
        else:
            replica.memory.crashes += 1
            replica.memory.restarts += 1
            replica.stop(grace_seconds=0.5)

    # -- parts -----------------------------------------------------------------------------------------------

    def _memory(self, record: Revision) -> _Memory:
        memory = self._memories.get(record.id)
        if memory is None or memory.attempt != record.attempt:
            # A new attempt forgets old failures, not the processes: their names say which they are.
            memory = self._memories[record.id] = _Memory(record.attempt)
            for name in self._context.processes.names(_prefix(record)):
                memory.replicas[int(name.rpartition(".")[2])] = ReplicaMemory()
        return memory

    def _replica(self, record: Revision, memory: _Memory, index: int) -> Replica:
        return Replica(self._context, record, index, memory.replicas.setdefault(index, ReplicaMemory()))

    def _move(self, action: Move, record: Revision) -> None:
        with self._context.store.transaction(actor=self._context.actor) as transaction:
            if action.phase == "draining":
                service = transaction.maybe(Service, service_id(record.environment, record.model))
                if service is not None and service.uses(record.model_version):
                    return  # somebody sent requests here since we looked
            moved = replace(record, phase=action.phase, drain_at=action.drain_at)
            if action.phase == "ready" and record.phase == "starting":
                moved = replace(moved, drain_at=record.drain_at)
            transaction.update(moved, event=f"revision.{action.phase}")
        crash_point(f"revision.after_{action.phase}")

    def _in_use(self, record: Revision) -> bool:
        store, service = self._context.store, service_id(record.environment, record.model)
        found = store.maybe(Service, service)
        if found is not None and found.uses(record.model_version):
            return True
        rollouts = [r for r in store.find(Rollout, name=service, active=True) if not r.ended]
        return any(record.model_version in (r.target, r.base) for r in rollouts)

    def _last_pinned(self, record: Revision, gateway: dict[str, object]) -> datetime | None:
        tail = gateway.get("tail")
        table = tail.get("callers", {}) if isinstance(tail, dict) else {}
        callers = read_callers(table, record.model, record.model_version)
        return max((caller.last_pinned for caller in callers if caller.last_pinned is not None), default=None)

    def _note(self, record: Revision, memory: _Memory) -> None:
        states = [memory.replicas[index] for index in sorted(memory.replicas)]
        troubled = [
            (index, state)
            for index, state in sorted(memory.replicas.items())
            if state.refused or (state.crashes >= CRASHES_TOLERATED and not state.ready)
        ]
        problem = ""
        if troubled:
            index, state = troubled[0]
            words = state.refused or self._replica(record, memory, index).last_words()
            problem = f"replica {index} of {record.model}/{record.model_version}: {words or 'it ends without a word'}"
        noted: dict[str, object] = {
            "fence": self._context.store.fence,
            "attempt": record.attempt,
            "ready": sum(state.ready for state in states[: record.replicas]),
            "restarts": sum(state.restarts for state in states),
            "problem": problem,
            "pids": [state.identity.pid for state in states if state.identity is not None],
        }
        if noted != memory.noted:
            self._context.store.observe(Revision, record.id, **noted)
            memory.noted = noted


def _prefix(record: Revision) -> str:
    return f"replica-{record.environment}.{record.model}.{record.model_version}."
