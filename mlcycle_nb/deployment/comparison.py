"""What a shadow's analysis is fed with: copies that its version answered, beside what stable answered to the same.

The gateway's log knows no copies. Errors among them are counted by the replicas, which tell of them beside their
prediction log; answers and their times are in that log, so that both versions' times are taken in the same place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from mlcycle_nb.deployment.analysis import PAIR_LAG, AnalysisState
from mlcycle_nb.deployment.disagreements import answers, differ, pair, worst
from mlcycle_nb.deployment.records import Rollout
from mlcycle_nb.deployment.traffic import charged, failed
from mlcycle_nb.serving.gateway import AccessRow

if TYPE_CHECKING:
    import pyarrow as pa

PARTNER_SECONDS = 10.0
"""Stable's answer to a copied request is looked for in so much time before the copy's."""


def add_requests(
    state: AnalysisState, record: Rollout, rows: Sequence[AccessRow], position: str, copies: tuple[int, int]
) -> AnalysisState:
    """Return the state after more of stable's requests, and the replicas' newest totals of copies and failures."""
    stable = [row for row in rows if charged(row) and row.model == record.model and row.route == "default"]
    stable = [row for row in stable if row.version == record.base]
    before = copies if state.copies is None else state.copies
    # Totals can only shrink when somebody deleted a file of theirs: then nothing is new.
    asked, wrong = max(copies[0] - before[0], 0), max(copies[1] - before[1], 0)
    state = replace(state, position=position, copies=copies)
    if state.errors is None or not (asked or stable):
        return state
    errors = state.errors.updated(
        canary_requests=asked,
        canary_errors=min(wrong, asked),
        baseline_requests=len(stable),
        baseline_errors=sum(failed(row) for row in stable),
    )
    return replace(state, errors=errors)


def window(state: AnalysisState, until: datetime) -> tuple[datetime, datetime]:
    """Return from when to when predictions have to be read, so that stable's answers are there as well."""
    # Stable may answer later than the copy: what it has written since is read as well. `pair` bounds the copies.
    return (state.paired_until or until) - timedelta(seconds=PARTNER_SECONDS), until + PAIR_LAG


def add_pairs(state: AnalysisState, record: Rollout, predictions: pa.Table, until: datetime) -> AnalysisState:
    """Return the state after the copies that were answered up to `until`."""
    since, state = state.paired_until or until, replace(state, paired_until=until)
    if record.base is None:
        return state
    pairs = pair(predictions, stable=record.base, new=record.target, since=since, until=until)
    if not len(pairs.new):
        return state
    old, new = answers(pairs)
    # One row a request says how long it took, and what kind of answer it was: rows of one request are alike.
    first = [at for at, row in enumerate(pairs.column("row", "new")) if row == 0]
    events = sum(differ(one, other) for one, other in zip(old, new, strict=True))
    state = replace(
        state,
        worst=worst(state.worst, pairs) if events else state.worst,
        step_requests=state.step_requests + len(first),
        last_request=max(pairs.column("time", "new")),
    )
    if state.disagreement is not None:
        state = replace(state, disagreement=state.disagreement.updated(requests=len(new), events=events))
    if state.shift is not None:
        kinds = {side: [_number(told[at]) for at in first] for side, told in (("canary", new), ("stable", old))}
        state = replace(state, shift=state.shift.updated(canary=kinds["canary"], stable=kinds["stable"]))
    if state.latency is not None:
        slack = record.policy.latency_slack_ms
        slow, usual = pairs.column("latency_ms", "new"), pairs.column("latency_ms", "stable")
        latency = state.latency.updated(
            canary_ms=[round(max(float(slow[at]) - slack, 0.0), 3) for at in first],
            baseline_ms=[round(float(usual[at]), 3) for at in first],
        )
        state = replace(state, latency=latency)
    return state


def _number(answer: object) -> float:
    return float("nan") if answer is None else float(answer)  # type: ignore[arg-type]
