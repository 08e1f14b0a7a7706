"""Times as people write them: UTC, with an offset, local, or so long ago."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from mlcycle_nb.errors import InvalidInput
from mlcycle_nb.references import parse_duration

_AGO = re.compile(r"(\S+)\s*ago")
FORMS = "2026-01-31T12:00 (UTC), 2026-01-31T12:00+02:00, '2026-01-31 12:00 local', '2d ago' or now"


def parse_moment(text: str | datetime, *, now: datetime, where: str = "--at") -> datetime:
    """Return a time as an aware one in UTC.

    Parameters
    ----------
    text : str or datetime
        ``2026-01-31T12:00`` is UTC, as all times are shown; with ``+02:00`` or ``Z`` it says its own; ``local`` behind
        it means the time zone of this machine; ``2d ago``, ``90m ago`` and ``now`` count from `now`.
    now : datetime
    where : str
        The option that it was given to.

    Raises
    ------
    InvalidInput
        When it is none of these, or a datetime without time zone.
    """
    if isinstance(text, datetime):
        if text.tzinfo is None:
            remedy = "write 2026-01-31T12:00+00:00"
            raise InvalidInput("the time has no time zone", value=text.isoformat(), where=where, remedy=remedy)
        return text.astimezone(UTC)
    plain = " ".join(str(text).split())
    if plain == "now":
        return now
    ago = _AGO.fullmatch(plain)
    if ago is not None:
        try:
            return now - parse_duration(ago[1], what=where)
        except OverflowError:
            raise InvalidInput(f"{where} is before all time", value=text, remedy=f"write {FORMS}") from None
    local = plain.endswith(" local")
    try:
        moment = datetime.fromisoformat(plain.removesuffix(" local"))
        if local and moment.tzinfo is not None:
            raise ValueError
        if moment.tzinfo is None:
            moment = moment.astimezone() if local else moment.replace(tzinfo=UTC)
        return moment.astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        raise InvalidInput(f"{where} is not a time", value=text, remedy=f"write {FORMS}") from None
