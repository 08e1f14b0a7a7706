"""What a shadow's analysis makes of copies, and which disagreements are kept."""

from __future__ import annotations

import json
import zlib
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest

from mlcycle_nb.deployment import comparison
from mlcycle_nb.deployment.analysis import PAIR_LAG, AnalysisState, add_labels, add_pairs, begin, judge
from mlcycle_nb.deployment.disagreements import INPUTS_KEPT, KEPT, LOOKED_AT, Disagreements, pair, rows_of, worst
from mlcycle_nb.deployment.records import DeploymentStrategy
from mlcycle_nb.outcomes import Outcome

from .test_analysis import NOW, rollout, row

SHADOW = DeploymentStrategy.SHADOW
SECOND = timedelta(seconds=1)


def log(rows, *, asked="", **columns) -> pa.Table:
    """A prediction log of rows ``(id, version, answer, mirrored, seconds after NOW)``; each has an input of its own."""
    told = [
        {
            "prediction_id": key, "row": 0, "version": version, "mirrored": mirrored, "time": NOW + SECOND * after,
            "input": [*range(63), zlib.crc32((asked or key).encode())], "latency_ms": 10.0,
            ("value" if isinstance(answer, float) else "label"): answer,
        }
        for key, version, answer, mirrored, after in rows
    ]  # fmt: skip
    table = pa.Table.from_pylist(told)
    for name, values in columns.items():
        table = table.append_column(name, pa.array(values))
    return table


def outcome(state: AnalysisState, record, name: str) -> Outcome:
    return next(metric.outcome for metric in judge(state, record.policy).metrics if metric.name == name)


class TestCopies:
    """Errors, from what the replicas tell."""

    def test_failed_copies_are_errors_of_the_new_version(self):
        record = rollout(SHADOW)
        state = begin(record, "1:0", NOW)
        for turn in range(30):
            stable = [row(1) for _ in range(20)]
            state = comparison.add_requests(state, record, stable, "1:1", (500 + 20 * turn, 7 + 2 * turn))

        assert state.errors is not None
        assert (state.errors.canary_requests, state.errors.canary_errors) == (580, 58), "what was before does not count"
        assert outcome(state, record, "error rate") is Outcome.FAILED

    def test_totals_that_shrink_are_nothing_new(self):
        record = rollout(SHADOW)
        state = comparison.add_requests(begin(record, None, NOW), record, [row(1)], "1:1", (100, 5))
        state = comparison.add_requests(state, record, [row(1)], "1:1", (10, 0))
        state = comparison.add_requests(state, record, [row(1)], "1:1", (20, 1))

        assert state.errors is not None
        assert (state.errors.canary_requests, state.errors.canary_errors) == (10, 1)

    def test_stable_s_own_errors_are_held_against_it(self):
        record = rollout(SHADOW)
        state = begin(record, None, NOW)
        for turn in range(30):
            rows = [row(1, status=500 if number < 2 else 200) for number in range(20)]
            state = comparison.add_requests(state, record, rows, "1:1", (20 * turn, 2 * turn))

        assert outcome(state, record, "error rate") is not Outcome.FAILED


class TestPairs:
    """Answers, joined by prediction id."""

    def test_a_copy_that_comes_later_than_its_window_is_paired(self):
        """Stable answered in the window before: slow copies must not be missed more often than fast ones."""
        record = rollout(SHADOW)
        state = begin(record, None, NOW)
        table = log([("a", 1, 4, False, -2), ("a", 2, 4, True, 1), ("b", 1, 4, False, 1), ("b", 2, 4, True, 3)])

        state = comparison.add_pairs(state, record, table, NOW + 2 * SECOND)
        assert state.step_requests == 1
        state = comparison.add_pairs(state, record, table, NOW + 4 * SECOND)

        assert state.step_requests == 2, "each copy counts once, in the window in which it was answered"
        assert state.last_request == NOW + 3 * SECOND

    def test_a_window_reaches_back(self):
        state = begin(rollout(SHADOW), None, NOW)
        since, until = comparison.window(state, NOW + SECOND)
        assert (NOW - since).total_seconds() >= 10
        assert until == NOW + SECOND + PAIR_LAG

    def test_a_stable_version_that_is_the_slower_one_is_paired(self):
        """Only what its window holds is read: a copy that is answered first waits for no second look."""
        record = rollout(SHADOW)
        state = begin(record, None, NOW)
        table = log([("a", 2, 4, True, 0.9), ("a", 1, 4, False, 1.4)])
        for turn in range(1, 4):
            since, until = comparison.window(state, NOW + turn * SECOND)
            times = table["time"].to_pylist()
            read = table.filter(pa.array([since <= time < until for time in times]))
            state = comparison.add_pairs(state, record, read, NOW + turn * SECOND)

        assert state.step_requests == 1

    def test_copies_alone_are_no_pairs(self):
        record = rollout(SHADOW)
        state = comparison.add_pairs(begin(record, None, NOW), record, log([("a", 2, 4, True, 0)]), NOW + SECOND)
        assert (state.step_requests, state.worst) == (0, ())

    def test_slow_copies_fail_it(self):
        record = rollout(SHADOW)
        rng = np.random.default_rng(5)
        state, moment = begin(record, None, NOW), NOW
        for turn in range(20):
            keys = [f"{turn}-{number}" for number in range(30)]
            table = log([(key, version, 1, version == 2, turn) for key in keys for version in (1, 2)])
            slow = rng.lognormal(3, 0.1, 60) * np.tile([1.0, 1.5], 30)
            table = table.set_column(table.column_names.index("latency_ms"), "latency_ms", pa.array(slow))
            moment = NOW + SECOND * (turn + 1)
            state = comparison.add_pairs(state, record, table, moment)

        assert outcome(state, record, "latency") is Outcome.FAILED
        assert outcome(state, record, "disagreement") is Outcome.PASSED

    def test_late_labels_count_for_copies(self):
        record = rollout(SHADOW)
        table = log([(str(i), v, i % 3 if v == 1 else 7, v == 2, 0) for i in range(300) for v in (1, 2)])
        labels = pa.table({"prediction_id": [str(i) for i in range(300)], "row": [0] * 300,
                           "truth": [str(i % 3) for i in range(300)]})  # fmt: skip
        names = tuple(str(label) for label in range(10))

        state = add_labels(begin(record, None, NOW, classes=10), record, table, labels, names, "file")

        assert state.accuracy is not None
        assert (state.accuracy.canary_errors, state.accuracy.baseline_errors) == (300, 0)


