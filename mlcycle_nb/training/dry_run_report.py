"""What a dry run found: a result with a text face, an HTML face and a dict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from mlcycle_nb.notebook.html import Markup, heading, number, paragraph, table
from mlcycle_nb.training.job_folder import JobSpec

_UNITS = ("B", "kB", "MB", "GB", "TB")


@dataclass(frozen=True, slots=True, kw_only=True)
class RankMeasure:
    """What one process measured.

    Attributes
    ----------
    seconds : tuple of float
        For each of its batches, fetching included; the first one also starts everything up.
    samples : tuple of int or None
        Rows of each batch; None where the loop does not tell.
    memory_bytes : int
        The most that was resident.
    gpu_bytes, gpu_reserved_bytes : int, optional
        The most that tensors took on the GPU, and that torch had set aside for them.
    """

    rank: int
    seconds: tuple[float, ...]
    samples: tuple[int | None, ...]
    memory_bytes: int
    gpu: str | None = None
    gpu_bytes: int | None = None
    gpu_reserved_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class DryRun:
    """The result of a dry run; nothing else is left of it.

    Attributes
    ----------
    ready : bool
        Whether the cell can be trained as it is.
    batches_per_second : float, optional
        Of each process, from the second batch; None when there was none.
    samples_per_second : float, optional
        Of all processes together.
    checkpoint_bytes, checkpoint_blocked_seconds, checkpoint_seconds
        Of one real checkpoint: its size, how long training stood still, and how long it took until it was on the disk.
    batches_per_epoch : int, optional
        Of each process; None when the loader does not tell.
    eta_seconds : float, optional
        Of the whole run: its batches, validation and a checkpoint for each epoch, without starting up; None when
        the number of batches is unknown.
    seconds : float
        What the dry run itself took, starting up included.
    carried : dict of str to int
        Names taken from the notebook, with their size in bytes.
    cannot_carry : dict of str to str
        Names that cannot be taken along, with reason and remedy; then nothing was run.
    """

    model: str
    epochs: int
    world_size: int | None = None
    device: str = ""
    backend: str = ""
    threads: int | None = None
    ranks: tuple[RankMeasure, ...] = ()
    counted: bool = True  # whether batches were counted, or steps of an optimizer or of log()
    ended_by_itself: bool = False
    checkpoint_bytes: int | None = None
    checkpoint_blocked_seconds: float | None = None
    checkpoint_seconds: float | None = None
    batches_per_epoch: int | None = None
    validation_seconds: float | None = None  # of an epoch
    seconds: float = 0.0
    carried: Mapping[str, int] = field(default_factory=dict)
    cannot_carry: Mapping[str, str] = field(default_factory=dict)

    @property
    def ready(self) -> bool:
        """Whether the cell can be trained as it is."""
        return not self.cannot_carry

    @property
    def batch_seconds(self) -> float | None:
        """Seconds of a batch once everything runs, in the slowest process."""
        found = [each.seconds[-1] for each in self.ranks if each.seconds]
        return max(found) if found else None

    @property
    def batches_per_second(self) -> float | None:
        """Batches a second of each process."""
        seconds = self.batch_seconds
        return 1 / seconds if seconds else None

    @property
    def samples_per_second(self) -> float | None:
        """Rows a second of all processes together."""
        seconds, rows = self.batch_seconds, [each.samples[-1] for each in self.ranks if each.samples]
        if not seconds or not rows or any(count is None for count in rows):
            return None
        return sum(count for count in rows if count is not None) / seconds

    @property
    def eta_seconds(self) -> float | None:
        """Seconds of the whole run, without starting up."""
        if self.batches_per_epoch is None or self.batch_seconds is None:
            return None
        an_epoch = self.batches_per_epoch * self.batch_seconds
        an_epoch += (self.validation_seconds or 0.0) + (self.checkpoint_blocked_seconds or 0.0)
        return self.epochs * an_epoch

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values, rates and verdict included."""
        names = ("ready", "batches_per_second", "samples_per_second", "eta_seconds")
        tree = asdict(self) | {name: getattr(self, name) for name in names}
        tree["ranks"] = [{**rank, "seconds": list(rank["seconds"]), "samples": list(rank["samples"])}
                         for rank in tree["ranks"]]  # fmt: skip
        return tree

    def __repr__(self) -> str:
        rows = self._rows()
        width = max(len(name) for name, _ in rows)
        return "\n".join([f"dry run of {self.model}: {self._verdict()}"] + [f"  {n:<{width}}  {t}" for n, t in rows])

    def _repr_html_(self) -> str:
        title = heading(f"dry run of {self.model}", "passed" if self.ready else "failed")
        return Markup(title + paragraph(self._verdict()) + table(("", "measured"), self._rows()))

    # -- faces -----------------------------------------------------------------------------------------------

    def _verdict(self) -> str:
        if not self.ready:
            return "not ready: the cell uses what cannot be carried into the worker processes; nothing was run"
        if self.ended_by_itself:
            return "the cell ended by itself before its second step; nothing was kept"
        count = max((len(each.seconds) for each in self.ranks), default=0)
        unit = "batch" if self.counted else "step"
        unit += "es" if count > 1 and unit == "batch" else "s" if count > 1 else ""
        return f"ready; {count} {unit} in each process in {duration(self.seconds)}, nothing was kept"

    def _rows(self) -> list[tuple[str, str]]:
        rows = [("cannot carry", reason) for reason in self.cannot_carry.values()]
        if self.ranks:
            rows += [("runs on", self._place()), ("speed", self._speed()), ("memory", "; ".join(self._memory()))]
            rows += [("checkpoint", self._checkpoint()), ("whole run", self._whole())]
        listed = ", ".join(f"{name} {size(count)}" for name, count in sorted(self.carried.items(), key=_by_size))
        return [*rows, ("carried", listed or "nothing")]

    def _place(self) -> str:
        each = f"{self.threads} thread{'s' if self.threads != 1 else ''} each"
        backend = f", {self.backend}" if self.backend != "none" else ""
        return f"{self.world_size} process{'es' if self.world_size != 1 else ''} on {self.device}{backend}, {each}"

    def _speed(self) -> str:
        rate, rows = self.batches_per_second, self.samples_per_second
        if rate is None:
            return "unknown: no step was seen"
        unit = "batches/s" if self.counted else "steps/s"
        first = max(each.seconds[0] for each in self.ranks if each.seconds)
        alone = all(len(each.seconds) == 1 for each in self.ranks)
        tail = "from the first batch alone, start-up included" if alone else f"the first took {duration(first)}"
        together = "" if rows is None else f", {number(float(f'{rows:.3g}'))} samples/s in all"
        return f"{number(float(f'{rate:.3g}'))} {unit} in each process{together}; {tail}"

    def _memory(self) -> Iterable[str]:
        for each in self.ranks:
            gpu = ""
            if each.gpu_bytes is not None:
                gpu = f" and {size(each.gpu_bytes)} on {each.gpu} ({size(each.gpu_reserved_bytes or 0)} set aside)"
            yield f"rank {each.rank} {size(each.memory_bytes)}{gpu}"

    def _checkpoint(self) -> str:
        if self.checkpoint_bytes is None:
            return "none was taken: nothing went through accelerator.prepare or epochs(...)"
        blocked, written = self.checkpoint_blocked_seconds or 0.0, self.checkpoint_seconds or 0.0
        taken = size(self.checkpoint_bytes)
        return f"{taken}, stops training for {duration(blocked)}, on the disk after {duration(written)}"

    def _whole(self) -> str:
        if self.eta_seconds is None:
            return "unknown: the loop does not tell how many batches there are"
        validation = (
            "" if self.validation_seconds is None else f" with {duration(self.validation_seconds)} of validation"
        )
        epochs = f"{self.epochs} epoch{'s' if self.epochs != 1 else ''}"
        return f"about {duration(self.eta_seconds)}: {epochs} of {self.batches_per_epoch:,} batches{validation} each"


