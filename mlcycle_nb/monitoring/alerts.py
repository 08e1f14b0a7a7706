"""The state machine of alerts, without any I/O: pending, firing, acknowledged, resolved, and when to tell whom."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

from mlcycle_nb.errors import Refused
from mlcycle_nb.monitoring.records import (
    ACKNOWLEDGED,
    DATA_DRIFT,
    FIRING,
    JOINT_DRIFT,
    PENDING,
    PREDICTION_DRIFT,
    RESOLVED,
    Alert,
    Finding,
    Monitor,
    Silence,
    WindowVerdict,
)
from mlcycle_nb.monitoring.windows import Streak

Message = dict[str, str | int | float | bool | None]
State = Literal["bad", "clear", "unknown"]
FAMILY_KINDS = {"data": DATA_DRIFT, "prediction": PREDICTION_DRIFT, "joint": JOINT_DRIFT}
CLEAR_P_VALUE = 0.05
SUBJECTS_KEPT = 100
_LISTED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What was just seen about one kind of trouble on one version.

    Attributes
    ----------
    streaks : mapping
        Version to its streak of bad or clear windows, this one included.
    """

    kind: str
    version: int
    state: State
    subjects: tuple[str, ...]
    summary: str
    streaks: Mapping[int, Streak]


def state_of(verdict: WindowVerdict, family: str) -> State:
    """Return what a window says about one family.

    ``clear`` needs more than an absence of alarm: each column that was judged must differ by less than its bound,
    or by no more than chance does in one of twenty samples. A drift that goes on while the error budget of later
    windows shrinks is therefore not taken for its end. What could not be judged says nothing.
    """
    members = [finding for finding in verdict.findings if finding.family == family]
    if any(finding.state == "drift" for finding in members):
        return "bad"
    judged = [finding for finding in members if finding.p_value is not None]
    if not judged or verdict.outcome not in {"passed", "failed"}:
        return "unknown"
    return "unknown" if any(_suspicious(finding, len(judged)) for finding in judged) else "clear"


def _suspicious(finding: Finding, judged: int) -> bool:
    assert finding.p_value is not None  # the caller looked
    large = finding.effect is not None and finding.bound is not None and finding.effect >= finding.bound
    return large and finding.p_value * judged <= CLEAR_P_VALUE


def summarise(verdict: WindowVerdict, family: str) -> tuple[tuple[str, ...], str]:
    """Return the drifted columns of a family, the worst first, and one line about them."""
    drifted = verdict.drifted(family)
    names = tuple(finding.name for finding in drifted)
    shown = ", ".join(
        f"{finding.name} (effect {finding.effect:.2g}, adjusted p {finding.adjusted:.1g})"
        for finding in drifted[:_LISTED]
        if finding.effect is not None and finding.adjusted is not None
    )
    more = f" and {len(drifted) - _LISTED} more" if len(drifted) > _LISTED else ""
    if any(finding.note for finding in drifted):
        more += "; rows depend on one another, so p-values are smaller than they ought to be"
    return names, f"window {verdict.index} of version {verdict.version} differs from its reference: {shown}{more}"


def advance(alert: Alert | None, evidence: Evidence, monitor: Monitor, now: datetime, new_id: str) -> Alert | None:
    """Return the alert that follows from new evidence, or None when nothing changes.

    Doing it twice with the same evidence gives the same alert: a supervisor that died in between does it again.

    Parameters
    ----------
    alert : Alert, optional
        The open alert of this monitor and kind.
    new_id : str
        Id of the alert that is made when there is none.
    """
    if alert is None:
        return _begun(evidence, monitor, now, new_id) if evidence.state == "bad" else None
    if evidence.state == "bad":
        return _worse(alert, evidence, monitor, now)
    if evidence.state == "clear":
        return _better(alert, evidence, monitor, now)
    return None  # no data, or none that says anything, keeps an alert as it is


def _begun(evidence: Evidence, monitor: Monitor, now: datetime, new_id: str) -> Alert:
    alert = Alert(
        id=new_id,
        phase=PENDING,
        created_at=now,
        monitor=monitor.id,
        kind=evidence.kind,
        subjects=evidence.subjects[:SUBJECTS_KEPT],
        versions=(evidence.version,),
        summary=evidence.summary,
    )
    return _fired(alert, evidence, monitor, now)


def _worse(alert: Alert, evidence: Evidence, monitor: Monitor, now: datetime) -> Alert | None:
    subjects = tuple(dict.fromkeys([*alert.subjects, *evidence.subjects]))[:SUBJECTS_KEPT]
    versions = tuple(dict.fromkeys([*alert.versions, evidence.version]))
    widened = replace(alert, subjects=subjects, versions=versions)
    if widened != alert:
        widened = replace(widened, summary=evidence.summary)
    after = _fired(widened, evidence, monitor, now)
    return None if after == alert else after


def _fired(alert: Alert, evidence: Evidence, monitor: Monitor, now: datetime) -> Alert:
    confirmed = evidence.streaks[evidence.version].bad >= monitor.confirm_windows
    if alert.phase == PENDING and confirmed:
        return replace(alert, phase=FIRING, fired_at=now, summary=evidence.summary)
    return alert


