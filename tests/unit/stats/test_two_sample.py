"""Two-sample comparisons, against scipy and worked examples."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as oracle
from scipy.stats.contingency import association

from mlcycle_nb.errors import InvalidInput
from mlcycle_nb.stats.two_sample import (
    SortedReference,
    chi_squared,
    count_categories,
    cramers_v,
    ks,
    psi,
    psi_categories,
    wasserstein_effect,
    with_exact_tail,
)


class TestKolmogorovSmirnov:
    @pytest.mark.parametrize(
        ("m", "n", "shift", "ties"), [(500, 200, 0.0, 0), (1000, 80, 0.3, 0), (300, 300, 0.2, 1), (50, 20, 1, 1)]
    )
    def test_it_agrees_with_scipy(self, m: int, n: int, shift: float, ties: int) -> None:
        rng = np.random.default_rng(m + n)
        reference, current = rng.normal(size=m), rng.normal(shift, size=n)
        if ties:
            reference, current = reference.round(1), current.round(1)
        expected = oracle.ks_2samp(reference, current, method="asymp")

        result = ks(SortedReference.of(reference), current)

        assert result.statistic == pytest.approx(expected.statistic, abs=1e-12)
        assert result.p_value == pytest.approx(expected.pvalue, rel=1e-9)
        assert (result.n_reference, result.n_current) == (m, n)

    def test_row_order_does_not_matter(self) -> None:
        rng = np.random.default_rng(3)
        reference, current = rng.normal(size=100), rng.normal(size=50)

        assert ks(reference, current) == ks(reference[::-1], rng.permutation(current))

    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    def test_a_value_that_is_not_finite_is_refused_with_its_place(self, bad: float) -> None:
        with pytest.raises(InvalidInput, match=r"current\[1\]"):
            ks([1.0, 2.0, 3.0], [1.0, bad, 2.0])

    def test_one_value_is_too_few(self) -> None:
        with pytest.raises(InvalidInput, match="at least 2"):
            ks([1.0, 2.0], [1.0])


class TestEffects:
    def test_a_pure_shift_is_measured_in_standard_deviations(self) -> None:
        reference = np.random.default_rng(1).normal(5, 3, 2000)

        assert wasserstein_effect(reference, reference + 0.75 * reference.std()) == pytest.approx(0.75)
        assert wasserstein_effect(reference, reference) == 0

    def test_a_constant_reference_is_told_apart(self) -> None:
        assert wasserstein_effect([2.0, 2.0], [2.0, 2.0]) == 0
        assert math.isinf(wasserstein_effect([2.0, 2.0], [2.0, 2.5]))

    def test_psi_of_a_worked_example(self) -> None:
        """(0.7-0.5) ln(0.7/0.5) + (0.3-0.5) ln(0.3/0.5) = 0.16946, up to the half counts."""
        assert psi_categories({"a": 50_000, "b": 50_000}, {"a": 70_000, "b": 30_000}) == pytest.approx(
            0.16946, abs=1e-4
        )

    def test_psi_grows_with_the_shift(self) -> None:
        reference = np.random.default_rng(2).normal(size=5000)

        assert psi(reference, reference) == pytest.approx(0, abs=1e-12)
        assert psi(reference, reference[:2000] + 0.1) < 0.1 < 0.25 < psi(reference, reference[:2000] + 1)


class TestChiSquared:
    def test_it_agrees_with_scipy_when_all_cells_are_large(self) -> None:
        table = [[30, 50, 20], [45, 35, 20]]
        expected = oracle.chi2_contingency(table, correction=False)

        result = chi_squared(dict(zip("abc", table[0], strict=True)), dict(zip("abc", table[1], strict=True)))

        assert result.statistic == pytest.approx(expected.statistic)
        assert result.p_value == pytest.approx(expected.pvalue)

    def test_small_cells_are_merged(self) -> None:
        expected = oracle.chi2_contingency([[500, 447, 53], [60, 35, 5]], correction=False)

        # v, w, x, y and z are rare and become one cell.
        result = chi_squared(
            {"a": 500, "b": 447, "x": 20, "y": 15, "z": 18}, {"a": 60, "b": 35, "w": 2, "v": 2, "z": 1}
        )

        assert result.p_value == pytest.approx(expected.pvalue)

    def test_a_very_thin_rest_joins_the_next_smallest(self) -> None:
        expected = oracle.chi2_contingency([[500, 449], [60, 41]], correction=False)

        assert chi_squared({"a": 500, "b": 448, "x": 1}, {"a": 60, "b": 41}).p_value == pytest.approx(expected.pvalue)

    def test_samples_of_one_source_are_seldom_told_apart(self) -> None:
        """300 pairs with rare categories: 5 % stated, 3 sigma above is 26."""
        rng = np.random.default_rng(21)
        shares = [0.5, 0.3, 0.1, 0.05, 0.03, 0.015, 0.005]
        small = 0
        for _ in range(300):
            draws = [rng.choice(7, size=size, p=shares) for size in (1000, 60)]
            small += chi_squared(count_categories(draws[0]), count_categories(draws[1])).p_value < 0.05

        assert small <= 26

    def test_two_small_cells_are_judged_exactly(self) -> None:
        expected = oracle.fisher_exact([[8, 2], [1, 5]])

        assert chi_squared({"a": 8, "b": 2}, {"a": 1, "b": 5}).p_value == pytest.approx(expected.pvalue)

    def test_an_unseen_category_is_noticed(self) -> None:
        assert chi_squared({"a": 500, "b": 500}, {"a": 40, "b": 40, "new": 40}).p_value < 1e-60

    def test_one_category_is_no_difference(self) -> None:
        assert chi_squared({"a": 10}, {"a": 7}).p_value == 1

    @pytest.mark.parametrize("counts", [{}, {"a": 0}, {"a": -1}, {"a": 1.5}])
    def test_counts_that_are_not_counts_are_refused(self, counts: dict[str, int]) -> None:
        with pytest.raises(InvalidInput):
            chi_squared({"a": 3}, counts)

    def test_cramers_v_is_near_scipy_on_a_large_table(self) -> None:
        table = np.array([[3000, 5000], [4500, 3500]])

        assert cramers_v(table) == pytest.approx(association(table, method="cramer"), abs=0.002)
        assert cramers_v([[1000, 0], [0, 1000]]) == pytest.approx(1, abs=1e-3)
        assert cramers_v([[10, 10], [10, 10]]) == 0

    def test_categories_are_counted(self) -> None:
        assert count_categories(["b", "a", "b"]) == {"a": 1, "b": 2}


class TestExactTail:
    def test_a_rare_category_has_no_chi_squared_tail(self) -> None:
        """Of 100 rows 8 of a category of 1 %: chance 1e-5 by the exact test, not 2e-8."""
        first, second = {"a": 990, "b": 990, "c": 20}, {"a": 46, "b": 46, "c": 8}
        found = chi_squared(first, second).p_value
        exact = float(oracle.fisher_exact(np.array([[20, 1980], [8, 92]]))[1])

        assert found < 1e-7
        assert 3 * exact <= with_exact_tail(found, first, second) <= 6.001 * exact

    def test_where_it_can_be_trusted_nothing_changes(self) -> None:
        common = {"a": 500, "b": 300, "c": 200}, {"a": 140, "b": 230, "c": 130}
        rare = {"a": 990, "b": 990, "c": 20}, {"a": 48, "b": 50, "c": 2}

        for first, second in (common, rare):
            found = chi_squared(first, second).p_value
            assert with_exact_tail(found, first, second) == found
        assert chi_squared(*common).p_value < 1e-9

    def test_it_holds_its_level_however_small(self) -> None:
        """Exactly: of all windows of 60 rows with a category of 2 %, no more fall below it than it says."""
        chance = oracle.binom(60, 0.02)
        for rare in range(8, 31, 2):
            others = (60 - rare) // 2
            first, second = {"a": 980, "b": 980, "c": 40}, {"a": others, "b": others, "c": rare}
            assert chance.sf(rare - 1) <= with_exact_tail(chi_squared(first, second).p_value, first, second), rare
