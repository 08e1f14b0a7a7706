"""Owners and reviewers of a model: who decides about it, and who looks at it.

Names are those of the audit trail, as the settings give them: a convention among colleagues that leaves a trace, and
no access control. Whoever can write to the database can write there without asking.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from mlcycle_nb.context import Context
from mlcycle_nb.errors import Conflict, InvalidInput, Refused
from mlcycle_nb.store import Record, Transaction

_PERSON = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}(@[A-Za-z0-9][A-Za-z0-9.-]{0,252})?")
MOST = 50


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Ownership(Record):
    """The owners and reviewers of one model; its id is the model's name."""

    KIND: ClassVar[str] = "ownership"

    owners: tuple[str, ...] = ()
    reviewers: tuple[str, ...] = ()
    changed_by: str = ""

    @property
    def name(self) -> str:
        return self.id

    def owned_by(self, actor: str) -> bool:
        """Whether `actor` is an owner; nobody is, while there are none."""
        return any(is_person(owner, actor) for owner in self.owners)

    def __repr__(self) -> str:
        owners = ", ".join(self.owners) or "nobody"
        reviewers = ", ".join(self.reviewers) or "nobody"
        return f"{self.id}: owned by {owners}; reviewed by {reviewers}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {"model": self.id, "owners": list(self.owners), "reviewers": list(self.reviewers)}


def is_person(name: str, actor: str) -> bool:
    """Whether an actor such as ``alice@host`` is meant by ``alice@host``, or by ``alice`` on any host."""
    return name == actor or ("@" not in name and name == actor.partition("@")[0])


def check_people(names: Sequence[str], what: str) -> tuple[str, ...]:
    """Return names of people, each once, in the order given."""
    if isinstance(names, str):
        raise InvalidInput(f"{what} must be a list of names", value=names)
    for name in names:
        if not isinstance(name, str) or not _PERSON.fullmatch(name):
            raise InvalidInput(f"not a name for {what}", value=name, remedy="write such as alice or alice@host")
    kept = tuple(dict.fromkeys(names))
    if len(kept) > MOST:
        raise InvalidInput(f"{len(kept)} {what} are too many", remedy=f"name at most {MOST}")
    return kept


class Owners:
    """Owners and reviewers of the models of one workspace."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._seen: dict[str, int] = {}  # row version that this process last showed or stored

    def of(self, model: str) -> Ownership:
        """Return the owners and reviewers of a model; an empty record while nobody was named."""
        found = self._context.store.maybe(Ownership, model) or self._nobody(model)
        self._seen[model] = found.version
        return found

    def change(
        self,
        model: str,
        *,
        owners: Sequence[str] | None = None,
        reviewers: Sequence[str] | None = None,
        force: bool = False,
        reason: str = "",
    ) -> Ownership:
        """Name the owners, the reviewers, or both; what is None stays.

        A model without owners is anybody's to claim; then only its owners hand it over, or somebody with `force` and
        a `reason`.

        Raises
        ------
        Refused
            When somebody else owns the model.
        Conflict
            When it was changed by somebody else since this process last looked.
        """
        wanted = {
            key: check_people(names, key)
            for key, names in (("owners", owners), ("reviewers", reviewers))
            if names is not None
        }
        with self._context.store.transaction(actor=self._context.actor) as transaction:
            current = transaction.maybe(Ownership, model) or self._nobody(model)
            forced = self._check(current, "hand it over", force=force, reason=reason)
            self._refuse_overtaken(current)
            changed = replace(
                current,
                owners=wanted.get("owners", current.owners),
                reviewers=wanted.get("reviewers", current.reviewers),
                changed_by=self._context.actor,
            )
            same = (changed.owners, changed.reviewers) == (current.owners, current.reviewers)
            if not same:
                detail = {**wanted, "before": {key: getattr(current, key) for key in wanted}, "forced": forced}
                write = transaction.insert if current.version == 0 else transaction.update
                current = write(changed, event="ownership.changed", detail=detail, reason=reason)
        self._seen[model] = current.version
        return current

    def refuse_others(
        self, transaction: Transaction, model: str, doing: str, *, force: bool = False, reason: str = ""
    ) -> bool:
        """Raise Refused when the model has owners and the actor is none of them; return whether it was forced."""
        current = transaction.maybe(Ownership, model) or self._nobody(model)
        return self._check(current, doing, force=force, reason=reason)

    # -- parts -----------------------------------------------------------------------------------------------

    def _check(self, current: Ownership, doing: str, *, force: bool, reason: str) -> bool:
        if force and not reason.strip():
            raise InvalidInput("--force needs a reason", where="--reason", remedy='--force --reason "why"')
        if not current.owners or current.owned_by(self._context.actor):
            return False
        if not force:
            raise Refused(
                f"{current.id} is owned by {', '.join(current.owners)}: {self._context.actor} cannot {doing}",
                remedy='ask an owner, or use --force --reason "why", which the audit trail keeps',
            )
        return True

    def _refuse_overtaken(self, current: Ownership) -> None:
        seen = self._seen.get(current.id)
        if seen is not None and seen != current.version:
            self._seen[current.id] = current.version
            raise Conflict(
                f"{current.changed_by} changed it since you looked: owned by {', '.join(current.owners) or 'nobody'}, "
                f"reviewed by {', '.join(current.reviewers) or 'nobody'}",
                where=f"owners of {current.id}",
                remedy="run it again if you still mean it",
            )

    def _nobody(self, model: str) -> Ownership:
        return Ownership(id=model, phase="named", created_at=self._context.clock.now())
