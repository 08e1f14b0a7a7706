"""The analysis as Prometheus queries over what replicas export at ``/metrics``.

The new version is judged on all that its running pods have answered, as our analysis does, so its counters are read
as they stand; the old one on the time of one deadline. Each query has one value without labels, or none while too
little is known. Of the answers, only predictions count: ``mlcycle_replica_responses_total`` also counts probes and
scrapes, so predictions are the count of the latency histogram, and failures are named by their reason.
"""

from __future__ import annotations

from dataclasses import dataclass

from mlcycle_nb.deployment.export.wish import ExportWish

ANSWERED = "mlcycle_replica_latency_ms_count"
BUCKETS = "mlcycle_replica_latency_ms_bucket"
PROBLEMS = "mlcycle_replica_problems_total"
FAILURES = ("model_failed", "model_output_invalid", "overloaded")
"""Reasons that our own analysis charges to the version; what a caller did wrong is none, nor is a pod that drains."""
QUANTILE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One metric as a query, and the most its value may be."""

    name: str
    option: str  # as --require, --optional and --watch name it
    query: str
    most: float


def requests(wish: ExportWish) -> str:
    """Return the query for the predictions that the new version's pods were asked for."""
    new = _labels(wish, new=True)
    return f"sum({ANSWERED}{{{new}}}) + {_or_zero(f'sum({PROBLEMS}{{{new}, {_failures()}}})')}"


def judged(wish: ExportWish) -> tuple[Judged, ...]:
    """Return the metrics that can be judged from counters."""
    return (
        Judged(name="error-rate", option="error-rate", query=error_increase(wish), most=wish.policy.max_error_increase),
        Judged(name="latency-excess-ms", option="latency", query=latency_excess(wish), most=0.0),
    )


def error_increase(wish: ExportWish) -> str:
    """Return the query for the new version's share of failures less the old one's; none below the minimum."""
    new, old, span = _labels(wish, new=True), _labels(wish, new=False), f"[{wish.deadline}s]"
    failed = _or_zero(f"sum({PROBLEMS}{{{new}, {_failures()}}})")
    failed_before = _or_zero(f"sum(increase({PROBLEMS}{{{old}, {_failures()}}}{span}))")
    return (
        f"(\n  {failed}\n  / (({requests(wish)}) > 0)\n"
        f"  - {failed_before}\n"
        f"  / ((sum(increase({ANSWERED}{{{old}}}{span})) + {failed_before}) > 0)\n)\n{_enough(wish)}"
    )


def latency_excess(wish: ExportWish) -> str:
    """Return the query for the milliseconds by which the new version is slower than tolerated; none below the minimum.

    What is tolerated: the old version's 95th percentile, slower by ``max_slowdown``, and the slack on top.
    """
    new, old, policy = _labels(wish, new=True), _labels(wish, new=False), wish.policy
    now = f"histogram_quantile({QUANTILE}, sum by (le) ({BUCKETS}{{{new}}}))"
    before = f"histogram_quantile({QUANTILE}, sum by (le) (increase({BUCKETS}{{{old}}}[{wish.deadline}s])))"
    tolerated = f"{1 + policy.max_slowdown:.6g} * {before}\n  - {policy.latency_slack_ms:g}"
    return f"(\n  {now}\n  - {tolerated}\n)\n{_enough(wish)}"


def _enough(wish: ExportWish) -> str:
    return f"and (({requests(wish)}) >= {wish.policy.min_requests})"


def _labels(wish: ExportWish, *, new: bool) -> str:
    # Names of models and environments hold nothing that would have to be escaped here.
    version = f'version="{wish.version}"' if new else f'version!="{wish.version}"'
    if not new and wish.base is not None:
        version = f'version="{wish.base}"'
    return f'model="{wish.model}", environment="{wish.environment}", {version}'


def _failures() -> str:
    return f'reason=~"{"|".join(FAILURES)}"'


def _or_zero(query: str) -> str:
    # A counter that nothing has counted yet has no series at all.
    return f"({query} or vector(0))"
