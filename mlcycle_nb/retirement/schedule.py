"""When each step is due: absolute times, stored; a late step moves the later ones, so that no share is cut short."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise

from mlcycle_nb.errors import InvalidInput
from mlcycle_nb.references import MAX_DURATION, parse_duration
from mlcycle_nb.retirement.records import WHOLE, RampStep

MINIMUM_RAMP = timedelta(seconds=1)
MAX_STEPS = 50
ON_TIME = 0.1
"""A step counts as on time when it is late by at most this part of its interval: ticks must not move the plan."""


def parse_over(over: str | timedelta) -> timedelta:
    """Read the length of a ramp: from one second to ten years."""
    if isinstance(over, timedelta):
        if not MINIMUM_RAMP <= over <= MAX_DURATION:
            raise InvalidInput("--over is out of range", value=str(over), remedy="use from 1s to 520w")
        return over
    return parse_duration(over, what="--over", minimum=MINIMUM_RAMP)


def parse_steps(steps: str | Sequence[object]) -> tuple[int, ...]:
    """Read the shares that the retiring version keeps: percents that fall strictly from below 100 to 0.

    Returns
    -------
    tuple of int
        Shares out of 10,000.
    """
    remedy = "write falling percents that end at 0, such as 75,50,25,0"
    parts = [part.strip() for part in steps.split(",")] if isinstance(steps, str) else list(steps)
    if not 1 <= len(parts) <= MAX_STEPS:
        raise InvalidInput(f"--steps must have 1 to {MAX_STEPS} percents", value=steps, remedy=remedy)
    shares = []
    for part in parts:
        try:
            percent = float(part) if isinstance(part, str | int | float) and not isinstance(part, bool) else math.nan
        except ValueError:
            percent = math.nan
        if not math.isfinite(percent) or not 0 <= percent < 100:
            raise InvalidInput(
                "--steps holds something that is not a percent from 0 to below 100", value=part, remedy=remedy
            )
        share = round(percent * 100)
        if abs(share - percent * 100) > 1e-6:
            raise InvalidInput("a percent has at most two decimals", value=part, remedy=remedy)
        shares.append(share)
    if any(later >= earlier for earlier, later in pairwise(shares)):
        raise InvalidInput("--steps must strictly fall", value=steps, remedy=remedy)
    if shares[-1] != 0:
        raise InvalidInput("--steps must end at 0", value=steps, remedy=remedy)
    return tuple(shares)


def build_steps(start: datetime, over: timedelta, shares: Sequence[int]) -> tuple[RampStep, ...]:
    """Return the announcement at `start`, each share at even distances until `start + over`, then the end.

    ``75,50,25,0`` over 28 days: told on day 0, 75 % on day 7, 50 % on day 14, 25 % on day 21, 0 % on day 28, and
    410 once the last share was seen in force.
    """
    steps = [RampStep(position=0, kind="announce", share=WHOLE, due_at=start)]
    for number, share in enumerate(shares, 1):
        due = start + over * number / len(shares)
        steps.append(RampStep(position=number, kind="ramp", share=share, due_at=due))
    steps.append(RampStep(position=len(steps), kind="gone", share=0, due_at=start + over))
    return tuple(steps)


def take(
    steps: Sequence[RampStep], position: int, now: datetime, split: tuple[tuple[int, int], ...]
) -> tuple[RampStep, ...]:
    """Return the steps with one taken at `now`.

    When it was late, because the host was off or the clock jumped, the later steps move by the same lateness: each
    share is held at least nine tenths of the time that was promised. A step that came early by the clock moves none.
    """
    lateness = now - steps[position].due_at
    following = steps[position + 1].due_at - steps[position].due_at if position + 1 < len(steps) else timedelta(0)
    moved = lateness if lateness > max(following, timedelta(0)) * ON_TIME and lateness > timedelta(0) else timedelta(0)
    return tuple(
        replace(step, taken_at=now, split=split)
        if step.position == position
        else replace(step, due_at=step.due_at + moved)
        if step.position > position
        else step
        for step in steps
    )


def confirm(steps: Sequence[RampStep], position: int, now: datetime) -> tuple[RampStep, ...]:
    """Return the steps with one seen in force at `now`."""
    return tuple(replace(step, confirmed_at=now) if step.position == position else step for step in steps)


def headers(model: str, replacement: str | None, announced: datetime, sunset: datetime) -> dict[str, str]:
    """Return what every answer of the address says: since when deprecated, until when served, and what instead."""
    found = {
        "Deprecation": f"@{int(announced.timestamp())}",  # RFC 9745
        "Sunset": format_datetime(sunset, usegmt=True),  # RFC 8594
    }
    if replacement is not None:
        name, _, version = replacement.partition("/")
        found["Link"] = f'</v2/models/{name}/versions/{version}>; rel="successor-version"'
    return found
