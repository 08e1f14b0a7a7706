"""Takes labels that consumers send: each item recorded, repeated or refused, and durable before anybody is told so.

Requests that arrive while others are being written are stored together, with one sync of the disk. Whoever was told
that a label is recorded finds it after any kill; whoever was not told sends again, and nothing counts twice.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlcycle_nb.clock import Clock
from mlcycle_nb.serving.labels import Label, LabelStore, same_label
from mlcycle_nb.serving.logged_ids import logged_rows

if TYPE_CHECKING:
    import pyarrow as pa

LISTED = 100
"""Items that an answer names of each kind; all are counted."""
_MODELS_KEPT = 8
_FILES_KEPT = 64
_MAPPED = 4 * _FILES_KEPT
Key = tuple[str, int]


@dataclass(slots=True)
class Receipt:
    """What became of one request's labels.

    Attributes
    ----------
    recorded, repeated, refused : int
        Stored now; known before, and the same; another label of the same prediction is known.
    unknown : list of (id, row)
        Recorded or repeated ones whose prediction is not in the log, or not yet.
    conflicts : list
        For each refused item its place in the request, the item, and the label that is known.
    """

    recorded: int = 0
    repeated: int = 0
    unknown: list[Key] = field(default_factory=list)
    conflicts: list[tuple[int, Label, str]] = field(default_factory=list)

    @property
    def refused(self) -> int:
        """Items that were refused."""
        return len(self.conflicts)

    @property
    def status(self) -> int:
        """HTTP status: 200, 207 when some items were refused, 409 when all were."""
        if not self.conflicts:
            return 200
        return 207 if self.recorded or self.repeated else 409

    def to_json(self) -> dict[str, Any]:
        """Return the body of the answer."""
        return {
            "recorded": self.recorded,
            "repeated": self.repeated,
            "refused": self.refused,
            "unknown": len(self.unknown),
            "unknown_ids": list(dict.fromkeys(key for key, _ in self.unknown))[:LISTED],
            "conflicts": [
                {
                    "item": f"feedback[{position}]",
                    "id": label.prediction_id,
                    "row": label.row,
                    "label": label.label,
                    "known": known,
                    "reason": "conflict",
                }
                for position, label, known in self.conflicts[:LISTED]
            ],
        }


class LabelDesk:
    """The labels and predictions of one environment.

    Parameters
    ----------
    home : Path
        The workspace folder.
    environment : str
        Such as ``production``.
    clock : Clock
        Says when labels arrive.
    """

    def __init__(self, home: Path, environment: str, clock: Clock) -> None:
        self._home = home
        self._environment = environment
        self._clock = clock
        self._read: OrderedDict[str, _Known] = OrderedDict()

    def take(self, model: str, requests: Sequence[Sequence[Label]]) -> list[Receipt]:
        """Store what is new in some requests of one model; return once it is durable.

        An item that has another label than its prediction is known by is refused, and so are all items of a request
        that contradict one another.
        """
        store = LabelStore(self._home / "labels", self._environment, model)
        keys = {(label.prediction_id, label.row) for request in requests for label in request}
        with store.locked():
            known = self._known(model).labels_of(store, keys)
            new: dict[Key, Label] = {}
            receipts = [_receipt(request, known, new) for request in requests]
            if new:
                store.add(list(new.values()), self._clock.now())
        logged = logged_rows(self._home / "predictions" / self._environment / model, keys)
        for request, receipt in zip(requests, receipts, strict=True):
            refused = {position for position, _, _ in receipt.conflicts}
            taken = [(one.prediction_id, one.row) for place, one in enumerate(request) if place not in refused]
            receipt.unknown = sorted(set(taken) - logged)
        return receipts

    def _known(self, model: str) -> _Known:
        known = self._read.setdefault(model, _Known())
        self._read.move_to_end(model)
        if len(self._read) > _MODELS_KEPT:
            self._read.popitem(last=False)
        return known


def _receipt(request: Sequence[Label], known: dict[Key, str], new: dict[Key, Label]) -> Receipt:
    """Sort one request's labels; what is recorded goes to `known` and `new`."""
    said: dict[Key, str] = {}
    torn: dict[Key, str] = {}
    for one in request:
        key = (one.prediction_id, one.row)
        if not same_label(said.setdefault(key, one.label), one.label):
            torn[key] = "another label in this request"
    receipt = Receipt()
    for position, one in enumerate(request):
        key = (one.prediction_id, one.row)
        before = known.get(key)
        if key in torn or (before is not None and not same_label(before, one.label)):
            receipt.conflicts.append((position, one, torn.get(key) or str(before)))
        elif before is not None:
            receipt.repeated += 1
        else:
            receipt.recorded += 1
            known[key], new[key] = one.label, one
    return receipt


class _Known:
    """The stored labels of one model, read as they come; a file that was read once says nothing new later.

    Files are mapped. Many small ones would be as many mappings: once they are folded on the disk the fewer ones take
    their place, and until then they are copied into one.
    """

    def __init__(self) -> None:
        self._tables: list[pa.Table] = []
        self._last = ""
        self._files = 0  # tables that were left when there were too many last time

    def labels_of(self, store: LabelStore, keys: set[Key]) -> dict[Key, str]:
        """Return the labels that some rows of predictions have, the later one where there are two."""
        import pyarrow as pa
        import pyarrow.compute as pc

        for name in store.names(after=self._last):
            self._tables.append(_of(store, name))
            self._last = name
        if len(self._tables) > self._files + _FILES_KEPT:
            names = store.names()
            few = len(names) <= _MAPPED
            self._tables = (
                [_of(store, name) for name in names] if few else [pa.concat_tables(self._tables).combine_chunks()]
            )
            self._files = len(self._tables)
        wanted = pa.array(sorted({key for key, _ in keys}), pa.string())
        found: dict[Key, str] = {}
        for table in self._tables:
            hit = table.filter(pc.is_in(table["prediction_id"], value_set=wanted))
            columns = (hit[name].to_pylist() for name in ("prediction_id", "row", "truth"))
            found.update({(key, row): truth for key, row, truth in zip(*columns, strict=True)})
        return found


def _of(store: LabelStore, name: str) -> pa.Table:
    return store.read(name).select(["prediction_id", "row", "truth"])
