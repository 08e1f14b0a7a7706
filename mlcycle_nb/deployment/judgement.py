"""What an analysis says about a rollout: one verdict a metric, and whether the next weight may be tried."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from mlcycle_nb.deployment.records import WHOLE
from mlcycle_nb.outcomes import Outcome, overall


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricVerdict:
    """What is known of one metric.

    ``worst`` is the upper bound of the harm to a request that the canary answers, in units of what is tolerated: at
    most 1 is fine for all traffic. None when nothing bounds it yet.
    """

    name: str
    outcome: Outcome
    reason: str
    requests: int = 0
    enough: bool = False  # requests reach the minimum
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    worst: float | None = None
    mode: Literal["required", "optional", "watched"] = "required"

    @property
    def slug(self) -> str:
        """The name as options give it: ``error-rate``."""
        return self.name.replace(" ", "-")

    @property
    def decides(self) -> bool:
        """Whether its verdict counts: one that is optional only when it fails, one that is watched never."""
        return self.mode == "required" or (self.mode == "optional" and self.outcome is Outcome.FAILED)

    def allows(self, weight: int) -> bool:
        """Whether `weight` of 10,000 may go to the canary: proven good, or too small a share to do more harm."""
        if not self.decides or self.outcome in (Outcome.PASSED, Outcome.SKIPPED):
            return True
        if self.outcome is not Outcome.INCONCLUSIVE or weight >= WHOLE or not self.enough or self.worst is None:
            return False
        return self.worst * weight <= WHOLE


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """All metrics of a rollout, and the requests that its present step has had."""

    metrics: tuple[MetricVerdict, ...] = ()
    step_requests: int = 0
    last_request: datetime | None = None  # of the new version, by the machine's clock

    @property
    def outcome(self) -> Outcome:
        """The worst of all metrics; without any, inconclusive."""
        return overall(metric.outcome for metric in self.metrics if metric.decides)

    @property
    def failure(self) -> str:
        """Why the canary has to go, or the empty text."""
        deciding = (metric for metric in self.metrics if metric.decides)
        return "; ".join(metric.reason for metric in deciding if metric.outcome is Outcome.FAILED)

    def holds(self, weight: int) -> str:
        """Return why `weight` may not be tried yet, or the empty text."""
        return "; ".join(metric.reason for metric in self.metrics if not metric.allows(weight))
