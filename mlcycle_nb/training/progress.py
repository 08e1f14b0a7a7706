"""Where a job stands, folded from its workers' events."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

_RATE_WINDOW_SECONDS = 10.0
_CURVE_POINTS = 400


@dataclass(slots=True)
class Progress:
    """A running summary; `apply` takes one event after the other.

    Attributes
    ----------
    steps : dict of int to dict of int to (float, int)
        For each rank its steps, with loss and rows. After a resume the steps since the checkpoint are replaced.
    curves : dict of str to dict of int to float
        Metrics by name and step.
    """

    world: int | None = None
    device: str = ""
    attempt: int = 0
    epoch: int = 0
    epochs: int | None = None
    step: int = 0
    total_steps: int | None = None
    started_at: float | None = None
    last_at: float | None = None
    first_step_at: float | None = None
    steps: dict[int, dict[int, tuple[float, int]]] = field(default_factory=dict)
    curves: dict[str, dict[int, float]] = field(default_factory=dict)
    checkpoints: list[dict[str, Any]] = field(default_factory=list)
    resumed: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    memory_bytes: dict[int, int] = field(default_factory=dict)
    best_name: str = ""
    result: dict[str, Any] | None = None
    ended_early: str = ""  # why, when early stopping ended it
    _recent: deque[tuple[float, int, int]] = field(default_factory=deque)  # time, step, rows of all ranks

    def apply(self, event: dict[str, Any]) -> None:
        """Take in one event."""
        self.last_at = max(self.last_at or 0.0, event["time"])
        if event["kind"] == "error":
            self.notes.append(f"rank {event['rank']}: {event['message']}")
            return
        handler = getattr(self, f"_on_{event['kind']}", None)
        if handler is not None:
            handler(event)

    # -- what panels ask -------------------------------------------------------------------------------------

    @property
    def throughput(self) -> float | None:
        """Rows a second over the last ten seconds, of all ranks; None before there are two looks."""
        if len(self._recent) < 2:
            return None
        (first, _, _), (last, _, _) = self._recent[0], self._recent[-1]
        rows = sum(count for _, _, count in list(self._recent)[1:])
        return rows * (self.world or 1) / (last - first) if last > first else None

    @property
    def eta_seconds(self) -> float | None:
        """Seconds left at the pace of the last ten; None when that cannot be told."""
        if len(self._recent) < 2 or self.total_steps is None:
            return None
        (first, before, _), (last, after, _) = self._recent[0], self._recent[-1]
        if after <= before or last <= first:
            return None
        return max(0, self.total_steps - self.step) * (last - first) / (after - before)

    def loss_curve(self, points: int = _CURVE_POINTS) -> list[tuple[int, float]]:
        """Return (step, loss), the mean over ranks weighted by rows, thinned evenly to about `points`."""
        main = self.steps.get(0, {})
        if not main:
            return thin(sorted(self.curves.get("loss", {}).items()), points)
        chosen = thin(sorted(main), points)
        return [(step, self._mean_loss(step)) for step in chosen]

    def curve(self, name: str, points: int = _CURVE_POINTS) -> list[tuple[int, float]]:
        """Return (step, value) of a metric, thinned."""
        return thin(sorted(self.curves.get(name, {}).items()), points)

    def latest(self) -> dict[str, float]:
        """Return the last value of each metric."""
        found = {name: values[max(values)] for name, values in self.curves.items() if values}
        if self.steps.get(0):
            found["loss"] = self._mean_loss(max(self.steps[0]))
        return found

    def best(self) -> dict[str, Any] | None:
        """Return the best checkpoint so far."""
        best = [checkpoint for checkpoint in self.checkpoints if checkpoint["best"]]
        return best[-1] if best else None

    # -- events ----------------------------------------------------------------------------------------------

    def _on_started(self, event: dict[str, Any]) -> None:
        self.world, self.device, self.attempt = event["world"], event["device"], event["attempt"]
        self.started_at = self.started_at or event["time"]
        self._recent.clear()

    def _on_fit(self, event: dict[str, Any]) -> None:
        self.epochs, self.total_steps = event["epochs"], event["total_steps"]
        self.epoch, self.step = event["epoch"], event["step"]
        self.best_name = event.get("best", "")

    def _on_steps(self, event: dict[str, Any]) -> None:
        rank, rows = event["rank"], event["rows"]
        self.steps.setdefault(rank, {}).update({step: (loss, samples) for step, loss, samples in rows})
        if "memory_bytes" in event:
            self.memory_bytes[rank] = event["memory_bytes"]
        if rank == 0:
            self.first_step_at = self.first_step_at or event["time"]
            self.epoch = event["epoch"]
            self._advance(rows[-1][0], event["time"], sum(samples for _, _, samples in rows))

    def _on_epoch(self, event: dict[str, Any]) -> None:
        self._on_metrics(event)

    def _on_metrics(self, event: dict[str, Any]) -> None:
        self.epoch = event["epoch"]
        for name, value in event["values"].items():
            self.curves.setdefault(name, {})[event["step"]] = value
        if event["step"] > self.step:
            self._advance(event["step"], event["time"], 0)

    def _on_checkpoint(self, event: dict[str, Any]) -> None:
        kept = [old for old in self.checkpoints if old["name"] != event["name"]]
        self.checkpoints = [*kept, event]

    def _on_checkpoint_failed(self, event: dict[str, Any]) -> None:
        self.notes.append(f"checkpoint at step {event['step']} failed: {event['reason']}")

    def _on_checkpoint_rejected(self, event: dict[str, Any]) -> None:
        self.notes.append(f"checkpoint {event['name']} was passed over: {event['reason']}")

    def _on_resumed(self, event: dict[str, Any]) -> None:
        self.resumed.append(event["step"])
        for steps in self.steps.values():
            for step in [step for step in steps if step > event["step"]]:
                del steps[step]
        for values in self.curves.values():
            for step in [step for step in values if step > event["step"]]:
                del values[step]

    def _on_ended_early(self, event: dict[str, Any]) -> None:
        self.ended_early = event["reason"]

    def _on_result(self, event: dict[str, Any]) -> None:
        self.result = {"type": event["type"], "task": event["task"]}

    # -- parts -----------------------------------------------------------------------------------------------

    def _advance(self, step: int, moment: float, rows: int) -> None:
        self.step = step
        self._recent.append((moment, step, rows))
        while len(self._recent) > 2 and self._recent[0][0] < moment - _RATE_WINDOW_SECONDS:
            self._recent.popleft()

    def _mean_loss(self, step: int) -> float:
        parts = [steps[step] for steps in self.steps.values() if step in steps]
        rows = sum(samples for _, samples in parts)
        return sum(loss * samples for loss, samples in parts) / rows if rows else parts[0][0]


def thin(items: list[Any], points: int) -> list[Any]:
    """Return about `points` of `items`, evenly spread, the first and the last among them."""
    if len(items) <= points:
        return items
    stride = (len(items) - 1) / (points - 1)
    return [items[round(position * stride)] for position in range(points)]


def apply_in_order(progress: Progress, events: list[dict[str, Any]]) -> None:
    """Apply events of several ranks in the order of their times."""
    for event in sorted(events, key=lambda event: event["time"]):
        progress.apply(event)
