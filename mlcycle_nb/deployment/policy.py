"""Reads what a person asks of a rollout, and refuses what cannot be meant."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import timedelta

from mlcycle_nb.deployment.records import WHOLE, DeploymentStrategy, RolloutPolicy
from mlcycle_nb.errors import InvalidInput, did_you_mean
from mlcycle_nb.references import parse_duration

DEFAULT_STEPS = "5,25,50,100"
DEFAULT_DURATION = "30m"
METRICS = ("error-rate", "latency", "disagreement", "prediction-shift", "accuracy")
_PERCENT = re.compile(r"\d{1,3}(?:\.\d{1,2})?")
_CHOICES = tuple(s for s in DeploymentStrategy if s is not DeploymentStrategy.ROLLBACK)


def parse_strategy(text: str | DeploymentStrategy) -> DeploymentStrategy:
    """Return the strategy of a name; ``blue_green`` and ``blue-green`` are the same."""
    known = [str(choice) for choice in _CHOICES]
    word = str(text).replace("_", "-").lower()
    if word not in known:
        remedy = f"{did_you_mean(word, known)}known: {', '.join(known)}"
        raise InvalidInput(f"unknown strategy {word!r}", value=str(text), remedy=remedy)
    return DeploymentStrategy(word)


def parse_percent(text: str | float | int, *, what: str, low: float = 0.0) -> int:
    """Return a percentage as a weight out of 10,000: ``12.5`` is 1,250."""
    shown = text if isinstance(text, str) else repr(text)
    stripped = shown.strip().removesuffix("%").removesuffix(".0")
    if isinstance(text, bool) or not _PERCENT.fullmatch(stripped) or not low <= float(stripped) <= 100:
        raise InvalidInput(
            f"{what} must be a percentage from {low:g} to 100 with at most two decimals",
            value=text,
            remedy=f"weights are integers out of {WHOLE:,}",
        )
    return round(float(stripped) * 100)


def parse_steps(text: str | Sequence[float]) -> tuple[int, ...]:
    """Read canary weights in percent, such as ``5,25,50,100``, as integers out of 10,000.

    Raises
    ------
    InvalidInput
        Unless they strictly increase in (0, 100] and end at 100.
    """
    parts: list[str | float] = [part.strip() for part in text.split(",")] if isinstance(text, str) else list(text)
    shown = text if isinstance(text, str) else ",".join(str(part) for part in parts)
    steps: list[int] = []
    for part in parts:
        number = _number(part)
        if number is None or not 0 < number <= 100 or (steps and round(number * 100) <= steps[-1]):
            raise InvalidInput("steps must strictly increase in (0,100]", value=shown, where="--steps")
        steps.append(parse_percent(part, what="a step"))
    if not steps or steps[-1] != WHOLE:
        raise InvalidInput("steps must end at 100", value=shown, where="--steps", remedy=f"such as {DEFAULT_STEPS}")
    return tuple(steps)


def _number(part: str | float) -> float | None:
    try:
        number = float(str(part).removesuffix("%"))
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def parse_share(value: str | float, *, what: str) -> float:
    """Return a share strictly between 0 and 1; ``10%`` is 0.1."""
    number = _number(value)
    if number is not None and isinstance(value, str) and value.strip().endswith("%"):
        number /= 100
    if number is None or isinstance(value, bool) or not 0 < number < 1:
        raise InvalidInput(f"{what} must be between 0 and 1", value=value, remedy="such as 0.1, or 10%")
    return number


def whole_number(value: object, *, what: str, low: int, high: int, zero: str = "") -> int:
    """Return a whole number within bounds; `zero` says why 0 makes no sense."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        problem = f"{what} must be a whole number from {low} to {high}"
        raise InvalidInput(f"{problem}; 0 {zero}" if zero and value == 0 else problem, value=value)
    return value