def _better(alert: Alert, evidence: Evidence, monitor: Monitor, now: datetime) -> Alert | None:
    needed = 1 if alert.phase == PENDING else monitor.clear_windows
    streaks = [evidence.streaks.get(version, Streak()) for version in alert.versions]
    if all(streak.clear >= needed for streak in streaks):
        return replace(alert, phase=RESOLVED, resolved_at=now)
    return None


def reopened(before: Alert, begun: Alert) -> Alert:
    """Return an alert that ended and fires again before its end was told: to its receivers it never ended.

    Trouble that comes and goes ten thousand times between two messages is one alert, and one message.
    """
    return replace(
        before,
        phase=FIRING,
        resolved_at=None,
        subjects=tuple(dict.fromkeys([*before.subjects, *begun.subjects]))[:SUBJECTS_KEPT],
        versions=tuple(dict.fromkeys([*before.versions, *begun.versions])),
        summary=begun.summary,
        flaps=before.flaps + 1,
    )


def may_reopen(alert: Alert, kind: str) -> bool:
    """Return whether new trouble of a kind is still this alert; one that a person took on or closed is not."""
    untold = alert.phase == RESOLVED and alert.active
    return untold and alert.kind == kind and not alert.closed_by and alert.acknowledged_at is None


def acknowledged(alert: Alert, actor: str, now: datetime) -> Alert:
    """Return the alert as somebody's: it is told no more, and still ends by itself."""
    if alert.phase not in {PENDING, FIRING}:
        raise Refused(f"alert {alert.id} is {alert.phase}", remedy="only a pending or firing alert is acknowledged")
    fired_at = alert.fired_at or now
    return replace(alert, phase=ACKNOWLEDGED, acknowledged_at=now, acknowledged_by=actor, fired_at=fired_at)


def resolved_by_hand(alert: Alert, actor: str, now: datetime) -> Alert:
    """Return the alert as over because somebody says so."""
    if not alert.open:
        raise Refused(f"alert {alert.id} is {alert.phase} already")
    return replace(alert, phase=RESOLVED, resolved_at=now, closed_by=actor)


# -- when to tell ----------------------------------------------------------------------------------------------


def is_silenced(alert: Alert, silences: Iterable[Silence], now: datetime) -> bool:
    """Return whether one of the silences covers the alert now."""
    return any(silence.covers(alert, now) for silence in silences)


def message_due(alert: Alert, monitor: Monitor, last_of_group: datetime | None, silenced: bool, now: datetime) -> bool:
    """Return whether a message about this alert is to be made now.

    Parameters
    ----------
    last_of_group : datetime, optional
        When the last message about any alert of the same group was made.
    """
    if silenced or not alert.active:
        return False
    if alert.phase == ACKNOWLEDGED:
        return False
    if last_of_group is not None and not _passed(last_of_group, monitor.group_seconds, now):
        return False
    if alert.notified_at is not None and alert.phase == FIRING:
        return _passed(alert.notified_at, monitor.repeat_seconds, now)
    return True


def same_group(one: Alert, other: Alert, monitor: Monitor) -> bool:
    """Return whether two alerts of a monitor share their messages."""
    return one.monitor == other.monitor and (monitor.group_by == "service" or one.kind == other.kind)


def _passed(since: datetime, seconds: float, now: datetime) -> bool:
    # A clock that was set back would else keep an alert untold until it has caught up.
    return now >= since + timedelta(seconds=seconds) or now < since - timedelta(seconds=2)


def told(alert: Alert, now: datetime) -> Alert:
    """Return the alert after one more message about it."""
    return replace(alert, notified_at=now, notifications=alert.notifications + 1, told_resolved=alert.phase == RESOLVED)


def leading(members: Sequence[Alert]) -> tuple[Alert, ...]:
    """Return the alerts of one message with the one that it is named after first: firing before over, then oldest."""
    return tuple(sorted(members, key=lambda alert: (alert.phase == RESOLVED, alert.created_at, alert.id)))


def message_of(alert: Alert, number: int, others: Sequence[Alert] = ()) -> Message:
    """Return what a channel is told about an alert, and about others of its group; every resend is the same."""
    members = (alert, *others)
    return {
        "key": f"{alert.id}-{number}",
        "alert": alert.id,
        "alerts": ", ".join(one.id for one in members),
        "status": alert.phase,
        "kind": _distinct(one.kind for one in members),
        "monitor": alert.monitor,
        "versions": _distinct(str(version) for one in members for version in one.versions),
        "subjects": _distinct(subject for one in members for subject in one.subjects),
        "summary": alert.summary if not others else "; ".join(_one_of_many(one) for one in members[:_LISTED]),
        "fired_at": _text(alert.fired_at),
        "resolved_at": _text(alert.resolved_at),
        "flaps": sum(one.flaps for one in members),
        "number": number,
    }


def _one_of_many(alert: Alert) -> str:
    return f"{alert.kind} {alert.phase}: {alert.summary}"


def _distinct(texts: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(texts))


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
