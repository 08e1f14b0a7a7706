"""False-discovery control: one batch against scipy, a stream by simulation."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as oracle

from mlcycle_nb.errors import InvalidInput
from mlcycle_nb.stats.multiple_testing import OnlineFdr, benjamini_hochberg, gamma


class TestBenjaminiHochberg:
    def test_the_worked_example_of_the_paper(self) -> None:
        """Benjamini and Hochberg (1995), section 3.2: 15 p-values, 4 are rejected at 0.05."""
        p = [
            0.0001,
            0.0004,
            0.0019,
            0.0095,
            0.0201,
            0.0278,
            0.0298,
            0.0344,
            0.0459,
            0.3240,
            0.4262,
            0.5719,
            0.6528,
            0.7590,
            1.0,
        ]

        result = benjamini_hochberg(p, q=0.05)

        assert result.rejected.sum() == 4
        assert result.rejected[:4].all()

    @given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
    def test_adjusted_values_agree_with_scipy(self, p: list[float]) -> None:
        result = benjamini_hochberg(p)

        np.testing.assert_allclose(result.adjusted, oracle.false_discovery_control(p), atol=1e-12)
        assert (result.adjusted >= np.array(p) - 1e-15).all()

    @pytest.mark.parametrize("bad", [float("nan"), -0.1, 1.1])
    def test_a_bad_p_value_is_named_by_position(self, bad: float) -> None:
        with pytest.raises(InvalidInput, match=r"p_values\[2\]"):
            benjamini_hochberg([0.1, 0.2, bad])


class TestOnlineFdr:
    def test_the_budget_is_never_overspent(self) -> None:
        assert sum(gamma(step) for step in range(1, 50_000)) < 1

    @pytest.mark.parametrize("method", ["spending", "lord++"])
    def test_null_streams_seldom_alarm(self, method: str) -> None:
        """200 streams of 60 windows x 20 null features: at most 5 % have an alarm; 3 sigma above it is 19."""
        rng = np.random.default_rng(5)
        alarms = 0
        for _ in range(200):
            state = OnlineFdr(q=0.05, method=method)
            alarmed = False
            for _ in range(60):
                state, result = state.decide(rng.uniform(size=20))
                alarmed |= bool(result.rejected.any())
            alarms += alarmed

        assert alarms <= 19

    @pytest.mark.parametrize("method", ["spending", "lord++"])
    def test_real_drift_is_found_after_many_quiet_windows(self, method: str) -> None:
        rng = np.random.default_rng(6)
        state = OnlineFdr(q=0.05, method=method)
        for _ in range(200):
            state, _ = state.decide(rng.uniform(size=50))

        state, result = state.decide([1e-9, *rng.uniform(size=49)])

        assert result.rejected[0]

    def test_lord_earns_level_back(self) -> None:
        quiet = OnlineFdr(method="lord++", steps=1000)
        after_alarms = OnlineFdr(method="lord++", steps=1000, rejections=(990, 995, 999))

        assert not quiet.decide([1e-4])[1].rejected[0]
        assert after_alarms.decide([1e-4])[1].rejected[0]

    def test_forgetting_rejections_never_raises_the_level(self) -> None:
        state = OnlineFdr(method="lord++")
        levels = []
        for _ in range(300):
            state, result = state.decide([0.0])
            levels.append(result.level)

        assert len(state.rejections) == 200
        assert max(levels) <= 0.05 + 1e-12

    def test_the_state_is_json(self) -> None:
        state, _ = OnlineFdr(method="lord++").decide([1e-12, 0.5])

        assert json.loads(json.dumps(asdict(state)))["steps"] == 2

    @pytest.mark.parametrize("change", [{"q": 0}, {"q": 1.0}, {"q": float("nan")}, {"method": "hope"}])
    def test_bad_settings_are_refused(self, change: dict[str, object]) -> None:
        with pytest.raises(InvalidInput):
            OnlineFdr(**change)  # type: ignore[arg-type]
