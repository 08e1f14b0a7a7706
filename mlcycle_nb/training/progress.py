"""Where a job stands, folded from its workers' events; of any length of run in bounded memory."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from mlcycle_nb.notebook.curves import Curve, Point

_RATE_WINDOW_SECONDS = 10.0
_MOST_PENDING = 8192
_MOST_NOTES = 50


@dataclass(slots=True)
class RankState:
    """What one rank told last."""

    step: int = 0
    attempt: int = 0
    last_at: float = 0.0
    memory_bytes: int | None = None
    gpu_bytes: int | None = None
    error: str = ""


@dataclass(slots=True)
class Progress:
    """A running summary; `apply` takes one event after the other.

    Attributes
    ----------
    loss : Curve
        The loss of each step, the mean of the ranks by their rows. After a resume the steps since the checkpoint go.
    curves : dict of str to Curve
        Metrics by name.
    not_finite : dict of str to int
        How many values of a metric were NaN or infinite.
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
    loss: Curve = field(default_factory=Curve)
    curves: dict[str, Curve] = field(default_factory=dict)
    checkpoints: list[dict[str, Any]] = field(default_factory=list)
    resumed: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    ranks: dict[int, RankState] = field(default_factory=dict)
    best_name: str = ""
    higher_is_better: bool = False
    result: dict[str, Any] | None = None
    ended_early: str = ""  # why, when early stopping ended it
    _last: dict[str, tuple[int, float]] = field(default_factory=dict)
    _recent: deque[tuple[float, int, int]] = field(default_factory=deque)  # time, step, rows of all ranks
    _pending: dict[int, list[float]] = field(default_factory=dict)  # step: loss times rows, rows; not of all ranks yet

    def apply(self, event: dict[str, Any]) -> None:
        """Take in one event."""
        self.last_at = max(self.last_at or 0.0, event["time"])
        rank = self.ranks.setdefault(int(event.get("rank", 0)), RankState())
        rank.last_at = max(rank.last_at, event["time"])
        rank.attempt = int(event.get("attempt", rank.attempt))
        handler = getattr(self, f"_on_{event['kind']}", None)
        if handler is not None:
            handler(event)

    # -- what panels ask -------------------------------------------------------------------------------------

    @property
    def throughput(self) -> float | None:
        """Rows a second over the last ten seconds, of all ranks; None before there are two looks."""
        seconds = self._seconds()
        rows = sum(count for _, _, count in list(self._recent)[1:])
        return None if seconds is None else rows * (self.world or 1) / seconds

    @property
    def steps_per_second(self) -> float | None:
        """Optimizer steps a second over the last ten seconds; None before there are two looks."""
        seconds = self._seconds()
        return None if seconds is None else max(0, self._recent[-1][1] - self._recent[0][1]) / seconds

    @property
    def eta_seconds(self) -> float | None:
        """Seconds left at the pace of the last ten; None when that cannot be told."""
        pace = self.steps_per_second
        return None if self.total_steps is None or not pace else max(0, self.total_steps - self.step) / pace

    @property
    def memory_bytes(self) -> dict[int, int]:
        """Resident memory of each rank that told it."""
        return {rank: state.memory_bytes for rank, state in self.ranks.items() if state.memory_bytes is not None}

    @property
    def not_finite(self) -> dict[str, int]:
        """How many values were NaN or infinite, by metric; only those with any."""
        counts = {"loss": self.loss.not_finite} | {name: curve.not_finite for name, curve in self.curves.items()}
        return {name: count for name, count in counts.items() if count}

    def loss_curve(self) -> list[Point]:
        """Return (step, loss), thinned to a bounded number of points that keep every peak."""
        newest = [(step, total / rows) for step, (total, rows) in sorted(self._pending.items()) if rows]
        if not self.loss and not newest:
            return self.curve("loss")
        shown = Curve()
        shown.extend(newest)
        return [*self.loss.points(), *shown.points()]

    def curve(self, name: str) -> list[Point]:
        """Return (step, value) of a metric, thinned likewise."""
        return self.curves[name].points() if name in self.curves else []

    def latest(self) -> dict[str, float]:
        """Return the last value of each metric, finite or not."""
        found = {name: value for name, (_, value) in self._last.items()}
        newest = self.loss_curve()
        if newest and "loss" not in found:
            found["loss"] = newest[-1][1]
        return found

    def best(self) -> dict[str, Any] | None:
        """Return the best checkpoint so far."""
        best = [checkpoint for checkpoint in self.checkpoints if checkpoint["best"]]
        return best[-1] if best else None

    def best_point(self) -> Point | None:
        """Return the best value so far of the metric that checkpoints are chosen by."""
        curve = self.curves.get(self.best_name)
        return None if curve is None else curve.best(higher_is_better=self.higher_is_better)

    # -- events ----------------------------------------------------------------------------------------------

    def _on_started(self, event: dict[str, Any]) -> None:
        self.world, self.device, self.attempt = event["world"], event["device"], event["attempt"]
        self.started_at = self.started_at or event["time"]
        self._recent.clear()

    def _on_fit(self, event: dict[str, Any]) -> None:
        self.epochs, self.total_steps = event["epochs"], event["total_steps"]
        self.epoch, self.step = event["epoch"], event["step"]
        self.best_name = event.get("best", "")
        self.higher_is_better = bool(event.get("higher_is_better", False))

    def _on_steps(self, event: dict[str, Any]) -> None:
        rank, rows = event["rank"], event["rows"]
        state = self.ranks[rank]
        for step, loss, samples in rows:
            known = self._pending.setdefault(step, [0.0, 0.0])
            known[0] += loss * samples
            known[1] += samples
        state.step = rows[-1][0]
        state.memory_bytes = event.get("memory_bytes", state.memory_bytes)
        state.gpu_bytes = event.get("gpu_bytes", state.gpu_bytes)
        self._settle()
        if rank == 0:
            self.first_step_at = self.first_step_at or event["time"]
            self.epoch = event["epoch"]
            self._advance(rows[-1][0], event["time"], sum(samples for _, _, samples in rows))

    def _on_epoch(self, event: dict[str, Any]) -> None:
        self._on_metrics(event)

    def _on_metrics(self, event: dict[str, Any]) -> None:
        self.epoch = event["epoch"]
        for name, value in event["values"].items():
            self.curves.setdefault(name, Curve()).add(event["step"], value)
            self._last[name] = (event["step"], value)
        if event["step"] > self.step:
            self._advance(event["step"], event["time"], 0)

    def _on_checkpoint(self, event: dict[str, Any]) -> None:
        kept = [old for old in self.checkpoints if old["name"] != event["name"]]
        self.checkpoints = [*kept, event]

    def _on_checkpoint_failed(self, event: dict[str, Any]) -> None:
        self._note(f"checkpoint at step {event['step']} failed: {event['reason']}")

    def _on_checkpoint_rejected(self, event: dict[str, Any]) -> None:
        self._note(f"checkpoint {event['name']} was passed over: {event['reason']}")

    def _on_error(self, event: dict[str, Any]) -> None:
        # The echo of another rank's end is long, and about sockets; what ended the other one is told where it is known.
        message = "lost its connection to another rank" if event.get("cause") == "peer" else event["message"]
        self.ranks[event["rank"]].error = message
        self._note(f"rank {event['rank']}: {message}")

    def _on_trouble(self, event: dict[str, Any]) -> None:
        self._note(str(event["message"]))

    def _on_data_worker_lost(self, event: dict[str, Any]) -> None:
        self._note(f"rank {event['rank']} lost a data worker at step {event['step']} ({event['cause']})")

    def _on_resumed(self, event: dict[str, Any]) -> None:
        step = event["step"]
        self.resumed.append(step)
        for state in self.ranks.values():
            state.step = min(state.step, step)
        self._settle(up_to=step)
        self._pending.clear()
        self.loss.truncate(step)
        for name, curve in list(self.curves.items()):
            curve.truncate(step)
            if not curve:
                del self.curves[name]
        self._last = {name: last for name, last in self._last.items() if last[0] <= step}
        self._last |= {name: curve.last for name, curve in self.curves.items() if name not in self._last and curve.last}

    def _on_ended_early(self, event: dict[str, Any]) -> None:
        self.ended_early = event["reason"]

    def _on_result(self, event: dict[str, Any]) -> None:
        self.result = {"type": event["type"], "task": event["task"]}

    # -- parts -----------------------------------------------------------------------------------------------

    def _note(self, text: str) -> None:
        self.notes = [*self.notes, text][-_MOST_NOTES:]

    def _seconds(self) -> float | None:
        if len(self._recent) < 2:
            return None
        seconds = self._recent[-1][0] - self._recent[0][0]
        return seconds if seconds > 0 else None

    def _advance(self, step: int, moment: float, rows: int) -> None:
        self.step = step
        self._recent.append((moment, step, rows))
        while len(self._recent) > 2 and self._recent[0][0] < moment - _RATE_WINDOW_SECONDS:
            self._recent.popleft()

    def _settle(self, up_to: int | None = None) -> None:
        """Hand steps to the curve that all ranks have left behind; of a rank that died the last ones never come."""
        if up_to is None:
            if self.world is not None and sum(state.step > 0 for state in self.ranks.values()) >= self.world:
                up_to = min(state.step for state in self.ranks.values()) - 1
            elif len(self._pending) > _MOST_PENDING:
                up_to = sorted(self._pending)[-_MOST_PENDING // 2]
            else:
                return
        for step in sorted(step for step in self._pending if step <= up_to):
            total, rows = self._pending.pop(step)
            if rows and (self.loss.last is None or step > self.loss.last[0]):  # else a rank tells it too late
                self.loss.add(step, total / rows)
