"""What the gateway admits: sizes, counts and times, all in one place."""

from __future__ import annotations

from dataclasses import dataclass

from mlcycle_nb.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayLimits:
    """Limits of one gateway.

    Parameters
    ----------
    threads : int
        Envoy worker threads.
    max_concurrency : int
        Requests in flight to one version. Retries, connections and waiting requests get the same bound: with Envoy's
        default of 3 concurrent retries, one killed replica failed a tenth of the requests that were under way.
    body_bytes : int
        Largest request body; a longer one is answered with 413.
    header_kilobytes, header_count : int
        Bounds of the request head; over them the answer is 431.
    header_seconds, body_seconds : float
        Time for the head and for the whole request to arrive; a slower sender gets 408.
    answer_seconds : float
        Time for a replica to answer, retries included; then 504.
    attempt_seconds : float
        After this long without an answer a second replica is asked as well, and the first answer counts. It is for a
        replica that hangs: its connections stay open, so nothing else moves the requests that it holds.
    retries : int
        Further attempts at one request.
    """

    threads: int = 1
    max_concurrency: int = 1024
    body_bytes: int = 1_048_576
    header_kilobytes: int = 16
    header_count: int = 100
    header_seconds: float = 10.0
    body_seconds: float = 30.0
    answer_seconds: float = 60.0
    attempt_seconds: float = 10.0
    retries: int = 3

    @classmethod
    def from_settings(cls, settings: Settings) -> GatewayLimits:
        """Take the limits of a workspace."""
        serving = settings.serving
        return cls(
            threads=serving.gateway_threads,
            max_concurrency=serving.max_concurrency,
            body_bytes=serving.body_limit_bytes,
        )


def seconds(value: float) -> str:
    """Return a protobuf duration in JSON."""
    return f"{value:.3f}s"
