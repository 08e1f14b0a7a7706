"""Options of a rollout that make no sense get their one clear error."""

from __future__ import annotations

import pytest

from mlcycle_nb.deployment.policy import make_policy, parse_percent, parse_share, parse_steps, parse_strategy
from mlcycle_nb.deployment.records import WHOLE, DeploymentStrategy, Weight, check_split
from mlcycle_nb.errors import InvalidInput

CANARY = DeploymentStrategy.CANARY


class TestSteps:
    """Weights in percent become integers out of 10,000."""

    @pytest.mark.parametrize(
        ("text", "steps"),
        [
            ("5,25,50,100", (500, 2500, 5000, WHOLE)),
            (" 0.5 , 12.25%,100", (50, 1225, WHOLE)),
            ("100", (WHOLE,)),
            ([1, 2.5, 100], (100, 250, WHOLE)),
        ],
    )
    def test_read(self, text, steps):
        assert parse_steps(text) == steps

    @pytest.mark.parametrize(
        "text", ["50,10,100", "-5,100", "5,5,100", "nan,100", "0,100", "5,inf", "5,,100", "", "a,100"]
    )
    def test_they_must_strictly_increase(self, text):
        with pytest.raises(InvalidInput, match=r"steps must strictly increase in \(0,100\]"):
            parse_steps(text)

    def test_they_must_end_at_100(self):
        with pytest.raises(InvalidInput, match=r"steps must end at 100 \(got '5,10,25,50'\)"):
            parse_steps("5,10,25,50")

    @pytest.mark.parametrize("text", ["5.123,100", "12.34567890123456789,100"])
    def test_more_than_two_decimals_are_refused_not_rounded(self, text):
        with pytest.raises(InvalidInput, match=r"at most two decimals.*integers out of 10,000"):
            parse_steps(text)


class TestOthers:
    """Intervals, counts, shares and names."""

    def test_a_strategy_that_is_unknown_gets_a_suggestion(self):
        with pytest.raises(InvalidInput, match=r"unknown strategy 'canry'.*did you mean 'canary'"):
            parse_strategy("canry")

    def test_rollback_is_a_verb(self):
        with pytest.raises(InvalidInput, match="unknown strategy 'rollback'"):
            parse_strategy("rollback")

    @pytest.mark.parametrize("interval", ["0s", "0", "-3w", "1e99w", "3 fortnights", "nan"])
    def test_interval(self, interval):
        with pytest.raises(InvalidInput):
            make_policy(CANARY, interval=interval)

    def test_no_requests_would_judge_on_no_data(self):
        with pytest.raises(InvalidInput, match="would judge on no data"):
            make_policy(CANARY, min_requests=0)

    @pytest.mark.parametrize("count", [-1, True, 10**9])
    def test_min_requests(self, count):
        with pytest.raises(InvalidInput, match="--min-requests must be a whole number"):
            make_policy(CANARY, min_requests=count)

    @pytest.mark.parametrize("share", ["0", "1", "1.5", "nan", "inf", "x", True, "-0.1"])
    def test_share(self, share):
        with pytest.raises(InvalidInput, match="must be between 0 and 1"):
            parse_share(share, what="--max-disagreement")

    def test_shares_may_be_percentages(self):
        assert parse_share("10%", what="x") == pytest.approx(0.1)

    @pytest.mark.parametrize("mirror", ["101", "-1", "nan", "1e2", "5.555", True])
    def test_mirror(self, mirror):
        with pytest.raises(InvalidInput, match="--mirror must be a percentage from 0 to 100"):
            parse_percent(mirror, what="--mirror")

    def test_deadline_is_longer_than_the_interval(self):
        with pytest.raises(InvalidInput, match="--deadline must be longer"):
            make_policy(CANARY, interval="10m", deadline="5m")

    def test_steps_belong_to_a_canary(self):
        with pytest.raises(InvalidInput, match="--steps belong to a canary, not to blue-green"):
            make_policy(DeploymentStrategy.BLUE_GREEN, steps="5,100")


class TestSplit:
    """A split is exact or refused."""

    @pytest.mark.parametrize("weights", [(9999, 0), (5000, 4999), (5000, 5001), (-1, 10_001)])
    def test_sums(self, weights):
        with pytest.raises(InvalidInput, match="10,000"):
            check_split((Weight(1, weights[0]), Weight(2, weights[1])))

    def test_a_version_twice(self):
        with pytest.raises(InvalidInput, match="each version once"):
            check_split((Weight(1, 5000), Weight(1, 5000)))
