"""A canary in virtual time: recorded requests go through the same state machine and the same analysis as real ones."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from mlcycle_nb.deployment import analysis
from mlcycle_nb.deployment.analysis import AnalysisState
from mlcycle_nb.deployment.judgement import Judgement
from mlcycle_nb.deployment.recorded import Recorded
from mlcycle_nb.deployment.records import WHOLE, Revision, Rollout, Service, Split, share
from mlcycle_nb.deployment.rollout import (
    Abort,
    Action,
    Complete,
    Finish,
    RolloutObservation,
    Route,
    Seen,
    Settle,
    Size,
    Take,
    holding,
    next_action,
)
from mlcycle_nb.notebook.html import badge, figure, heading, paragraph, table, text_table
from mlcycle_nb.serving.gateway import AccessRow

TICK = timedelta(seconds=1)
_VERDICTS = ("metric", "verdict", "estimate", "reason")
_EVENTS = ("after", "event")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Simulation:
    """What a rollout would have done.

    Attributes
    ----------
    outcome : str
        ``completed``, ``rolled_back``, or ``undecided`` when the recording ended first.
    requests, canary_requests : int
        Recorded requests until then, and those that the new version would have answered.
    seconds : float
        Recorded time until then.
    """

    record: Rollout
    judgement: Judgement
    outcome: str
    requests: int
    canary_requests: int
    recorded: int
    began: datetime
    seconds: float
    holds: str

    def __repr__(self) -> str:
        return "\n".join(
            [
                self._title(),
                *self._lines(),
                text_table(_VERDICTS, self._verdicts()),
                text_table(_EVENTS, self._events()),
            ]
        )

    def _repr_html_(self) -> str:
        lines = "".join(paragraph(line) for line in self._lines())
        verdicts = [(name, badge(outcome), *rest) for name, outcome, *rest in self._verdicts()]
        tables = table(_VERDICTS, verdicts, caption="analysis") + table(_EVENTS, self._events(), caption="events")
        return heading(self._title(), self.outcome) + lines + tables

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "reference": self.record.reference,
            "outcome": self.outcome,
            "reason": self.record.reason or self.holds,
            "requests": self.requests,
            "canary_requests": self.canary_requests,
            "recorded_requests": self.recorded,
            "seconds": self.seconds,
            "verdicts": [
                {"metric": m.name, "outcome": str(m.outcome), "mode": m.mode, "reason": m.reason}
                for m in self.judgement.metrics
            ],
            "steps": [
                {"seconds": (e.time - self.began).total_seconds(), "weight": e.weight / 100}
                for e in self.record.history
                if e.weight is not None
            ],
        }

    def _title(self) -> str:
        return f"simulated canary of {self.record.reference} in {self.record.environment}: {self.outcome}"

    def _lines(self) -> list[str]:
        lines = [
            f"after {self.requests} of {self.recorded} recorded requests, {self.canary_requests} of them to "
            f"{self.record.reference}, and {_time(self.seconds)} of recorded time"
        ]
        why = self.record.reason or (self.holds if self.outcome == "undecided" else "")
        return [*lines, f"reason: {why}"] if why else lines

    def _verdicts(self) -> list[tuple[Any, ...]]:
        return [
            (
                m.name if m.mode == "required" else f"{m.name} ({m.mode})",
                m.outcome,
                figure(m.estimate, low=m.low, high=m.high),
                m.reason,
            )
            for m in self.judgement.metrics
        ]

    def _events(self) -> list[tuple[str, str]]:
        return [(_time((e.time - self.began).total_seconds()), e.text) for e in self.record.history]


def simulate(record: Rollout, recorded: Recorded, *, classes: int) -> Simulation:
    """Run a canary over recorded requests.

    Parameters
    ----------
    record : Rollout
        As it would begin; its base and its target have answers in `recorded`.
    classes : int
        Classes of the target; 0 when it gives values.
    """
    world = _World(record, recorded, classes)
    world.run()
    ended = world.record.phase in ("completed", "rolled_back", "aborted")
    held = 0.0
    if world.record.in_force_since is not None:
        held = (world.now - world.record.in_force_since).total_seconds()
    return Simulation(
        record=world.record,
        judgement=world.judgement,
        outcome=world.record.phase if ended else "undecided",
        requests=world.sent,
        canary_requests=world.to_canary,
        recorded=len(world.starts),
        began=world.began,
        seconds=(world.now - world.began).total_seconds(),
        holds="" if ended else f"the recording ended: {holding(world.record, world.judgement, held)}",
    )


class _World:
    """Everything that a rollout sees, in virtual time."""

    def __init__(self, record: Rollout, recorded: Recorded, classes: int) -> None:
        self.recorded, self.classes = recorded, classes
        ids = np.array(recorded.ids)
        self.starts = np.flatnonzero(np.concatenate([[True], ids[1:] != ids[:-1]]))
        self.ends = np.concatenate([self.starts[1:], [len(ids)]])
        self.began = self.now = recorded.times[0]
        self.record = replace(record, created_at=self.now, phase_since=self.now, history=())
        self.split: Split = ()
        self.mirror: Split = ()
        self.state: AnalysisState | None = None
        self.judgement = Judgement()
        self.sent = self.to_canary = 0

    def run(self) -> None:
        while True:
            self._decide()
            if self.record.ended or self.sent == len(self.starts):
                return
            upcoming = self.recorded.times[self.starts[self.sent]]
            # Nothing happens between two requests but that times run out; a gap of hours is one or two turns.
            following = self.now + TICK
            if upcoming > following:
                following = min([upcoming, *(due for due in self._due() if due > self.now)])
            self.now = following
            self._send()

    def _due(self) -> list[datetime]:
        since, policy = self.record.in_force_since, self.record.policy
        if since is None:
            return []
        after = (policy.interval_seconds, policy.deadline_seconds)
        return [since + timedelta(seconds=seconds, milliseconds=1) for seconds in after]

    def _decide(self) -> None:
        while (action := next_action(self.record, self._observation(), self.now)) is not None:
            self._apply(action)

    def _observation(self) -> RolloutObservation:
        record = self.record
        service = Service(
            id=record.service_id, phase="serving", created_at=self.began, environment=record.environment,
            model=record.model, stable=record.base, split=self.split, mirror=self.mirror,
        )  # fmt: skip
        return RolloutObservation(
            service=service,
            target=self._seen(record.target, record.replicas),
            base=self._seen(record.base, record.base_replicas),
            settled=True,
            judgement=self.judgement,
        )

    def _seen(self, version: int | None, replicas: int) -> Seen:
        assert version is not None  # a simulation compares with a stable version
        revision = Revision(
            id=f"{self.record.service_id}/{version}", phase="ready", created_at=self.began, replicas=replicas,
            environment=self.record.environment, model=self.record.model, model_version=version, digest="",
        )  # fmt: skip
        return Seen(revision=revision, ready=replicas, reachable=replicas)

    def _apply(self, action: Action) -> None:
        record, now = self.record, self.now
        if isinstance(action, Route):
            self.split, self.mirror = action.split, action.mirror
            weight = share(action.split, record.target)
            self.record = record.moved(
                now, action.phase, action.text, weight=weight, step=action.step, in_force_since=None
            )
        elif isinstance(action, Settle):
            self.record = replace(record, in_force_since=now)
            if self.state is None:
                self.state = analysis.begin(self.record, "", now, classes=self.classes)
                self.judgement = analysis.judge(self.state, record.policy)
        elif isinstance(action, Abort):
            text = f"goes back: {action.reason}"
            self.record = record.moved(now, "aborting", text, reason=action.reason, ends_as=action.ends_as)
        elif isinstance(action, Complete):
            self.record = record.moved(now, "completed", f"{record.reference} is stable")
        elif isinstance(action, Finish):
            text = f"{record.model}/{record.base} serves as before"
            self.record = record.moved(now, record.ends_as or "aborted", text)
        else:
            assert isinstance(action, Take | Size)  # replicas are there, and nobody holds the service

    def _send(self) -> None:
        """Send the requests that came until now, and have them judged."""
        first, times = self.sent, self.recorded.times
        while self.sent < len(self.starts) and times[self.starts[self.sent]] <= self.now:
            self.sent += 1
        if self.state is None or first == self.sent:
            return
        rows: list[AccessRow] = []
        log: list[dict[str, Any]] = []
        for request in range(first, self.sent):
            self._answer(request, rows, log)
        self.to_canary += sum(row.version == self.record.target for row in rows)
        import pyarrow as pa

        self.state = analysis.add_requests(self.state, self.record, rows, "")
        predictions = pa.Table.from_pylist(log) if log else pa.table({})
        self.state = analysis.add_pairs(self.state, self.record, predictions, self.now)
        self.judgement = analysis.judge(self.state, self.record.policy)

    def _answer(self, request: int, rows: list[AccessRow], log: list[dict[str, Any]]) -> None:
        recorded, record = self.recorded, self.record
        start, end = int(self.starts[request]), int(self.ends[request])
        key = recorded.ids[start]
        drawn, copied = _draws(key)
        served = record.target if drawn < share(self.split, record.target) else record.base
        assert served is not None
        answers = {version: recorded.answers[version][start:end] for version in (record.base, record.target) if version}
        good = bool(np.isfinite(answers[served]).all())
        slower = recorded.slowness if served == record.target else 1.0
        rows.append(
            AccessRow(
                time=recorded.times[start], request_id=key, route="default", model=record.model, version=served,
                answered_by=served, requested_version=None, consumer="recorded", method="POST",
                path=f"/v2/models/{record.model}/infer", status=200 if good else 500, flags="",
                details="via_upstream", duration_ms=float(recorded.latencies_ms[start]) * slower, attempts=1,
            )
        )  # fmt: skip
        for version, given in answers.items():
            mirrored = version != served
            if mirrored and copied >= share(self.mirror, version):
                continue
            if not np.isfinite(given).all():
                continue  # a replica answers 500 and logs no prediction
            log.extend(
                {
                    "prediction_id": key,
                    "row": int(recorded.rows[start + offset]),
                    "version": version,
                    "mirrored": mirrored,
                    recorded.column: int(one) if recorded.column == "label" else float(one),
                }
                for offset, one in enumerate(given)
            )


def _draws(key: str) -> tuple[int, int]:
    """Return two numbers below 10,000 that depend on a request's id only, so that a simulation repeats exactly."""
    digest = hashlib.sha256(key.encode()).digest()
    return int.from_bytes(digest[:8], "big") % WHOLE, int.from_bytes(digest[8:16], "big") % WHOLE


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
