"""How a deployment is: what was planned, what is in force, and who runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from mlcycle_nb.context import Context
from mlcycle_nb.deployment.records import Gateway, Revision, Rollout, Service, share
from mlcycle_nb.notebook.html import badge, figure, heading, paragraph, table, text_table

RECENT = timedelta(minutes=1)
_REVISIONS = ("version", "phase", "ready", "restarts", "planned", "in force", "requests", "errors", "p95 ms")


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionStatus:
    """One version's replicas and its share."""

    version: int
    phase: str
    ready: int
    replicas: int
    restarts: int
    planned: float  # percent
    in_force: float | None  # percent, as the gateway says; None when it does not answer
    requests: int
    errors: int
    p95_ms: float | None
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class DeploymentStatus:
    """The state of one model in one environment; counts are of the last minute."""

    model: str
    environment: str
    phase: str
    url: str
    stable: int | None
    rollback_target: int | None
    gateway: str  # running, or what is wrong
    revisions: tuple[RevisionStatus, ...]
    rollout: str = ""
    rollout_phase: str = ""

    def __repr__(self) -> str:
        return "\n".join([self._title(), *self._lines(), text_table(_REVISIONS, self._rows())])

    def _repr_html_(self) -> str:
        lines = "".join(paragraph(line) for line in self._lines())
        return heading(self._title(), self.phase) + lines + table(_REVISIONS, self._rows(badge))

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        tree = {name: getattr(self, name) for name in self.__slots__ if name != "revisions"}
        tree["revisions"] = [{name: getattr(r, name) for name in r.__slots__} for r in self.revisions]
        return tree

    def _title(self) -> str:
        stable = "no version is stable" if self.stable is None else f"{self.model}/{self.stable} is stable"
        return f"{self.model} in {self.environment}: {stable}"

    def _lines(self) -> list[str]:
        lines = [f"gateway: {self.gateway}{f' at {self.url}' if self.url else ''}"]
        if self.rollout:
            lines.append(f"rollout {self.rollout}: {self.rollout_phase}")
        if self.rollback_target is not None:
            lines.append(f"a rollback goes to {self.model}/{self.rollback_target}")
        return lines + [f"version {r.version}: {r.problem}" for r in self.revisions if r.problem]

    def _rows(self, shown: Any = str) -> list[tuple[Any, ...]]:
        return [
            (
                r.version,
                shown(r.phase),
                f"{r.ready}/{r.replicas}",
                r.restarts,
                f"{r.planned:g}%",
                "n/a" if r.in_force is None else f"{r.in_force:g}%",
                r.requests,
                r.errors,
                figure(r.p95_ms),
            )
            for r in self.revisions
        ]


def read_status(context: Context, service: Service) -> DeploymentStatus:
    """Read the status of one service."""
    store, model, environment = context.store, service.model, service.environment
    gateway = store.observed(Gateway, environment)
    weights = gateway.get("weights", {}).get(model, {}) if gateway.get("alive") else None
    points = store.measurements(f"service:{service.id}", kind="traffic", since=context.clock.now() - RECENT)
    revisions = [r for r in store.find(Revision, name=model) if r.environment == environment]
    rollouts = store.find(Rollout, name=service.id, limit=1)
    trouble = gateway.get("problem") or gateway.get("error") or ""
    return DeploymentStatus(
        model=model,
        environment=environment,
        phase=service.phase,
        url=str(gateway.get("url", "")),
        stable=service.stable,
        rollback_target=service.rollback_target,
        gateway=trouble or ("running" if gateway.get("alive") else "not running"),
        revisions=tuple(
            _revision(
                revision,
                store.observed(Revision, revision.id) if revision.active else {},
                planned=share(service.split, revision.model_version) / 100,
                in_force=None if weights is None else int(weights.get(str(revision.model_version), 0)) / 100,
                points=[point for point in points if point["version"] == revision.model_version],
            )
            for revision in sorted(revisions, key=lambda revision: revision.model_version)
        ),
        rollout=rollouts[0].id if rollouts else "",
        rollout_phase=rollouts[0].place if rollouts else "",
    )


def _revision(
    revision: Revision,
    seen: Mapping[str, Any],
    *,
    planned: float,
    in_force: float | None,
    points: Sequence[Mapping[str, Any]],
) -> RevisionStatus:
    return RevisionStatus(
        version=revision.model_version,
        phase=revision.phase,
        ready=int(seen.get("ready", 0)),
        replicas=revision.replicas if revision.active else 0,
        restarts=int(seen.get("restarts", 0)),
        planned=planned,
        in_force=in_force,
        requests=sum(int(point["requests"]) for point in points),
        errors=sum(int(point["errors"]) for point in points),
        p95_ms=max((point["p95_ms"] for point in points if point["p95_ms"] is not None), default=None),
        problem=str(seen.get("problem", "")),
    )
