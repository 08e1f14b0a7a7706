"""Who refers to a version or a run: every record that names it as something it needs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mlcycle_nb.errors import Refused
from mlcycle_nb.store import Record, Store, Transaction

SHOWN = 5
_WORDS = {
    "model_alias": "alias",
    "model_version": "version",
    "training": "training job",
    "validation": "validation verdict",
    "service": "deployment",
    "revision": "deployment revision",
    "lifecycle": "life cycle",
}
_NEEDS_NOTHING = Record.refers_to


@dataclass(frozen=True, slots=True)
class Referrer:
    """One thing that would be left with a reference to nothing."""

    kind: str
    id: str
    phase: str = ""

    def __str__(self) -> str:
        word = _WORDS.get(self.kind, self.kind)
        return f"{word} {self.id}" + (f" ({self.phase})" if self.phase else "")


def referrers(transaction: Transaction, kinds: Iterable[type[Record]], subject: str) -> list[Referrer]:
    """Return the stored records that refer to a subject, oldest first within each kind.

    Asked inside the transaction that deletes, nobody can begin to refer to it in between.
    """
    found = []
    for kind in kinds:
        if kind.refers_to is _NEEDS_NOTHING:
            continue
        for record in transaction.find(kind, newest_first=False):
            if subject in record.refers_to:
                found.append(Referrer(kind.KIND, record.id, record.phase))
    return found


def refuse_unknown_kinds(store: Store, kinds: Iterable[type[Record]]) -> None:
    """Refuse to delete beside records that this release cannot read: nobody can say what they refer to."""
    unknown = sorted(set(store.counts()) - {kind.KIND for kind in kinds})
    if unknown:
        raise Refused(
            f"the workspace holds records of a kind that is not known here: {', '.join(unknown)}",
            remedy="delete with the release or the extension that wrote them",
        )


def refuse_referred(what: str, found: Iterable[Referrer]) -> None:
    """Raise the refusal that names who refers to `what`, when anybody does."""
    names = [str(one) for one in found]
    if not names:
        return
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    count = f"{len(names)} thing{'s' * (len(names) > 1)} refer{'s' * (len(names) == 1)} to it"
    raise Refused(
        f"{what} is not deleted: {count}: {', '.join(names[:SHOWN])}{more}",
        remedy="end or remove these first; what was deployed or judged is retired instead: %retire plan",
    )
