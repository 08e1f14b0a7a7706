"""What can go wrong with a training that runs, and what is done then: by kind, as asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from mlcycle_nb.errors import InvalidInput, did_you_mean

POLICIES = ("stop", "rollback", "ignore")
DEFAULT_POLICIES: Mapping[str, str] = {
    "non_finite": "stop",
    "non_finite_gradient": "stop",
    "loss_spike": "ignore",
    "stall": "rollback",
    "out_of_memory": "stop",
}
"""Kinds of trouble. ``non_finite`` is a loss, a metric named loss, or a weight; out of memory is never ignored."""

SKIPPED_BATCHES = 100
"""At most so many batches of each rank are skipped after a roll-back: the bad one and those before it."""

_NEVER_IGNORED = ("non_finite", "out_of_memory")


class Trouble(InvalidInput):
    """Training as it is cannot go on.

    Attributes
    ----------
    skip : tuple of int, optional
        Epoch, first and last batch that are passed over when training goes on before them.
    """

    kind: ClassVar[str] = "user"
    skip: tuple[int, int, int] | None = None


class NonFinite(Trouble):
    """A loss or a weight is NaN or infinite."""

    kind = "non_finite"


class NonFiniteGradient(Trouble):
    """The norm of the gradients is NaN or infinite."""

    kind = "non_finite_gradient"


class LossSpike(Trouble):
    """The loss has left the range of the steps before."""

    kind = "loss_spike"


def parse_policies(texts: Sequence[str]) -> dict[str, str]:
    """Read ``rollback``, for every kind, and ``loss_spike=rollback``, for one.

    Raises
    ------
    InvalidInput
        When a kind or a policy is unknown, or one kind is given twice.
    """
    chosen: dict[str, str] = {}
    for text in texts:
        kind, equals, policy = text.partition("=")
        if not equals:
            kind, policy = "", text
        elif not kind:
            raise InvalidInput("a policy names no kind", value=text, where="--on-trouble", remedy="write stall=stop")
        if kind in chosen:
            raise InvalidInput("a policy is given twice", value=text, where="--on-trouble")
        chosen[kind] = policy
    general = chosen.pop("", None)
    policies = {} if general is None else dict.fromkeys(DEFAULT_POLICIES, general)
    return check_policies({**policies, **chosen})


def check_policies(given: Mapping[str, str]) -> dict[str, str]:
    """Return a policy for every kind: the one given, or the default.

    Raises
    ------
    InvalidInput
        When a kind or a policy is unknown, or a kind is to be ignored that cannot be.
    """
    for kind, policy in given.items():
        if kind not in DEFAULT_POLICIES:
            remedy = f"{did_you_mean(str(kind), DEFAULT_POLICIES)}known: {', '.join(DEFAULT_POLICIES)}"
            raise InvalidInput("unknown kind of trouble", value=kind, where="--on-trouble", remedy=remedy)
        if policy not in POLICIES:
            remedy = f"{did_you_mean(str(policy), POLICIES)}known: {', '.join(POLICIES)}"
            raise InvalidInput("unknown policy", value=policy, where="--on-trouble", remedy=remedy)
        if policy == "ignore" and kind in _NEVER_IGNORED:
            raise InvalidInput(
                f"{kind} cannot be ignored",
                value=f"{kind}={policy}",
                where="--on-trouble",
                remedy="use stop or rollback",
            )
    return {**DEFAULT_POLICIES, **given}


def batches_to_skip(batch: int, in_epoch: int | None, accumulation: int) -> tuple[int, int]:
    """Return the first and last batch to skip after trouble at `batch`: whole updates, and never most of an epoch."""
    window = SKIPPED_BATCHES if in_epoch is None else min(SKIPPED_BATCHES, max(1, in_epoch // 10))
    first = max(0, batch - window + 1) // accumulation * accumulation
    last = -(-(batch + 1) // accumulation) * accumulation - 1
    return first, last