def make_policy(
    strategy: DeploymentStrategy,
    *,
    steps: str | Sequence[float] | None = None,
    interval: str | None = None,
    min_requests: int | None = None,
    deadline: str | None = None,
    mirror: str | float | None = None,
    max_disagreement: str | float | None = None,
    max_error_increase: str | float | None = None,
    max_slowdown: str | float | None = None,
    max_shift: str | float | None = None,
    max_accuracy_loss: str | float | None = None,
    require: str | Sequence[str] = (),
    optional: str | Sequence[str] = (),
    watch: str | Sequence[str] = (),
    warm: str | None = None,
    duration: str | None = None,
    compare: int | None = None,
) -> RolloutPolicy:
    """Return the policy of a rollout from what was asked for, with the strategy's own defaults for the rest."""
    canary = strategy is DeploymentStrategy.CANARY
    if steps is not None and not canary:
        raise InvalidInput(f"--steps belong to a canary, not to {strategy}", where="--steps")
    shadow = strategy is DeploymentStrategy.SHADOW
    _check_shadow(
        strategy, shadow, {"interval": interval, "deadline": deadline}, {"duration": duration, "compare": compare}
    )
    default = RolloutPolicy()
    quick = strategy in (DeploymentStrategy.ROLLING, DeploymentStrategy.ALL_AT_ONCE)
    length = parse_duration(interval or ("1s" if quick else "60s"), what="--interval")
    held = max(timedelta(hours=1), 10 * length) if deadline is None else parse_duration(deadline, what="--deadline")
    if shadow:
        length = held = parse_duration(duration or DEFAULT_DURATION, what="--duration")
    elif held <= length:
        raise InvalidInput("--deadline must be longer than --interval", value=deadline)
    may_fail, watched = _modes(default, require, optional, watch)
    wanted = (100 if canary or shadow else 20) if min_requests is None else min_requests
    return RolloutPolicy(
        steps=parse_steps(steps or DEFAULT_STEPS) if canary else (WHOLE,),
        interval_seconds=length.total_seconds(),
        min_requests=whole_number(wanted, what="--min-requests", low=1, high=10_000_000, zero="would judge on no data"),
        deadline_seconds=held.total_seconds(),
        mirror=parse_percent("20" if mirror is None else mirror, what="--mirror", low=1.0 if shadow else 0.0),
        compared=0 if compare is None else whole_number(compare, what="--compare", low=1, high=10_000_000),
        max_disagreement=parse_share(
            default.max_disagreement if max_disagreement is None else max_disagreement, what="--max-disagreement"
        ),
        max_error_increase=parse_share(
            default.max_error_increase if max_error_increase is None else max_error_increase,
            what="--max-error-increase",
        ),
        max_slowdown=parse_share(default.max_slowdown if max_slowdown is None else max_slowdown, what="--max-slowdown"),
        max_shift=parse_share(default.max_shift if max_shift is None else max_shift, what="--max-shift"),
        max_accuracy_loss=parse_share(
            default.max_accuracy_loss if max_accuracy_loss is None else max_accuracy_loss, what="--max-accuracy-loss"
        ),
        optional=may_fail,
        watched=watched,
        warm_seconds=parse_duration(warm or "5m", what="--warm").total_seconds(),
    )


def _check_shadow(
    strategy: DeploymentStrategy, shadow: bool, others: dict[str, object], own: dict[str, object]
) -> None:
    """Refuse times of steps for a shadow, which has none, and what only a shadow has for the others."""
    for name in (name for name, value in (others if shadow else own).items() if value is not None):
        remedy = "it ends after --duration or --compare" if shadow else "choose --shadow"
        raise InvalidInput(f"--{name} does not belong to a {strategy} deployment", where=f"--{name}", remedy=remedy)


def _modes(
    default: RolloutPolicy, require: str | Sequence[str], optional: str | Sequence[str], watch: str | Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return which metrics are optional and which are only watched."""
    modes = {name: "optional" if name in default.optional else "required" for name in METRICS}
    said: set[str] = set()
    for option, names in (("required", require), ("optional", optional), ("watched", watch)):
        for name in names.split(",") if isinstance(names, str) else names:
            word = name.strip().replace(" ", "-")
            if word not in METRICS:
                raise InvalidInput(
                    "unknown metric",
                    value=name,
                    where=f"--{'require' if option == 'required' else 'watch' if option == 'watched' else option}",
                    remedy=f"{did_you_mean(word, METRICS)}known: {', '.join(METRICS)}",
                )
            if word in said:
                raise InvalidInput("a metric is required, optional or watched, not two of these", value=word)
            said.add(word)
            modes[word] = option
    if "required" not in modes.values():
        raise InvalidInput("at least one metric must be required", remedy="--require error-rate")
    names_of = {mode: tuple(name for name in METRICS if modes[name] == mode) for mode in ("optional", "watched")}
    return names_of["optional"], names_of["watched"]
