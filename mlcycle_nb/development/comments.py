"""Comments on runs and versions: who said what and when; changed by their author only."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, ClassVar

from mlcycle_nb.context import Context
from mlcycle_nb.errors import InvalidInput, NotFound, Refused
from mlcycle_nb.notebook.html import heading, table, text_table
from mlcycle_nb.store import Record, Transaction

TEXT_LIMIT = 10_000
POSTED, EDITED, DELETED = "posted", "edited", "deleted"
_HEADERS = ("comment", "by", "time", "text")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Comment(Record):
    """One comment; its id is what it is about and its number: ``digits/3#2``. A deleted one stays without its text."""

    KIND: ClassVar[str] = "comment"

    about: str  # subject: model_version:digits/3 or run:<id>
    author: str
    text: str
    edited_at: datetime | None = None

    @property
    def name(self) -> str:
        return self.about

    def row(self) -> tuple[str, ...]:
        """Return it as cells of a table."""
        when = f"{self.created_at:%Y-%m-%d %H:%M} UTC"
        if self.phase == DELETED:
            return self.id, self.author, when, "(deleted by its author)"
        edited = "" if self.edited_at is None else f" (edited {self.edited_at:%Y-%m-%d %H:%M})"
        return self.id, self.author, when, f"{self.text}{edited}"

    def __repr__(self) -> str:
        return ": ".join((" ".join(self.row()[:3]), self.row()[3]))


class CommentList(list[Comment]):
    """Comments as a table, oldest first."""

    def __repr__(self) -> str:
        return text_table(_HEADERS, [c.row() for c in self]) if self else "no comments yet"

    def _repr_html_(self) -> str:
        return heading("comments") + table(_HEADERS, [comment.row() for comment in self])


class Comments:
    """The comments of one workspace."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def post(self, subject: str, shown: str, text: str) -> Comment:
        """Add a comment about a subject that is called `shown`; comments posted at once get numbers of their own."""
        checked = check_text(text)
        with self._context.store.transaction(actor=self._context.actor) as transaction:
            number = 1 + len(transaction.find(Comment, name=subject))
            fresh = Comment(
                id=f"{shown}#{number}",
                phase=POSTED,
                created_at=self._context.clock.now(),
                about=subject,
                author=self._context.actor,
                text=checked,
            )
            return transaction.insert(fresh, event="comment.posted", detail={"about": subject, **_digest(checked)})

    def edit(self, id: str, text: str) -> Comment:
        """Say it in other words; only the author can."""
        checked = check_text(text)
        with self._context.store.transaction(actor=self._context.actor) as transaction:
            current = self._own(transaction, id, "edit")
            if current.text == checked:
                return current
            edited = replace(current, phase=EDITED, text=checked, edited_at=self._context.clock.now())
            return transaction.update(
                edited, event="comment.edited", detail={"before": _digest(current.text), **_digest(checked)}
            )

    def delete(self, id: str, *, reason: str = "") -> Comment:
        """Take the words away; that there were some, whose and when, stays. Only the author can."""
        with self._context.store.transaction(actor=self._context.actor) as transaction:
            current = self._own(transaction, id, "delete")
            gone = replace(current, phase=DELETED, text="", edited_at=self._context.clock.now())
            return transaction.update(
                gone, event="comment.deleted", detail={"before": _digest(current.text)}, reason=reason
            )

    def about(self, subjects: Iterable[str]) -> CommentList:
        """Return the comments about some subjects, oldest first."""
        found = [comment for subject in subjects for comment in self._context.store.find(Comment, name=subject)]
        return CommentList(sorted(found, key=lambda comment: (comment.created_at, comment.id)))

    def _own(self, transaction: Transaction, id: str, doing: str) -> Comment:
        current = transaction.maybe(Comment, id)
        if current is None:
            about = id.partition("#")[0]
            known = [comment.id for comment in transaction.find(Comment) if comment.id.startswith(f"{about}#")]
            listed = ", ".join(sorted(known)[:10]) or "none"
            raise NotFound("there is no comment of this id", value=id, remedy=f"known: {listed}; %comments {about}")
        if current.author != self._context.actor:
            raise Refused(
                f"comment {id} is by {current.author}: {self._context.actor} cannot {doing} it",
                remedy=f'answer it: %comment {id.partition("#")[0]} "text"',
            )
        if current.phase == DELETED:
            raise Refused(f"comment {id} is deleted already", remedy="post another one")
        return current


def check_text(text: str) -> str:
    """Return the text of a comment without spaces around it."""
    if not isinstance(text, str) or not text.strip():
        raise InvalidInput("a comment needs a text", value=text, remedy='%comment digits/3 "text"')
    if len(text) > TEXT_LIMIT:
        raise InvalidInput(f"a comment has at most {TEXT_LIMIT:,} characters", value=len(text))
    return text.strip()


def _digest(text: str) -> dict[str, Any]:
    # The trail shows that and what was said without keeping words that their author may take back.
    return {"sha256": hashlib.sha256(text.encode()).hexdigest(), "characters": len(text)}
