"""What people say in a model card: sections by title, and the licence; each with who said it and when."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime
from typing import ClassVar

from mlcycle_nb.errors import InvalidInput, did_you_mean
from mlcycle_nb.store import Record

TITLES = (
    "intended use",
    "out of scope",
    "limitations",
    "ethical considerations",
    "training data",
    "maintenance",
    "notes",
)
LICENCE = "licence"
TEXT_LIMIT = 20_000
_LICENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+ ()-]{0,99}")
BOUND = re.compile(r"\[\[([^\[\]\n]{1,200})\]\]")
"""``[[run/metrics.loss]]`` in a text stands for that fact's value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CardText:
    """One section that somebody wrote."""

    title: str
    text: str
    author: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class CardTexts(Record):
    """What was said of one version; its id is the version's reference."""

    KIND: ClassVar[str] = "card_texts"

    sections: tuple[CardText, ...] = ()

    @property
    def name(self) -> str:
        return self.id.partition("/")[0]

    def section(self, title: str) -> CardText | None:
        """Return what was said under a title."""
        return next((one for one in self.sections if one.title == title), None)

    def saying(self, said: CardText) -> CardTexts:
        """Return the texts with one section said anew; an empty text takes it away."""
        kept = [one for one in self.sections if one.title != said.title]
        return replace(self, sections=tuple([*kept, said] if said.text else kept))


def check_title(title: str) -> str:
    """Return the title of a section; an unknown one is refused."""
    plain = " ".join(str(title).lower().replace("_", " ").split())
    if plain not in TITLES:
        raise InvalidInput(
            "a model card has no section of this title",
            value=title,
            remedy=f"{did_you_mean(plain, TITLES)}known: {', '.join(TITLES)}",
        )
    return plain


def check_said(text: str, keys: Collection[str]) -> str:
    """Return a section's text; ``[[KEY]]`` must name a recorded fact."""
    if len(text) > TEXT_LIMIT:
        raise InvalidInput(f"a section has at most {TEXT_LIMIT:,} characters", value=len(text))
    for key in BOUND.findall(text):
        if key not in keys:
            listed = ", ".join(sorted(keys)[:10])
            raise InvalidInput(
                "nothing of this key is recorded for this version",
                value=key,
                remedy=f"{did_you_mean(key, keys)}known: {listed}, ...",
            )
    return text.strip()


def check_licence(text: str) -> str:
    """Return a licence as SPDX writes it, such as ``Apache-2.0`` or ``MIT OR Apache-2.0``."""
    plain = " ".join(str(text).split())
    if plain and not _LICENCE.fullmatch(plain):
        raise InvalidInput("not a licence expression", value=text, remedy="write such as Apache-2.0 or LicenseRef-own")
    return plain
