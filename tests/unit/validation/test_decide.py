"""One gate's decision: only a true comparison of finite numbers passes."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlcycle_nb.outcomes import Outcome
from mlcycle_nb.validation.contract import Measurement, checks
from mlcycle_nb.validation.decide import decide, failed_to_run
from mlcycle_nb.validation.gates import Gate
from mlcycle_nb.validation.records import verdict_of

GATE = Gate(check="accuracy", minimum=0.9)
NUMBERS = st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True))


def judged(found: Measurement, gate: Gate = GATE) -> Any:
    return decide(gate, checks.load(gate.check), found)


class TestDecide:
    @pytest.mark.parametrize(
        ("low", "value", "high", "outcome"),
        [
            (0.91, 0.93, 0.95, Outcome.PASSED),
            (0.9, 0.93, 0.95, Outcome.PASSED),
            (0.89, 0.93, 0.95, Outcome.INCONCLUSIVE),
            (0.85, 0.88, 0.91, Outcome.INCONCLUSIVE),
            (0.80, 0.85, 0.89, Outcome.FAILED),
        ],
    )
    def test_the_whole_interval_decides(self, low: float, value: float, high: float, outcome: Outcome) -> None:
        assert judged(Measurement(value=value, low=low, high=high, n=500)).outcome is outcome

    @given(NUMBERS, NUMBERS, NUMBERS, st.one_of(st.none(), st.integers(0, 1000)))
    def test_it_passes_only_when_everything_is_there(
        self, value: float | None, low: float | None, high: float | None, n: int | None
    ) -> None:
        result = judged(Measurement(value=value, low=low, high=high, n=n))

        if result.outcome is Outcome.PASSED:
            assert None not in (value, low, high, n)
            assert all(math.isfinite(x) for x in (value, low, high))  # type: ignore[arg-type]
            assert n >= 100  # type: ignore[operator]
            assert low >= 0.9  # type: ignore[operator]

    def test_all_nan_is_not_a_pass(self) -> None:
        nan = float("nan")

        assert judged(Measurement(value=nan, low=nan, high=nan, n=1000)).outcome is Outcome.INCONCLUSIVE

    def test_an_empty_measurement_is_not_a_pass(self) -> None:
        assert judged(Measurement()).outcome is Outcome.INCONCLUSIVE
        assert judged(Measurement(), Gate(check="package_integrity")).outcome is Outcome.INCONCLUSIVE

    def test_the_number_of_rows_needed_is_said(self) -> None:
        result = judged(Measurement(value=0.92, low=0.88, high=0.96, n=100))

        assert "about 420 rows would decide it" in result.reason


class TestVerdict:
    def results(self, *outcomes: Outcome, required: bool = True) -> tuple[tuple[Gate, ...], tuple[Any, ...]]:
        from dataclasses import replace

        gates = tuple(Gate(check="accuracy", minimum=0.9) for _ in outcomes)
        made = tuple(replace(failed_to_run(GATE, "x", "y"), outcome=o, required=required) for o in outcomes)
        return gates, made

    @pytest.mark.parametrize("bad", [o for o in Outcome if o is not Outcome.PASSED])
    def test_one_gate_that_did_not_pass_is_enough(self, bad: Outcome) -> None:
        assert verdict_of(*self.results(Outcome.PASSED, bad)) is bad

    def test_all_passed_is_passed(self) -> None:
        assert verdict_of(*self.results(Outcome.PASSED, Outcome.PASSED)) is Outcome.PASSED

    def test_no_results_missing_results_or_only_optional_ones_never_pass(self) -> None:
        gates, made = self.results(Outcome.PASSED, Outcome.PASSED)

        assert verdict_of(gates, ()) is Outcome.ERROR
        assert verdict_of(gates, made[:1]) is Outcome.ERROR
        assert verdict_of((), ()) is Outcome.ERROR
        assert verdict_of(*self.results(Outcome.PASSED, required=False)) is Outcome.ERROR
