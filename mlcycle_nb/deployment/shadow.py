"""When a shadow ends and with which verdict, and what may follow it. Nothing here touches the world."""

from __future__ import annotations

from datetime import datetime

from mlcycle_nb.deployment.judgement import Judgement
from mlcycle_nb.deployment.records import Rollout
from mlcycle_nb.outcomes import Outcome

NOTHING_TO_COMPARE = "nothing else is stable, so there are no answers to compare with"


def conclusion(record: Rollout, judgement: Judgement, held_seconds: float) -> tuple[Outcome, str] | None:
    """Return the verdict and its reason once a shadow has had its time or its requests, None before.

    A failure is not waited for: it ends a shadow at once, and is the caller's to see.
    """
    policy, seen = record.policy, judgement.step_requests
    if held_seconds >= policy.deadline_seconds:
        why = f"its {policy.deadline_seconds:g} s are over"
    elif policy.compared and seen >= policy.compared:
        why = f"{policy.compared} requests were asked for"
    else:
        return None
    counted = f"{seen} requests were compared, {why}"
    open_questions = "; ".join(m.reason for m in judgement.metrics if m.decides and m.outcome is not Outcome.PASSED)
    return judgement.outcome, f"{counted}: {open_questions}" if open_questions else counted


def concluded(record: Rollout, now: datetime, verdict: Outcome, reason: str) -> Rollout:
    """Return the shadow with its verdict, on its way to the end."""
    text = f"{verdict}: {reason}"
    return record.moved(now, "concluding", text, verdict=str(verdict), reason=reason, ends_as="compared", resume_to="")


def why_no_canary(record: Rollout, stable: int | None) -> str:
    """Return why a canary may not follow a shadow that has ended, or the empty text."""
    name = f"the shadow {record.id}"
    if record.phase != "compared":
        return f"{name} is {record.phase}{f': {record.reason}' if record.reason else ''}"
    if record.verdict != Outcome.PASSED:
        return f"{name} is {record.verdict}: {record.reason}"
    if stable != record.base:
        now = f"{record.model}/{stable}" if stable is not None else "nothing"
        return f"{name} compared with {record.model}/{record.base}, and {now} is stable now"
    return ""
