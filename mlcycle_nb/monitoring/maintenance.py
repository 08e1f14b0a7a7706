"""Maintenance windows: times at which alerts of a service are neither told nor acted on; once, or again and again."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from datetime import time as day_time
from typing import TYPE_CHECKING, ClassVar

from mlcycle_nb.errors import InvalidInput, did_you_mean
from mlcycle_nb.references import format_duration
from mlcycle_nb.store import Record

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_WORDS = {"day": DAYS, "weekday": DAYS[:5], "weekend": DAYS[5:]}
_MONTH_DAY = re.compile(r"([1-9]|[12][0-9]|3[01])\.")
_LONGEST_ONCE = timedelta(days=366)
_LONGEST_AGAIN = timedelta(days=7)
_LOOK_AHEAD_DAYS = 63


@dataclass(frozen=True, slots=True, kw_only=True)
class Maintenance(Record):
    """A planned window of one service, or of all services of an environment.

    Attributes
    ----------
    phase : {"planned", "ended"}
        ``ended`` when somebody ended it; whether a planned one is in force is a question of the time alone.
    model : str
        Empty: every monitored model of the environment.
    kind : str
        Empty: every kind of alert.
    days : tuple of str
        ``mon`` to ``sun``, or ``1.`` to ``31.`` for days of the month; empty for a window that comes once.
    start : str
        Wall-clock time in `zone`: ``02:00`` for one that recurs, ``2027-01-31T22:00`` for one that comes once.
    seconds : float
        How long it lasts. This is time that passes: over a change to summer time it is not an hour shorter.
    zone : str
        IANA name, such as ``Europe/Berlin``.
    """

    KIND: ClassVar[str] = "maintenance"

    environment: str
    model: str
    kind: str
    days: tuple[str, ...]
    start: str
    seconds: float
    zone: str
    reason: str
    created_by: str

    @property
    def name(self) -> str:
        return self.environment

    def covers(self, monitor: str, kind: str) -> bool:
        """Return whether alerts of this monitor and kind are meant."""
        environment, _, model = monitor.partition("/")
        return environment == self.environment and self.model in {"", model} and self.kind in {"", kind}

    def until(self, now: datetime) -> datetime | None:
        """Return when the window that is in force at `now` ends, None when none is."""
        if self.phase != "planned":
            return None
        ends = [begin + self.length for begin in self._begins(now) if begin <= now < begin + self.length]
        return max(ends, default=None)

    def next_begin(self, now: datetime) -> datetime | None:
        """Return when the next window begins after `now`; None when there is none within nine weeks."""
        later = [begin for begin in self._begins(now) if begin > now]
        return min(later) if later and self.phase == "planned" else None

    @property
    def length(self) -> timedelta:
        """How long each window lasts."""
        return timedelta(seconds=self.seconds)

    @property
    def when(self) -> str:
        """The plan in words: ``sun 02:00 for 2h (Europe/Berlin)``."""
        days = f"{', '.join(self.days)} " if self.days else ""
        return f"{days}{self.start} for {format_duration(self.length)} ({self.zone})"

    def _begins(self, now: datetime) -> list[datetime]:
        zone = find_zone(self.zone)
        if not self.days:
            return [_instant(datetime.fromisoformat(self.start), zone)]
        today, at = now.astimezone(zone).date(), day_time.fromisoformat(self.start)
        back = self.length.days + 2  # a window of a week ago may still be in force
        near = (today + timedelta(days=offset) for offset in range(-back, _LOOK_AHEAD_DAYS))
        return [_instant(datetime.combine(one, at), zone) for one in near if _meant(one, self.days)]


def _instant(wall: datetime, zone: ZoneInfo) -> datetime:
    # A time that summer time skips is read with the offset before it, so 02:30 begins when clocks show 03:30; one
    # that comes twice is the first of both.
    from datetime import UTC

    return wall.replace(tzinfo=zone).astimezone(UTC)


def _meant(one: date, days: tuple[str, ...]) -> bool:
    return DAYS[one.weekday()] in days or f"{one.day}." in days


def find_zone(name: str) -> ZoneInfo:
    """Return a time zone by its IANA name.

    Raises
    ------
    InvalidInput
        With the nearest known name.
    """
    import zoneinfo

    try:
        return zoneinfo.ZoneInfo(name)
    except (ValueError, OSError, TypeError, zoneinfo.ZoneInfoNotFoundError):
        known = zoneinfo.available_timezones()
        remedy = f"{did_you_mean(str(name), known)}write an IANA name such as Europe/Berlin or UTC"
        raise InvalidInput("there is no such time zone", value=name, remedy=remedy) from None


def parse_days(text: str) -> tuple[str, ...]:
    """Read ``sun``, ``mon,thu``, ``day``, ``weekday``, ``weekend`` or ``1.,15.``; the empty text is none.

    Raises
    ------
    InvalidInput
        When a word is no day.
    """
    found: list[str] = []
    for word in (part.strip().lower() for part in text.split(",") if part.strip()):
        if word in _WORDS:
            found += _WORDS[word]
        elif word[:3] in DAYS and word in {word[:3], _LONG[word[:3]]}:
            found.append(word[:3])
        elif _MONTH_DAY.fullmatch(word):
            found.append(word)
        else:
            near = did_you_mean(word, [*DAYS, *_WORDS])
            remedy = f"{near}write such as sun, mon,thu, day, weekday, weekend, or 1. for the first of the month"
            raise InvalidInput("no such day", value=word, where="--every", remedy=remedy)
    return tuple(dict.fromkeys(found))


_LONG = dict(zip(DAYS, ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"), strict=True))


def check_plan(days: tuple[str, ...], start: str, length: timedelta, zone: str, now: datetime) -> str:
    """Return the start in its stored spelling.

    Raises
    ------
    InvalidInput
        When the start is no time of day (or no date and time), the window is too long, or it is over already.
    """
    found = find_zone(zone)
    longest = _LONGEST_AGAIN if days else _LONGEST_ONCE
    if length > longest:
        raise InvalidInput(f"a window lasts at most {format_duration(longest)}", value=format_duration(length))
    try:
        if days:
            at = day_time.fromisoformat(start)
            if at.tzinfo is not None:
                raise ValueError("the zone is given apart")
            return at.isoformat(timespec="seconds" if at.second else "minutes")
        wall = datetime.fromisoformat(start)
    except (TypeError, ValueError):
        example = "a time of day such as 02:00" if days else "a date and time such as 2027-01-31T22:00"
        raise InvalidInput("the start cannot be read", value=start, remedy=f"write {example}") from None
    if wall.tzinfo is not None:
        raise InvalidInput("the start has an offset", value=start, remedy="leave it out, and name the zone with --zone")
    try:
        over = _instant(wall, found) + length <= now
    except OverflowError:
        raise InvalidInput("the start is out of range", value=start, where=zone) from None
    if over:
        raise InvalidInput("the window is over already", value=start, where=zone)
    return wall.isoformat(timespec="seconds" if wall.second else "minutes")
