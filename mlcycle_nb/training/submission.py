"""What a training job is asked for: checked before anything is stored or started."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from mlcycle_nb.errors import InvalidInput
from mlcycle_nb.references import check_name, format_duration, parse_duration
from mlcycle_nb.training.nodes import check_nodes
from mlcycle_nb.training.trouble import check_policies

RESUMES = ("auto", "never")
DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("no", "bf16", "fp16")
MAX_PROCESSES = 256
_PARAMETER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
Param = str | int | float | bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingOptions:
    """How a cell is trained, apart from the cell.

    Attributes
    ----------
    checkpoint_every : str
        ``"200"`` steps or ``"30s"``; besides, one is taken after each epoch.
    processes : int
        Worker processes on each host.
    nodes : int
        Hosts that take part; each runs as many processes.
    rendezvous : str
        ``HOST:PORT`` where several hosts meet: an address of this one.
    join_timeout : str
        How long the others may take to join, at the start and after each recovery.
    max_restarts : int
        Crashes in a row, without a new checkpoint in between, that are recovered from.
    grace : str
        From being told to stop, by a request or a signal, to the end with a checkpoint; then the workers are killed.
    stall : str
        How long no step may come once training has begun.
    on_trouble : mapping of str to str
        Kind of trouble -> ``stop``, ``rollback`` or ``ignore``; see `trouble.DEFAULT_POLICIES`.
    max_rollbacks : int
        Roll-backs of one job; the next trouble of the kind stops it.
    environment : str
        Name of the isolated environment that the workers run in; empty for the kernel's own.
    resume : {"auto", "never"}
        Whether what was ended from outside goes on by itself, and what was stopped when its cell is run again.
    """

    processes: int = 1
    epochs: int = 1
    params: Mapping[str, Param] = field(default_factory=dict)
    seed: int = 0
    device: str = "auto"
    mixed_precision: str = "no"
    gradient_accumulation: int = 1
    checkpoint_every: str = "30s"
    keep_last: int = 2
    keep_best: int = 1
    max_restarts: int = 5
    grace: str = "30s"
    stall: str = "20m"
    on_trouble: Mapping[str, str] = field(default_factory=dict)
    max_rollbacks: int = 3
    resume: str = "auto"
    environment: str = ""

    nodes: int = 1
    rendezvous: str = ""
    join_timeout: str = "10m"

    def __post_init__(self) -> None:
        _whole("processes", self.processes, 1, MAX_PROCESSES)
        check_nodes(self.nodes, self.rendezvous)
        self.join_seconds()
        _whole("epochs", self.epochs, 1, 1_000_000)
        _whole("seed", self.seed, 0, 2**63 - 1)
        _whole("gradient_accumulation", self.gradient_accumulation, 1, 100_000)
        _whole("keep_last", self.keep_last, 1, 1000)
        _whole("keep_best", self.keep_best, 0, 1000)
        _whole("max_restarts", self.max_restarts, 0, 1000)
        _whole("max_rollbacks", self.max_rollbacks, 0, 1000)
        _one_of("device", self.device, DEVICES)
        _one_of("resume", self.resume, RESUMES)
        _one_of("mixed_precision", self.mixed_precision, PRECISIONS)
        for name, value in self.params.items():
            check_param(name, value)
        self.checkpoint_steps_and_seconds()
        self.grace_seconds(), self.stall_seconds()
        check_policies(self.on_trouble)
        if self.environment:
            check_name(self.environment, "environment name")

    @property
    def world_size(self) -> int:
        """Worker processes on all hosts together."""
        return self.processes * self.nodes

    def join_seconds(self) -> float:
        """Return how long others may take to join, from a second to a day."""
        return _seconds("join_timeout", self.join_timeout, timedelta(days=1))

    def grace_seconds(self) -> float:
        """Return the grace, from a second to a day."""
        return _seconds("grace", self.grace, timedelta(days=1))

    def stall_seconds(self) -> float:
        """Return how long no step may come, from a second to four weeks."""
        return _seconds("stall", self.stall, timedelta(weeks=4))

    def checkpoint_steps_and_seconds(self) -> tuple[int, float]:
        """Return steps between checkpoints, or 0, and seconds between them."""
        text = self.checkpoint_every
        if isinstance(text, str) and text.isascii() and text.isdigit():
            _whole("checkpoint_every", int(text), 1, 10**9)
            return int(text), 0.0
        return 0, parse_duration(text, what="checkpoint_every").total_seconds()

    def digest_with(self, model: str, cell_digest: str, data_digest: str) -> str:
        """Return what makes two submissions the same one."""
        parts = [model, cell_digest, data_digest, self.processes, self.epochs, dict(sorted(self.params.items()))]
        parts += [self.seed, self.device, self.mixed_precision, self.gradient_accumulation]
        parts += [self.nodes, self.rendezvous] if self.nodes > 1 else []
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def parse_params(texts: Sequence[str]) -> dict[str, Param]:
    """Read ``name=value`` texts: whole numbers, fractions, true, false, none, else text.

    Raises
    ------
    InvalidInput
        When there is no ``=``, the name is no Python name, it is given twice, or the value is NaN or infinite.
    """
    params: dict[str, Param] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise InvalidInput("a parameter has no value", value=text, where="--param", remedy="write --param lr=0.01")
        if name in params:
            raise InvalidInput(f"parameter {name!r} is given twice", value=text, where="--param")
        params[name] = parse_value(value)
        check_param(name, params[name])
    return params


def check_param(name: str, value: object, *, where: str = "--param") -> None:
    """Refuse a parameter that is no plain value or has no proper name."""
    if not isinstance(name, str) or not _PARAMETER.fullmatch(name):
        raise InvalidInput("a parameter's name must be a Python name", value=name, where=where)
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidInput(f"parameter {name!r} must be finite", value=value, where=where)
    if not isinstance(value, str | int | float | bool | None):
        remedy = "define objects in a cell above and use them by name"
        raise InvalidInput(f"parameter {name!r} must be a plain value", value=value, where=where, remedy=remedy)


def check_model(name: str) -> str:
    """Return a model's name that follows the grammar."""
    return check_name(name, "model name")


def parse_value(text: str) -> Param:
    """Read one value: a whole number, a fraction, true, false, none, else text."""
    words: dict[str, Param] = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _whole(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidInput(f"{name} must be a whole number from {low} to {high}", value=value)


def _seconds(name: str, text: str, longest: timedelta) -> float:
    length = parse_duration(text, what=name, minimum=timedelta(seconds=1))
    if length > longest:
        raise InvalidInput(f"{name} is out of range", value=text, remedy=f"use from 1s to {format_duration(longest)}")
    return length.total_seconds()


def _one_of(name: str, value: str, known: Sequence[str]) -> None:
    from mlcycle_nb.errors import did_you_mean

    if value not in known:
        raise InvalidInput(
            f"unknown {name}", value=value, remedy=f"{did_you_mean(str(value), known)}known: {', '.join(known)}"
        )
