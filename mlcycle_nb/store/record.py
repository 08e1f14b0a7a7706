"""What is stored: frozen records, their JSON form and its digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar, TypeVar

import cattrs
from cattrs.strategies import configure_union_passthrough

from mlcycle_nb.errors import StoreError

R = TypeVar("R", bound="Record")
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One stored object. Subclasses add fields of JSON-able types and say their `KIND`.

    A record is never edited: `dataclasses.replace` makes the next one and a transaction stores it.
    """

    KIND: ClassVar[str]

    id: str
    phase: str
    created_at: datetime
    version: int = 0  # row version, set by the store: an update of an older version is a conflict

    @property
    def name(self) -> str:
        """Indexed name to look records up by, such as the model's; empty when there is none."""
        return ""

    @property
    def active(self) -> bool:
        """Whether the supervisor has to look at this record."""
        return False

    @property
    def lock_key(self) -> str | None:
        """A key that only one record of the kind may hold at a time; None holds nothing."""
        return None

    @property
    def refers_to(self) -> tuple[str, ...]:
        """Subjects that this record needs, such as ``model_version:digits/7``: none is deleted while it is stored.

        What only tells where something came from is not needed, and not named here.
        """
        return ()


_converter = cattrs.Converter(forbid_extra_keys=False)
_converter.register_unstructure_hook(datetime, lambda moment: format_time(moment))
_converter.register_structure_hook(datetime, lambda text, _: parse_time(text))
configure_union_passthrough(str | int | float | bool | None, _converter)


def format_time(moment: datetime) -> str:
    """Return an aware time as sortable text: UTC, microseconds, ``Z``."""
    if moment.tzinfo is None:
        raise StoreError("a time without time zone cannot be stored", value=moment.isoformat())
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def parse_time(text: str) -> datetime:
    """Read what `format_time` wrote."""
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)


def canonical_json(value: Any) -> str:
    """Return `value` as JSON with one possible spelling; NaN and infinity are refused."""
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    except (TypeError, ValueError) as failure:
        raise StoreError(f"cannot be stored as JSON: {failure}") from failure


def encode(record: Record) -> str:
    """Return the stored document of a record, without its row version."""
    tree = _converter.unstructure(record)
    tree.pop("version")
    return canonical_json(tree)


def decode(record_type: type[R], document: str, version: int) -> R:
    """Read a stored document back; unknown fields of a newer release are ignored, missing ones take defaults."""
    try:
        tree = json.loads(document)
        tree["version"] = version
        return _converter.structure(tree, record_type)
    except (cattrs.BaseValidationError, KeyError, TypeError, ValueError) as failure:
        raise StoreError(
            f"a stored {record_type.KIND} cannot be read: {type(failure).__name__}",
            value=document,
            remedy="it was written by another release, or changed by hand: run mlcycle audit verify",
        ) from failure


STATE_COLUMNS = ("name", "phase", "active", "lock_key", "version", "document", "created_at")
"""What of a record's row its audit entries vouch for: the document, and what records are found and locked by."""


def state_digest(row: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a record's stored row, as hexadecimal text."""
    state = canonical_json({column: row[column] for column in STATE_COLUMNS})
    return hashlib.sha256(state.encode()).hexdigest()


def jsonable(value: Any) -> Any:
    """Return `value` (dataclasses, datetimes, enums, containers) as plain JSON types."""
    return _converter.unstructure(value)


def structured(tree: Any, kind: type[T]) -> T:
    """Return plain JSON types as the dataclass `kind`: the inverse of `jsonable`."""
    return _converter.structure(tree, kind)
