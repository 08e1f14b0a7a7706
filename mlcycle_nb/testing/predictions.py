"""Served predictions without a server: written by the real prediction log writer, as a replica would."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray


class PredictionFeed:
    """The prediction log of one replica.

    Parameters
    ----------
    home : Path
        The workspace folder.
    environment, model, version
        Whose predictions.
    """

    def __init__(self, home: Path, environment: str, model: str, version: int) -> None:
        self._place = (home / "predictions", environment, model, version)
        self._sent = 0

    def send(
        self,
        inputs: NDArray[Any],
        outputs: Mapping[str, NDArray[Any]],
        *,
        ids: Sequence[str] | None = None,
        mirrored: bool = False,
        consumer: str = "tester",
    ) -> list[str]:
        """Log rows as requests of one row each, in one segment, and return their prediction ids."""
        from mlcycle_nb.serving.batching import Batch, Call
        from mlcycle_nb.serving.prediction_log import PredictionLogWriter

        names = list(ids) if ids is not None else [f"p{self._sent + row:08d}" for row in range(len(inputs))]
        self._sent += len(inputs)
        calls = []
        for row, name in enumerate(names):
            call = Call(inputs[row : row + 1], name, consumer, mirrored, time.monotonic())
            call.latency_ms = 1.5
            calls.append(call)
        writer = PredictionLogWriter(*self._place)
        writer.append(Batch(calls, inputs, dict(outputs)))
        writer.start()
        writer.close()
        if writer.write_errors or writer.dropped_rows:
            raise OSError(f"the prediction log lost rows: {writer.write_errors} errors")
        return names