def summed_up(spec: JobSpec, events: Sequence[Mapping[str, Any]]) -> DryRun:
    """Return what the events of all ranks say of a dry run."""
    by_kind = {kind: [event for event in events if event["kind"] == kind] for kind in {e["kind"] for e in events}}
    started, told = by_kind["started"][0], sorted(by_kind["rehearsal"], key=lambda event: int(event["rank"]))
    saved = by_kind.get("checkpoint", [])
    main = told[0]
    ranks = tuple(
        RankMeasure(
            rank=event["rank"],
            seconds=tuple(seconds for _, seconds in event["batches"]),
            samples=tuple(rows for rows, _ in event["batches"]),
            memory_bytes=event["memory_bytes"],
            gpu=event["gpu"],
            gpu_bytes=event["gpu_bytes"],
            gpu_reserved_bytes=event["gpu_reserved_bytes"],
        )
        for event in told
    )
    validation = None
    if main["validation_seconds"] and main["full_validation"] is not None:
        validation = main["full_validation"] * main["validation_seconds"][-1]
    return DryRun(
        model=spec.model,
        epochs=main["epochs"] or spec.epochs,
        world_size=started["world"],
        device=started["device"].partition(":")[0],
        backend=started["backend"],
        threads=started["threads"],
        ranks=ranks,
        counted=main["counted"],
        ended_by_itself="finished" in by_kind,
        checkpoint_bytes=saved[-1]["size_bytes"] if saved else None,
        checkpoint_blocked_seconds=saved[-1]["blocked_seconds"] if saved else None,
        checkpoint_seconds=saved[-1]["seconds"] if saved else None,
        batches_per_epoch=main["full_batches"],
        validation_seconds=validation,
    )


def size(count: float) -> str:
    """Return a number of bytes in a unit that reads well: ``1.2 MB``."""
    amount, unit = float(count), 0
    while amount >= 1000 and unit < len(_UNITS) - 1:
        amount, unit = amount / 1000, unit + 1
    return f"{amount:.0f} {_UNITS[unit]}" if unit == 0 or amount >= 100 else f"{amount:.3g} {_UNITS[unit]}"


def duration(seconds: float) -> str:
    """Return a time that reads well: ``3.1 ms``, ``42 s``, ``2 h 5 min``."""
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 120:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    hours, rest = divmod(minutes, 60)
    return f"{hours} h {rest} min" if hours < 48 else f"{hours // 24} days {hours % 24} h"


def _by_size(item: tuple[str, int]) -> tuple[int, str]:
    return -item[1], item[0]