class TestWorst:
    """Few, small, and the worst of all."""

    def pairs(self, answers, *, since=-1, until=100, **columns):
        rows = [
            (key, version, answer, version == 2, 0)
            for key, *both in answers
            for version, answer in zip((1, 2), both, strict=True)
        ]
        return pair(log(rows, **columns), stable=1, new=2, since=NOW + since * SECOND, until=NOW + until * SECOND)

    def test_the_surest_first(self):
        sure = [[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.45, 0.55], [0.9, 0.1], [0.9, 0.1]]
        found = worst((), self.pairs([("a", 0, 1), ("b", 0, 1), ("c", 0, 0)], probabilities=sure))

        assert [one.prediction_id for one in found] == ["a", "b"]
        assert [round(one.score, 3) for one in found] == [0.85, 0.575]
        assert (found[0].told("stable"), found[0].told("new")) == ("0 (90%)", "1 (80%)")

    def test_values_by_their_relative_difference(self):
        found = worst((), self.pairs([("a", 10.0, 10.2), ("b", 10.0, 5.0), ("c", 1.0, -1.0), ("d", 2.0, float("nan"))]))

        assert [(one.prediction_id, one.score) for one in found] == [("d", 3.0), ("c", 2.0), ("b", 0.5)]
        assert found[0].told("new") == "not finite"

    def test_few_and_small_however_many_there_are(self):
        found: tuple = ()
        for turn in range(5):
            found = worst(found, self.pairs([(f"{turn}-{i}", 1.0 + i + turn / 9, 1.0) for i in range(50)]))

        assert len(found) == KEPT
        assert all(len(one.input) == INPUTS_KEPT and one.input_size == 64 for one in found)
        assert found[0].prediction_id == "4-49"
        state = begin(rollout(SHADOW), None, NOW)
        from dataclasses import replace

        assert len(json.dumps(replace(state, worst=found).to_json())) < 20_000
        assert AnalysisState.from_json(json.loads(json.dumps(replace(state, worst=found).to_json()))).worst == found

    def test_each_row_once(self):
        one = self.pairs([("a", 1, 2)])
        assert len(worst(worst((), one), one)) == 1

    def test_an_input_that_is_asked_again_is_one(self):
        """With the same answers; with another answer it is another."""
        first = self.pairs([("a", 1, 2), ("b", 1, 2), ("c", 1, 3)], asked="the same")
        found = worst(worst((), first), self.pairs([("d", 1, 2), ("e", 1, 2)], asked="the same"))
        assert [one.prediction_id for one in found] == ["a", "c"]
        many = [(str(number), 1, 2) for number in range(LOOKED_AT)]
        assert len(worst((), self.pairs(many))) == KEPT

    def test_a_canary_keeps_them_too(self):
        record = rollout()
        table = log([("a", 1, 3, False, 0), ("a", 2, 4, True, 0)])
        assert add_pairs(begin(record, None, NOW), record, table, NOW).worst[0].prediction_id == "a"


class TestFaces:
    """Text, HTML and a frame."""

    @pytest.fixture
    def shown(self):
        rows = [("<b>", 1, 3, False, 0), ("<b>", 2, 4, True, 0)]
        table = log(rows, probabilities=[[0.1] * 3 + [0.7], [0.0] * 4 + [0.9]])
        found = worst((), pair(table, stable=1, new=2, since=NOW, until=NOW + SECOND))
        state = begin(rollout(SHADOW), None, NOW)
        from dataclasses import replace

        stored = replace(state, worst=found).to_json()["worst"]
        return Disagreements("production/digits/r2", "digits/1", "digits/2", rows_of(json.loads(json.dumps(stored))))

    def test_text(self, shown):
        assert "the 1 largest" in repr(shown)
        assert "3 (70%)" in repr(shown)
        assert "0, 1, 2, 3, … 60 more" in repr(shown)

    def test_html_is_inert(self, shown):
        assert "<b>" not in shown._repr_html_().replace("<b>disagreements", "")
        assert "&lt;b&gt;" in shown._repr_html_()

    def test_frame(self, shown):
        frame = shown.to_frame()
        assert frame.loc[0, ["stable", "new", "score"]].tolist() == [3.0, 4.0, 0.8]
        assert json.dumps(shown.to_dict())

    def test_nothing(self):
        empty = Disagreements("r", "digits/1", "digits/2", ())
        assert "none among the compared requests" in repr(empty)
        assert len(empty.to_frame()) == 0
