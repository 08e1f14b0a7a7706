"""The card of one version: made from records, shown, saved and checked."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlcycle_nb.development.card import document
from mlcycle_nb.development.card.facts import Fact, in_order
from mlcycle_nb.development.card.texts import CardText
from mlcycle_nb.errors import InvalidInput
from mlcycle_nb.files import write_atomically
from mlcycle_nb.notebook.html import text_table

SUFFIXES = (".md", ".html")


@dataclass(frozen=True, slots=True, repr=False)
class ModelCard:
    """What is known of a version at a time, each fact with its source, and what people say of it."""

    head: document.CardHead
    facts: tuple[Fact, ...]
    texts: tuple[CardText, ...] = ()

    @property
    def reference(self) -> str:
        """The version."""
        return self.head.reference

    def fact(self, key: str) -> Fact:
        """Return a fact by its key, such as ``run/metrics.loss``."""
        for one in self.facts:
            if one.key == key:
                return one
        from mlcycle_nb.errors import NotFound, did_you_mean

        near = did_you_mean(key, [one.key for one in self.facts])
        raise NotFound("the card has no fact of this key", value=key, remedy=near)

    def to_markdown(self) -> str:
        """Return the card as Markdown."""
        return document.to_markdown(self.head, self.facts, self._said())

    def to_html(self) -> str:
        """Return the card as one page that loads nothing."""
        return document.to_html(self.head, self.facts, self._said())

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        names = ("section", "key", "name", "value", "low", "high", "unit", "source")
        return {
            "version": self.reference,
            "workspace": self.head.workspace,
            "at": self.head.at.isoformat(),
            "facts": [{name: getattr(one, name) for name in names} for one in in_order(self.facts)],
            "said": [
                {"title": one.title, "text": one.text, "by": one.author, "at": one.at.isoformat()}
                for one in self._said()
            ],
        }

    @property
    def digest(self) -> str:
        """``sha256:`` and the hash of the Markdown."""
        return "sha256:" + hashlib.sha256(self.to_markdown().encode()).hexdigest()

    def save(self, path: Path | str) -> Path:
        """Write the card; the suffix ``.md`` or ``.html`` says how."""
        file = Path(path)
        writers = dict(zip(SUFFIXES, (self.to_markdown, self.to_html), strict=True))
        if file.suffix not in writers:
            raise InvalidInput(
                "cannot tell the kind of card", value=file.name, where="--to", remedy=f"use {' or '.join(SUFFIXES)}"
            )
        if not file.absolute().parent.is_dir():
            raise InvalidInput("there is no such folder", value=str(file.parent), where="--to")
        write_atomically(file.absolute(), writers[file.suffix]())
        return file

    def __repr__(self) -> str:
        parts = [f"model card of {self.reference} at {self.head.at:%Y-%m-%d %H:%M:%S} UTC"]
        ordered = in_order(self.facts)
        for section in dict.fromkeys(fact.section for fact in ordered):
            rows = [fact.cells for fact in ordered if fact.section == section]
            parts.append(f"\n{section}\n{text_table(document.HEADERS, rows)}")
        for said in self._said():
            parts.append(f"\n{said.title.capitalize()}, said by {said.author} ({said.at:%Y-%m-%d}):\n{said.text}")
        return "\n".join(parts)

    def _repr_html_(self) -> str:
        return f"<div>{document.body(self.head, self.facts, self._said())}</div>"

    def _said(self) -> Sequence[CardText]:
        return document.licence_first(self.texts)
