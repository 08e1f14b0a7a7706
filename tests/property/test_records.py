"""Records survive being stored: each kind of each stage, whatever its fields hold."""

from __future__ import annotations

import dataclasses
import importlib
import json
import pkgutil
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta, timezone
from enum import StrEnum
from typing import Any, ClassVar, Literal, get_args, get_type_hints

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mlcycle_nb
from mlcycle_nb.outcomes import Outcome
from mlcycle_nb.store.record import Record, canonical_json, decode, encode, format_time, parse_time

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
TIMES = st.datetimes(
    datetime(2, 1, 1), datetime(9998, 1, 1), timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=45))])
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | FLOATS | TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2),
    max_leaves=4,
)
st.register_type_strategy(str, TEXT)
st.register_type_strategy(float, FLOATS)
st.register_type_strategy(datetime, TIMES.map(lambda moment: moment.astimezone(UTC)))


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    name: str
    size: float | None = None
    colour: Colour = Colour.RED


@dataclass(frozen=True, slots=True, kw_only=True)
class Rich(Record):
    """A field of each type that records may have."""

    KIND: ClassVar[str] = "rich"

    text: str = ""
    whole: int = 0
    real: float = 0.0
    truth: bool = False
    perhaps: str | None = None
    mixed: str | int | float | bool | None = None
    when: datetime | None = None
    words: tuple[str, ...] = ()
    times: tuple[datetime, ...] = ()
    pair: tuple[str, int] = ("", 0)
    counts: dict[str, int] = field(default_factory=dict)
    by_number: dict[int, str] = field(default_factory=dict)
    choice: Literal["a", "b"] = "a"
    outcome: Outcome = Outcome.SKIPPED
    part: Part | None = None
    parts: tuple[Part, ...] = ()
    named: dict[str, Part] = field(default_factory=dict)


def kinds() -> list[type[Record]]:
    """Return the record classes of all stages."""
    for package in pkgutil.iter_modules(mlcycle_nb.__path__, "mlcycle_nb."):
        if package.ispkg and importlib.util.find_spec(f"{package.name}.records"):
            importlib.import_module(f"{package.name}.records")
    found = [kind for kind in Record.__subclasses__() if kind.__module__.startswith("mlcycle_nb.")]
    # A dataclass with slots is made from a class that may still be around.
    real = [kind for kind in found if getattr(importlib.import_module(kind.__module__), kind.__name__) is kind]
    return sorted(real, key=lambda kind: kind.KIND)


def filled(kind: type[Any]) -> st.SearchStrategy[Any]:
    """Return a strategy for a dataclass; fields that may hold anything hold any JSON."""
    fields = {}
    for name, hint in get_type_hints(kind).items():
        if name not in {f.name for f in dataclasses.fields(kind)}:
            continue
        for part in (hint, *get_args(hint)):
            if dataclasses.is_dataclass(part) and isinstance(part, type):
                st.register_type_strategy(part, filled(part))
        if get_args(hint)[-1:] == (Any,):
            fields[name] = st.dictionaries(TEXT, JSON, max_size=2)
    return st.builds(kind, **fields)


KINDS = kinds()


@settings(max_examples=100)
@given(st.builds(Rich))
def test_every_type_of_field_survives(record: Rich) -> None:
    """What is read is what was written, and writing it again gives the same bytes."""
    document = encode(record)
    back = decode(Rich, document, record.version)

    assert back == record
    assert [type(value) for value in (back.mixed, back.part)] == [type(value) for value in (record.mixed, record.part)]
    assert encode(back) == document
    assert document.isascii()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.KIND)
def test_every_kind_of_record_survives(kind: type[Record]) -> None:
    """Those that the stages store."""

    @settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
    @given(filled(kind))
    def check(record: Record) -> None:
        assert decode(kind, encode(record), record.version) == record

    check()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.KIND)
def test_kinds_fit_their_columns(kind: type[Record]) -> None:
    """PostgreSQL refuses what is longer; SQLite would not notice."""
    assert len(kind.KIND) <= 32
    assert ":" not in kind.KIND
    assert [other.KIND for other in KINDS].count(kind.KIND) == 1


@given(TIMES)
def test_times_survive_and_sort(moment: datetime) -> None:
    """As text of one length in UTC, to the microsecond."""
    text = format_time(moment)
    later = format_time(moment + timedelta(microseconds=1))

    assert parse_time(text) == moment
    assert len(text) == 27
    assert text < later


@given(JSON)
def test_json_has_one_spelling(value: Any) -> None:
    """However it was made."""
    text = canonical_json(value)

    assert canonical_json(json.loads(text)) == text


@given(
    st.builds(Rich), st.dictionaries(TEXT.filter(lambda key: key not in Rich.__dataclass_fields__), JSON, max_size=2)
)
def test_fields_of_a_newer_release_are_ignored(record: Rich, more: dict[str, Any]) -> None:
    """And those that an older one did not write take their defaults."""
    tree = {**json.loads(encode(record)), **more}
    del tree["mixed"]

    assert decode(Rich, json.dumps(tree), record.version) == replace(record, mixed=None)
