"""What the gateway's rows say about callers and versions."""

from __future__ import annotations

from datetime import timedelta

from mlcycle_nb.deployment.traffic import CALLERS_KEPT, add_callers, read_callers, traffic_points

from .test_analysis import NOW, row

NONE = timedelta(0)


class TestCallers:
    """Who called which version, how often and when last."""

    def test_totals_grow_from_turn_to_turn(self):
        table = add_callers({}, [row(1), row(1, status=500), row(2)], NONE)
        table = add_callers(table, [row(1, time=NOW + timedelta(hours=1), consumer="batch")], NONE)

        one, other = read_callers(table, "digits", 1)
        assert (one.consumer, one.requests, one.errors) == ("notebook", 2, 1)
        assert (other.consumer, other.last_seen) == ("batch", NOW + timedelta(hours=1))
        assert [c.requests for c in read_callers(table, "digits", None)] == [3, 1]

    def test_a_caller_of_an_address_stays_its_caller_when_another_version_answers(self):
        """During a retirement version 2 answers at the address of version 1."""
        table = add_callers({}, [row(2, route="pinned", requested_version=1)], NONE)

        (caller,) = read_callers(table, "digits", 1)
        assert (caller.pinned, caller.last_pinned) == (1, NOW)

    def test_requests_without_a_key_or_a_model_have_no_caller(self):
        assert add_callers({}, [row(1, consumer=None), row(1, model=None), row(None)], NONE) == {}

    def test_their_number_is_bounded_and_the_latest_stay(self):
        rows = [row(1, consumer=f"c{i}", time=NOW + timedelta(seconds=i)) for i in range(CALLERS_KEPT + 10)]
        table = add_callers({}, rows, NONE)

        assert len(table) == CALLERS_KEPT
        assert "digits/1/c0" not in table
        assert f"digits/1/c{CALLERS_KEPT + 9}" in table

    def test_times_are_the_workspaces(self):
        (caller,) = read_callers(add_callers({}, [row(1)], timedelta(days=28)), "digits", 1)
        assert caller.last_seen == NOW + timedelta(days=28)


def test_errors_are_told_apart():
    """The model's errors, the gateway's, the caller's, and answers that another version gave."""
    rows = [
        row(1), row(1, status=500), row(1, status=422), row(1, answered_by=2),
        row(1, status=503, details="no_healthy_upstream", ms=1.0),
    ]  # fmt: skip
    (point,) = traffic_points(rows, 1.0, NONE)["digits"]

    assert (point["requests"], point["errors"]) == (5, 3)
    assert (point["model_errors"], point["gateway_errors"], point["client_errors"], point["fell_back"]) == (1, 1, 1, 1)
    assert point["p50_ms"] == 10.0
