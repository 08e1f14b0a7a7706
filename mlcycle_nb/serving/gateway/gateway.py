"""One environment's gateway: brings a plan into force, and reads back what is in force.

A plan changes in an order in which every request finds its way: endpoints, then clusters (old and new together), then,
when the new ones are warm, the routes. Clusters that the new routes no longer name are emptied of requests, then point
to the model's remaining version, for an upload that began under the old routes; `tidy` removes them later.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mlcycle_nb.context import Context
from mlcycle_nb.errors import EngineError
from mlcycle_nb.references import check_name
from mlcycle_nb.serving.gateway.access_log import CURRENT, AccessLogReader, rotate
from mlcycle_nb.serving.gateway.admin import (
    Admin,
    ClusterCounts,
    ClusterState,
    mirrors_in_force,
    plan_in_force,
    weights_in_force,
)
from mlcycle_nb.serving.gateway.clusters import ClusterName, breakers, clusters, endpoints, sockets_of, stand_ins
from mlcycle_nb.serving.gateway.files import GatewayFiles, plan_label
from mlcycle_nb.serving.gateway.limits import GatewayLimits
from mlcycle_nb.serving.gateway.plan import GatewayPlan
from mlcycle_nb.serving.gateway.process import ADDRESS, START_SECONDS, EnvoyProcess
from mlcycle_nb.serving.gateway.routes import routes
from mlcycle_nb.supervisor.crash import crash_point

CHANGE_SECONDS = 15.0
LOG_BYTES = 67_108_864
LOGS_KEPT = 8


@dataclass(frozen=True, slots=True)
class Applied:
    """What `Gateway.apply` has reached.

    ``idle`` are the clusters without requests that the plan no longer has; ``busy`` still had some when the time to
    wait was over. Replicas that the plan no longer has may be stopped when `drained`.
    """

    plan: str
    idle: tuple[str, ...] = ()
    busy: tuple[str, ...] = ()

    @property
    def drained(self) -> bool:
        """Whether no request is left at anything that the plan no longer has."""
        return not self.busy


class Gateway:
    """The gateway of one environment.

    Parameters
    ----------
    context : Context
        The workspace.
    environment : str
        Such as ``production``.
    limits : GatewayLimits, optional
        By default those of the workspace's settings. Sizes and arrival times count from Envoy's next start.
    """

    def __init__(self, context: Context, environment: str, *, limits: GatewayLimits | None = None) -> None:
        self.environment = check_name(environment, "environment name")
        self.limits = limits or GatewayLimits.from_settings(context.settings)
        self.files = GatewayFiles(context.folder("gateway", environment))
        self.process = EnvoyProcess(context, environment, self.files, self.limits)
        self.access_log = AccessLogReader(self.files.folder)

    @property
    def url(self) -> str:
        """Address of the gateway.

        Raises
        ------
        EngineError
            When it was never started.
        """
        return f"http://{ADDRESS}:{self.process.known_port()}"

    @property
    def admin(self) -> Admin:
        """Envoy's admin interface."""
        return self.process.admin

    def ensure(self) -> None:
        """Have Envoy run: adopt the living one, or start it with the last files. Cheap when it runs."""
        if self.process.alive():
            return
        with self.files.locked():
            if self.process.alive():
                return
            known = self.process.port()
            port = known or self.process.choose_port()
            if known is None or not self.files.routes_file.exists():
                # Routes answer for one port only. Refuse all until a plan is applied.
                empty = GatewayPlan(fence=0, generation=0)
                self.files.write_clusters({}, "0.0")
                self.files.write_routes(routes(empty, self.limits, port), "0.0")
            self.process.start(port)

    def maintain(self) -> None:
        """Do what has to be done now and then: keep Envoy running, drop what nobody needs, rotate the log."""
        self.ensure()
        self.tidy()
        self.rotate_access_log()

    def apply(self, plan: GatewayPlan, *, drain_seconds: float = 10.0) -> Applied:
        """Bring `plan` into force; returns when Envoy routes by it. Applying the same plan again is harmless.

        Parameters
        ----------
        plan : GatewayPlan
            The whole of what the gateway should do.
        drain_seconds : float
            Longest wait for requests at versions that the plan no longer has.

        Raises
        ------
        Conflict
            When a newer leader or a newer plan was here.
        EngineError
            When Envoy does not take it; the last plan then stays in force.
        """
        self.ensure()
        wanted, assignments = clusters(plan, self.limits, self.files.folder), endpoints(plan)
        label = plan_label(plan.fence, plan.generation)
        with self.files.locked():
            self.files.claim(plan, wanted)
            crash_point("gateway.after_claim")
            self.files.write_endpoints(assignments, label)
            crash_point("gateway.after_endpoints")
            self.files.write_clusters({**self.files.clusters(), **wanted}, label)
            crash_point("gateway.after_clusters")
            expected = {str(name): sockets_of(assignment) for name, assignment in assignments.items()}
            self.process.wait_until(lambda: self._warm(expected), CHANGE_SECONDS, "new replicas are not taken up")
            self._check_breakers(expected)
            table = routes(plan, self.limits, self.process.known_port())
            rejected = self.admin.rejected_routes()
            self.files.write_routes(table, label)
            crash_point("gateway.after_routes")
            self.process.wait_until(
                lambda: self._routed(label, rejected), CHANGE_SECONDS, "the routes are not taken up"
            )
            leaving = sorted(self.files.clusters().keys() - wanted.keys())
        return self._retire(plan, label, leaving, drain_seconds)

    def in_force(self) -> dict[str, dict[int, int]]:
        """Return model -> version -> weight, as Envoy has it."""
        return weights_in_force(self.admin.route_table())

    def mirrors(self) -> dict[str, dict[int, int]]:
        """Return model -> version -> weight of the copies, as Envoy has it."""
        return mirrors_in_force(self.admin.route_table())

    def plan_in_force(self) -> str:
        """Return ``fence.generation`` of the plan that Envoy routes by."""
        return plan_in_force(self.admin.route_table())

    def counts(self) -> dict[str, ClusterCounts]:
        """Return Envoy's counters by cluster, since Envoy started."""
        return self.admin.counts()

    def replicas(self) -> dict[str, ClusterState]:
        """Return the clusters with their replicas, and which of these get requests."""
        return self.admin.clusters()

    def healthy(self, model: str, version: int) -> int:
        """Return how many replicas of a version get requests."""
        state = self.admin.clusters().get(str(ClusterName(model, version)))
        return 0 if state is None else sum(state.sockets.values())

    def rotate_access_log(self, *, max_bytes: int = LOG_BYTES, keep: int = LOGS_KEPT) -> bool:
        """Begin a new access log when the current one is over `max_bytes`."""
        with self.files.locked():
            if not rotate(self.files.folder, max_bytes=max_bytes, keep=keep):
                return False
            self.admin.reopen_logs()
            fresh = self.files.folder / CURRENT
            self.process.wait_until(fresh.exists, START_SECONDS, "the access log is not begun anew")
        return True

    def tidy(self, *, after_seconds: float | None = None) -> tuple[str, ...]:
        """Remove clusters that no plan has had for `after_seconds`; by default the time an upload may take."""
        limit = self.limits.body_seconds if after_seconds is None else after_seconds
        with self.files.locked():
            present, kept = self.files.clusters(), set(self.files.committed().clusters)
            gone = sorted(present.keys() - kept)
            if not gone or self.files.seconds_since_routes() < limit or self.admin.active_requests(gone):
                return ()
            self.files.write_clusters({name: present[name] for name in present if name in kept}, self._label())
            self.process.wait_until(
                lambda: not self.admin.clusters().keys() & set(gone), CHANGE_SECONDS, "old versions are not let go"
            )
            for name in gone:
                self.files.remove_endpoints(ClusterName.parse(name))
        return tuple(gone)

    def stop(self) -> None:
        """Stop Envoy. Its files stay, so that a later `ensure` brings back the same address and weights."""
        with self.files.locked():
            self.process.stop()

    def _label(self) -> str:
        return self.files.committed().label

    def _warm(self, expected: dict[str, set[str]]) -> bool:
        present = self.admin.clusters()
        return all(name in present and set(present[name].sockets) == expected[name] for name in expected)

    def _routed(self, label: str, rejected_before: int) -> bool:
        if self.plan_in_force() == label:
            return True
        if self.admin.rejected_routes() > rejected_before:
            raise EngineError("Envoy refused the routes", where=self.process.last_words())
        return False

    def _check_breakers(self, names: dict[str, Any]) -> None:
        wanted = breakers(self.limits)
        for name, state in self.admin.clusters().items():
            if name not in names:
                continue
            for limit in ("max_retries", "max_requests", "max_connections", "max_pending_requests"):
                if getattr(state, limit) != wanted[limit]:
                    raise EngineError(f"Envoy has {limit} {getattr(state, limit)}, not {wanted[limit]}", where=name)

    def _retire(self, plan: GatewayPlan, label: str, leaving: list[str], drain_seconds: float) -> Applied:
        if not leaving:
            return Applied(label)
        try:
            self.process.wait_until(
                lambda: not self.admin.active_requests(leaving), drain_seconds, "requests at old versions go on"
            )
        except EngineError:
            if not self.process.alive():
                raise
            busy = tuple(name for name in leaving if self.admin.active_requests([name]))
        else:
            busy = ()
        crash_point("gateway.after_drain")
        idle = tuple(name for name in leaving if name not in busy)
        with self.files.locked():
            if self.files.committed().label == label:  # else a newer plan has its own idea of these clusters
                self.files.write_endpoints(stand_ins(plan, idle), label)
        return Applied(label, idle, busy)
