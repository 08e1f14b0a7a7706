"""The files that Envoy watches, and the rule about who may write them.

Every write is staged, synced and renamed, so Envoy and a crash see the old file or the new one. ``committed.json``
holds the highest fence and generation that were accepted; a leader who has lost the lease is refused here, at the
gateway, whatever it believes. Check and record happen under one file lock.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mlcycle_nb.errors import Conflict, IntegrityError
from mlcycle_nb.files import write_atomically
from mlcycle_nb.serving.gateway.clusters import CLUSTER_TYPE, ENDPOINT_TYPE, ClusterName, endpoints_file
from mlcycle_nb.serving.gateway.plan import GatewayPlan
from mlcycle_nb.serving.gateway.routes import ROUTES_TYPE


@dataclass(frozen=True, slots=True)
class Committed:
    """The last plan that was accepted."""

    fence: int = 0
    generation: int = 0
    digest: str = ""
    clusters: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """How the plan is called in Envoy."""
        return plan_label(self.fence, self.generation)


def plan_label(fence: int, generation: int) -> str:
    """Return ``fence.generation``."""
    return f"{fence}.{generation}"


class GatewayFiles:
    """The folder of one gateway."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clusters_file = folder / "clusters.json"
        self.routes_file = folder / "routes.json"
        self.bootstrap_file = folder / "bootstrap.json"
        self.port_file = folder / "port"
        self.committed_file = folder / "committed.json"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder's lock; it goes with the process that holds it."""
        descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def committed(self) -> Committed:
        """Return the last accepted plan's numbers; zeros before the first."""
        try:
            stored = json.loads(self.committed_file.read_text())
            return Committed(
                int(stored["fence"]), int(stored["generation"]), str(stored["digest"]), tuple(stored["clusters"])
            )
        except FileNotFoundError:
            return Committed()
        except (ValueError, KeyError, TypeError) as failure:
            raise IntegrityError(
                "the gateway's record of the last plan cannot be read",
                where=str(self.committed_file),
                remedy="stop the gateway, remove the file, and let the supervisor apply the plan again",
            ) from failure

    def claim(self, plan: GatewayPlan, clusters: Iterable[str]) -> None:
        """Record that `plan` is being applied, or refuse it; call with the lock held.

        Raises
        ------
        Conflict
            When the fence or the generation is lower than an accepted one, or the generation was used for another plan.
        """
        last, digest = self.committed(), plan.digest()
        if plan.fence < last.fence:
            raise Conflict(
                f"a newer leader (fence {last.fence}) has taken over this gateway",
                value=plan.fence,
                where="gateway fence",
                remedy="stop this supervisor; the other one goes on",
            )
        if plan.generation < last.generation:
            raise Conflict(
                f"the gateway already has generation {last.generation}",
                value=plan.generation,
                where="gateway generation",
                remedy="read the current state and plan again",
            )
        if plan.generation == last.generation and last.digest and digest != last.digest:
            raise Conflict(
                f"generation {last.generation} was another plan",
                value=plan.generation,
                where="gateway generation",
                remedy="give the changed plan the next generation",
            )
        accepted = Committed(plan.fence, plan.generation, digest, tuple(clusters))
        write_atomically(self.committed_file, json.dumps(asdict(accepted)))

    def clusters(self) -> dict[str, dict[str, Any]]:
        """Return the clusters in the file, by name."""
        try:
            resources = json.loads(self.clusters_file.read_text())["resources"]
        except FileNotFoundError:
            return {}
        return {resource["name"]: resource for resource in resources}

    def write_endpoints(self, assignments: dict[ClusterName, dict[str, Any]], label: str) -> None:
        """Write each cluster's endpoints."""
        for name, assignment in assignments.items():
            self._write(endpoints_file(self.folder, name), ENDPOINT_TYPE, [assignment], label)

    def write_clusters(self, clusters: dict[str, dict[str, Any]], label: str) -> None:
        """Write the clusters; each one's endpoints are written already."""
        self._write(self.clusters_file, CLUSTER_TYPE, [clusters[name] for name in sorted(clusters)], label)

    def write_routes(self, routes: list[dict[str, Any]], label: str) -> None:
        """Write the routes; every cluster that they name is written already."""
        self._write(self.routes_file, ROUTES_TYPE, routes, label)

    def remove_endpoints(self, name: ClusterName) -> None:
        """Forget the endpoints of a cluster that is gone."""
        endpoints_file(self.folder, name).unlink(missing_ok=True)

    def seconds_since_routes(self) -> float:
        """Return how long ago the routes were written."""
        return max(0.0, time.time() - self.routes_file.stat().st_mtime)

    def _write(self, path: Path, type_url: str, resources: list[dict[str, Any]], label: str) -> None:
        response = {"version_info": label, "type_url": type_url, "resources": resources}
        write_atomically(path, json.dumps(response))
