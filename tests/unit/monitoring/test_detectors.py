"""Every detector keeps the contract; names are resolved as documented."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from mlcycle_nb.errors import UnknownPlugin
from mlcycle_nb.monitoring import detectors
from mlcycle_nb.monitoring.detectors import DETECTORS, alibi_installed, resolve
from mlcycle_nb.monitoring.detectors._categories import balanced_v
from mlcycle_nb.monitoring.detectors._contract import Comparison, parts_of, smallest_of, unfit
from mlcycle_nb.monitoring.judge import DATA, FAMILIES, JOINT, Column, Prepared, judge
from mlcycle_nb.stats.multiple_testing import OnlineFdr
from mlcycle_nb.testing.detectors import check_detector, check_level, check_order, check_power, check_power_rate, draw

NAMES = [name for name in DETECTORS.names() if alibi_installed() or not name.startswith("alibi_")]


# Seconds and not milliseconds a window: fewer trials, and bounds that are as much wider as the number says.
COSTLY = {"multivariate", "alibi_mmd", "alibi_lsdd", "alibi_classifier", "alibi_spot_the_diff"}
COSTLY |= {"alibi_cvm_online", "alibi_mmd_online"}

# Spot-the-diff looks for one place that rows moved to, and none did; streams are a few dozen rows.
NOT_FOR_DEPENDENCE = {"alibi_spot_the_diff", "alibi_cvm_online", "alibi_mmd_online"}


class TestContract:
    @pytest.mark.parametrize("name", NAMES)
    def test_every_detector_keeps_it(self, name: str) -> None:
        check_detector(DETECTORS.load(name), repetitions=12 if name in COSTLY else 200)

    @pytest.mark.faults
    @pytest.mark.timeout(1800)
    @pytest.mark.parametrize("name", [name for name in NAMES if name in COSTLY])
    def test_the_costly_ones_over_many_windows(self, name: str) -> None:
        check_level(DETECTORS.load(name), 300)
        check_power_rate(DETECTORS.load(name), 100)

    @pytest.mark.parametrize("name", [name for name in NAMES if name in COSTLY - NOT_FOR_DEPENDENCE])
    def test_joint_detectors_see_dependence_that_no_column_shows(self, name: str) -> None:
        """Equal margins, another correlation."""
        rng, mixed = np.random.default_rng(8), np.array([[1.0, 0.8], [0.8, 1.0]])
        ours = DETECTORS.load(name)
        found = ours.compare(ours.prepare(rng.normal(size=(1000, 2))), rng.multivariate_normal(np.zeros(2), mixed, 500))

        assert found.p_value < 1e-3
        assert found.effect > ours.effect_bound

    @pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("online")])
    def test_online_detectors_see_a_short_burst_inside_a_window(self, name: str) -> None:
        rng, ours = np.random.default_rng(9), DETECTORS.load(name)
        shape = (1000, 3) if ours.kind == "joint" else (1000,)
        window = rng.normal(size=(150, *shape[1:]))
        window[60:100] += 1.5
        prepared = ours.prepare(rng.normal(size=shape))
        burst = ours.compare(prepared, window)
        mixed = ours.compare(prepared, rng.permutation(window))

        assert burst.p_value < 1e-6
        assert burst.effect > 2 * mixed.effect  # the same rows in any order are another matter

    @pytest.mark.parametrize("name", NAMES)
    def test_what_it_answers_is_the_same_in_another_process_order(self, name: str) -> None:
        """Nothing is drawn from a generator that somebody else uses, and nothing is left behind in one."""
        for ours in parts_of(DETECTORS.load(name)):
            rng = np.random.default_rng(10)
            reference, window = draw(ours, rng, 300), draw(ours, rng, 80)
            np.random.seed(1)
            first = ours.compare(ours.prepare(reference), window)
            np.random.seed(2)
            before = np.random.get_state()[1].copy()
            second = ours.compare(ours.prepare(reference), window)

            assert first == second
            assert (np.random.get_state()[1] == before).all()

    def test_a_detector_of_little_power_breaks_it(self) -> None:
        class Weak:
            kind, effect_name, effect_bound = "numeric", "none", 0.0

            def prepare(self, reference):
                return reference

            def compare(self, prepared, current):
                found = stats.ks_2samp(prepared, current)
                return Comparison(p_value=min(1.0, float(found.pvalue) * 1e9), effect=float(found.statistic))

        with pytest.raises(AssertionError, match="power"):
            check_power_rate(Weak(), 50)  # type: ignore[arg-type]

    def test_a_detector_that_always_fires_breaks_it(self) -> None:
        class Always:
            kind, effect_name, effect_bound = "numeric", "none", 0.0

            def prepare(self, reference):
                return reference

            def compare(self, prepared, current):
                return Comparison(p_value=0.0, effect=1.0)

        with pytest.raises(AssertionError, match="level"):
            check_level(Always(), 100)  # type: ignore[arg-type]

    def test_a_detector_that_never_fires_breaks_it(self) -> None:
        class Never:
            kind, effect_name, effect_bound = "numeric", "none", 0.0

            def prepare(self, reference):
                return reference

            def compare(self, prepared, current):
                return Comparison(p_value=1.0, effect=0.0)

        with pytest.raises(AssertionError, match="power"):
            check_power(Never())  # type: ignore[arg-type]

    def test_a_detector_that_looks_at_the_first_rows_only_breaks_it(self) -> None:
        class First:
            kind, effect_name, effect_bound = "numeric", "none", 0.0

            def prepare(self, reference):
                return reference[:50]

            def compare(self, prepared, current):
                found = stats.ks_2samp(prepared, current[:50])
                return Comparison(p_value=float(found.pvalue), effect=float(found.statistic))

        with pytest.raises(AssertionError, match="order"):
            check_order(First())  # type: ignore[arg-type]


class TestOracles:
    def test_ks_agrees_with_scipy(self) -> None:
        rng = np.random.default_rng(5)
        reference, window = rng.normal(size=800), rng.normal(0.2, 1, 150)
        ours = DETECTORS.load("ks")
        found = ours.compare(ours.prepare(reference), window)
        theirs = stats.ks_2samp(reference, window, method="asymp")

        assert found.effect == pytest.approx(theirs.statistic)
        assert found.p_value == pytest.approx(theirs.pvalue, rel=1e-9)

    def test_wasserstein_of_a_pure_shift_is_the_shift_in_standard_deviations(self) -> None:
        reference = np.random.default_rng(6).normal(0, 3, 5000)
        ours = DETECTORS.load("wasserstein")

        assert ours.compare(ours.prepare(reference), reference + 0.75).effect == pytest.approx(0.25, rel=0.02)

    def test_balanced_v_of_a_coin_does_not_depend_on_the_sizes(self) -> None:
        # From 50 to 55 percent: sqrt((0.05^2/1.05 + 0.05^2/0.95) / 2), by hand.
        for many in (100, 100_000):
            assert balanced_v({0: many, 1: many}, {0: 55, 1: 45}) == pytest.approx(0.05006, abs=1e-4)

    def test_a_category_that_the_reference_never_had_counts(self) -> None:
        for name in [n for n in NAMES if n.endswith("chi_squared")]:
            ours = DETECTORS.load(name)
            reference = np.repeat([0.0, 1.0], 500)
            found = ours.compare(ours.prepare(reference), np.repeat([0.0, 1.0, 2.0], [40, 40, 20]))

            assert found.p_value < 1e-6, name
            assert found.effect > 0.2, name


class TestUnfit:
    @pytest.mark.parametrize(
        ("reference", "current", "reason"),
        [
            (np.arange(100.0), np.arange(5.0), "the window has 5 rows, under 20"),
            (np.arange(5.0), np.arange(100.0), "the reference has 5 rows, under 20"),
            (np.arange(100.0), np.r_[np.nan, np.arange(99.0)], "1 of 100 values of the window are not finite"),
            (np.r_[np.inf, np.arange(99.0)], np.arange(100.0), "1 of 100 values of the reference are not finite"),
            (np.full(100, 3.0), np.full(100, 3.0), "one and the same value throughout"),
            (np.empty(0), np.empty(0), "the reference has 0 rows, under 20"),
        ],
    )
    def test_what_cannot_be_compared_is_named(self, reference, current, reason: str) -> None:
        assert unfit(reference, current) == reason

    @pytest.mark.parametrize("name", NAMES)
    def test_under_its_smallest_sample_a_detector_is_not_asked(self, name: str) -> None:
        for ours in parts_of(DETECTORS.load(name)):
            shape = (smallest_of(ours) - 1, 2) if ours.kind == "joint" else (smallest_of(ours) - 1,)
            kinds = [Column("x", JOINT if ours.kind == "joint" else DATA, ours.kind, np.zeros(shape))]
            rng = np.random.default_rng(0)
            many = rng.integers(0, 5, (500, *shape[1:])).astype(float)
            prepared = [Prepared(replace(kinds[0], values=many), name, ours, ours.prepare(many), "")]
            current = {(kinds[0].family, "x"): many[: shape[0]]}
            verdict, _ = judge(prepared, current, {f: OnlineFdr() for f in FAMILIES}, {})

            assert verdict.outcome == "inconclusive"
            assert f"the window has {shape[0]} rows, under {smallest_of(ours)}" == verdict.findings[0].why

    def test_a_constant_reference_with_other_values_now_can_be_compared(self) -> None:
        assert unfit(np.zeros(100), np.arange(100.0)) == ""


class TestNames:
    def test_auto_takes_alibi_detect_when_it_is_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(detectors, "alibi_installed", lambda: True)
        assert resolve("auto") == ("alibi_ks", "alibi_chi_squared", "ks", "chi_squared")

        monkeypatch.setattr(detectors, "alibi_installed", lambda: False)
        assert resolve("auto") == ("ks", "chi_squared")

    def test_a_kind_that_nobody_asked_for_is_judged_by_the_built_in_one(self) -> None:
        assert resolve("psi") == ("psi", "ks", "chi_squared")

    def test_an_unknown_name_is_refused_with_the_nearest(self) -> None:
        with pytest.raises(UnknownPlugin, match="did you mean 'psi'"):
            resolve(["pzi"])

    def test_listing_imports_no_detector(self) -> None:
        code = (
            "import sys; from mlcycle_nb.monitoring.detectors import DETECTORS; assert len(DETECTORS.names()) >= 7;"
            "assert not {'alibi_detect', 'torch', 'scipy'} & set(sys.modules)"
        )
        subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("module", ["magic", "records", "service"])
def test_a_module_of_the_front_imports_nothing_heavy(module: str) -> None:
    code = (
        f"import sys, mlcycle_nb.monitoring.{module};"
        "heavy = {'torch', 'mlflow', 'altair', 'pandas', 'alibi_detect', 'numpy', 'scipy', 'pyarrow'};"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
