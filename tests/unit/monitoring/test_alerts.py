"""The state machine of alerts, and when somebody is told."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from mlcycle_nb.errors import Refused
from mlcycle_nb.monitoring.alerts import (
    Evidence,
    acknowledged,
    advance,
    is_silenced,
    message_due,
    message_of,
    resolved_by_hand,
    state_of,
    summarise,
    told,
)
from mlcycle_nb.monitoring.records import Alert, Finding, Monitor, Silence, WindowVerdict
from mlcycle_nb.monitoring.windows import Streak

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MONITOR = Monitor(
    id="production/credit",
    phase="running",
    created_at=NOW,
    environment="production",
    model="credit",
    window=100,
    detectors=("ks",),
    channels=("notebook",),
)


def evidence(state: str, *, bad: int = 0, clear: int = 0, subjects=("age",), version: int = 1, **others: Streak):
    streaks = {version: Streak(bad, clear), **{int(k[1:]): v for k, v in others.items()}}
    return Evidence(
        kind="data_drift",
        version=version,
        state=state,
        subjects=subjects,
        summary="s",
        streaks=streaks,  # type: ignore[arg-type]
    )


def firing(**fields) -> Alert:
    alert = advance(None, evidence("bad", bad=1), MONITOR, NOW, "alert-1")
    assert alert is not None
    return replace(alert, **fields)


def finding(state: str, p: float | None = 0.5, effect: float | None = 0.01, family: str = "data") -> Finding:
    return Finding(
        name="x", family=family, detector="ks", state=state, p_value=p, adjusted=p, effect=effect, bound=0.05
    )


def verdict(outcome: str, *findings: Finding) -> WindowVerdict:
    return WindowVerdict(
        time=NOW,
        generation=1,
        version=1,
        index=4,
        outcome=outcome,
        rows=100,
        first_time="",
        last_time="",
        judged=len(findings),
        columns=len(findings),
        findings=findings,
        shares=(),
        levels={},
    )


class TestPhases:
    def test_one_drifted_window_fires(self) -> None:
        alert = firing()

        assert (alert.phase, alert.fired_at, alert.subjects) == ("firing", NOW, ("age",))

    def test_it_waits_for_as_many_windows_as_asked(self) -> None:
        monitor = replace(MONITOR, confirm_windows=2)
        first = advance(None, evidence("bad", bad=1), monitor, NOW, "a")
        assert first is not None
        second = advance(first, evidence("bad", bad=2), monitor, NOW, "unused")

        assert first.phase == "pending"
        assert not first.active
        assert second is not None
        assert (second.phase, second.id) == ("firing", "a")

    def test_a_pending_one_that_clears_never_fires(self) -> None:
        monitor = replace(MONITOR, confirm_windows=3)
        first = advance(None, evidence("bad", bad=1), monitor, NOW, "a")
        after = advance(first, evidence("clear", clear=1), monitor, NOW, "unused")

        assert after is not None
        assert (after.phase, after.fired_at, after.active) == ("resolved", None, False)

    def test_the_same_evidence_twice_changes_nothing(self) -> None:
        assert advance(firing(), evidence("bad", bad=1), MONITOR, NOW, "b") is None

    def test_no_data_and_healthy_windows_without_an_alert_make_none(self) -> None:
        assert advance(None, evidence("clear", clear=1), MONITOR, NOW, "a") is None
        assert advance(None, evidence("unknown"), MONITOR, NOW, "a") is None

    def test_no_data_keeps_a_firing_alert(self) -> None:
        assert advance(firing(), evidence("unknown"), MONITOR, NOW, "a") is None

    def test_more_features_widen_it(self) -> None:
        after = advance(firing(), evidence("bad", bad=2, subjects=("income", "age")), MONITOR, NOW, "b")

        assert after is not None
        assert after.subjects == ("age", "income")
        assert after.phase == "firing"

    def test_it_ends_after_enough_clear_windows(self) -> None:
        assert advance(firing(), evidence("clear", clear=1), MONITOR, NOW, "b") is None
        after = advance(firing(), evidence("clear", clear=2), MONITOR, NOW, "b")

        assert after is not None
        assert (after.phase, after.resolved_at) == ("resolved", NOW)

    def test_it_ends_only_when_every_version_it_was_seen_on_is_clear(self) -> None:
        alert = firing(versions=(1, 2))

        assert advance(alert, evidence("clear", clear=5, v2=Streak(bad=1)), MONITOR, NOW, "b") is None
        assert advance(alert, evidence("clear", clear=5, v2=Streak(clear=2)), MONITOR, NOW, "b") is not None

    def test_an_acknowledged_one_still_ends_by_itself(self) -> None:
        taken = acknowledged(firing(), "ana@lab", NOW)
        after = advance(taken, evidence("clear", clear=2), MONITOR, NOW, "b")

        assert (taken.phase, taken.acknowledged_by) == ("acknowledged", "ana@lab")
        assert after is not None
        assert after.phase == "resolved"

    def test_what_is_over_can_be_neither_taken_on_nor_ended(self) -> None:
        over = firing(phase="resolved")
        with pytest.raises(Refused, match="is resolved"):
            acknowledged(over, "ana@lab", NOW)
        with pytest.raises(Refused, match="is resolved already"):
            resolved_by_hand(over, "ana", NOW)


class TestEvidence:
    def test_drift_is_bad(self) -> None:
        assert state_of(verdict("failed", finding("drift", 1e-9, 0.4)), "data") == "bad"

    def test_small_differences_are_clear(self) -> None:
        assert state_of(verdict("passed", finding("stable")), "data") == "clear"

    def test_a_drift_that_later_levels_no_longer_reach_is_not_over(self) -> None:
        assert state_of(verdict("passed", finding("stable", 1e-4, 0.3)), "data") == "unknown"

    def test_insufficient_says_nothing(self) -> None:
        assert state_of(verdict("inconclusive", finding("insufficient", None, None)), "data") == "unknown"

    def test_another_family_says_nothing(self) -> None:
        assert state_of(verdict("failed", finding("drift", 1e-9, 0.4)), "prediction") == "unknown"

    def test_the_summary_names_the_features(self) -> None:
        names, text = summarise(verdict("failed", finding("drift", 1e-9, 0.4)), "data")

        assert names == ("x",)
        assert text == "window 4 of version 1 differs from its reference: x (effect 0.4, adjusted p 1e-09)"


class TestTelling:
    def due(self, alert: Alert, *, after: float = 0, last: datetime | None = None, silenced: bool = False) -> bool:
        return message_due(alert, MONITOR, last, silenced, NOW + timedelta(seconds=after))

    def test_a_firing_alert_is_told_at_once_and_again_after_the_repeat_interval(self) -> None:
        once = told(firing(), NOW)

        assert self.due(firing())
        assert not self.due(once, after=14_399, last=NOW)
        assert self.due(once, after=14_400, last=NOW)

    def test_ten_thousand_firings_make_one_message_an_interval(self) -> None:
        last, messages, start = None, 0, NOW
        for second in range(10_000):
            now = start + timedelta(seconds=second)
            flapping = firing(id=f"alert-{second}")
            if message_due(flapping, MONITOR, last, False, now):
                messages, last = messages + 1, now

        assert messages == -(-10_000 // 300)

    def test_an_acknowledged_or_pending_one_is_not_told(self) -> None:
        assert not self.due(acknowledged(firing(), "ana", NOW), after=90_000)
        assert not self.due(firing(phase="pending"))

    def test_the_end_is_told_once(self) -> None:
        over = firing(phase="resolved", notified_at=NOW, notifications=1)

        assert self.due(over, after=300, last=NOW)
        assert not self.due(told(over, NOW), after=90_000, last=NOW)

    def test_an_incident_that_was_over_before_anybody_heard_is_told_all_the_same(self) -> None:
        assert self.due(firing(phase="resolved"))

    def test_one_that_never_fired_is_not_told(self) -> None:
        assert not self.due(firing(phase="resolved", fired_at=None))

    def test_silence_holds_messages_and_its_end_lets_them_go(self) -> None:
        silence = Silence(
            id="s",
            phase="active",
            created_at=NOW,
            monitor=MONITOR.id,
            kind="data_drift",
            until=NOW + timedelta(hours=1),
            reason="migration",
            created_by="ana",
        )

        assert is_silenced(firing(), [silence], NOW)
        assert not is_silenced(firing(), [silence], NOW + timedelta(hours=1))
        assert not is_silenced(firing(kind="no_data"), [silence], NOW)
        assert not is_silenced(firing(monitor="production/other"), [silence], NOW)
        assert not is_silenced(firing(), [replace(silence, phase="ended")], NOW)
        assert not self.due(firing(), silenced=True)

    def test_a_clock_set_back_does_not_keep_it_untold(self) -> None:
        assert self.due(firing(), after=-86_400, last=NOW)

    def test_every_resend_of_a_message_is_the_same(self) -> None:
        alert = told(firing(), NOW)

        assert message_of(alert, 1) == message_of(alert, 1)
        assert message_of(alert, 1)["key"] == "alert-1-1"
        assert message_of(alert, 2)["key"] == "alert-1-2"
