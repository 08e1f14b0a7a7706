"""The card as Markdown and as one HTML page: each row of evidence carries the key of its fact."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from urllib.parse import quote

from mlcycle_nb.development.card.facts import Fact, in_order
from mlcycle_nb.development.card.texts import BOUND, LICENCE, CardText
from mlcycle_nb.store.record import format_time

FORM = 1
BEGINS, ENDS = "<!-- evidence begins -->", "<!-- evidence ends -->"
HEADERS = ("what", "recorded", "source")
SAID = "Said by people"
_STYLE = (
    "body{font-family:system-ui,sans-serif;max-width:70em;margin:2em auto;padding:0 1em;line-height:1.4}"
    "table{border-collapse:collapse;width:100%}td,th{text-align:left;vertical-align:top;padding:2px 12px 2px 0;"
    "border-bottom:1px solid #ccc;overflow-wrap:anywhere}td:last-child{color:#595959}"
    "blockquote{border-left:3px solid #7f7f7f;margin:.5em 0;padding:.1em 1em}"
)


@dataclass(frozen=True, slots=True)
class CardHead:
    """What a card is about: the version, the workspace, and the time up to which evidence counts."""

    workspace: str
    reference: str
    at: datetime

    def line(self) -> str:
        """Return it as one machine-readable line."""
        about = f"workspace {self.workspace}; version {self.reference}; at {format_time(self.at)}"
        return f"mlcycle model card {FORM}; {about}"

    @property
    def told(self) -> str:
        """Return it as a sentence."""
        return f"Read from the records of workspace {self.workspace} as they were at {self.at:%Y-%m-%d %H:%M:%S} UTC."


def key_text(key: str) -> str:
    """Return a fact's key so that it can stand in a comment and in an attribute."""
    return quote(key, safe="/@.=_~-").replace("--", "-%2D")


# -- Markdown ------------------------------------------------------------------------------------------------


def to_markdown(head: CardHead, facts: Sequence[Fact], texts: Sequence[CardText]) -> str:
    """Return the card as Markdown."""
    lines = [f"# Model card: {head.reference}", "", f"<!-- {head.line()} -->", "", head.told, "", BEGINS]
    for section, rows in _by_section(facts):
        lines += ["", f"## {section}", "", f"| {' | '.join(HEADERS)} |", "|---|---|---|"]
        lines += [markdown_row(fact) for fact in rows]
    lines += ["", ENDS, "", f"## {SAID}", ""]
    lines += [*_said_in_markdown(facts, texts)] or ["Nothing yet.", ""]
    return "\n".join(lines)


def markdown_row(fact: Fact) -> str:
    """Return one row of evidence."""
    name, value, source = map(markdown_cell, fact.cells)
    return f"| {name} | {value} | {source} <!-- fact:{key_text(fact.key)} --> |"


def markdown_cell(text: str) -> str:
    """Return text that neither ends its cell nor becomes markup."""
    return re.sub(r"([\\|`*<]|(?<!\w)_|_(?!\w)|(?<=\])\()", r"\\\1", text)


def _said_in_markdown(facts: Sequence[Fact], texts: Sequence[CardText]) -> Iterator[str]:
    for said in texts:
        yield f"### {said.title.capitalize()}"
        yield ""
        yield f"{said.author}, {said.at:%Y-%m-%d %H:%M} UTC:"
        yield ""
        # A comment in somebody's text could pose as the key of a fact.
        plain = said.text.replace("<!--", "<! --")
        bound = bind(plain, facts, lambda fact: f"{markdown_cell(fact.text)}<!-- fact:{key_text(fact.key)} -->")
        yield from (f"> {line}".rstrip() for line in bound.splitlines())
        yield ""


# -- HTML ----------------------------------------------------------------------------------------------------


def to_html(head: CardHead, facts: Sequence[Fact], texts: Sequence[CardText]) -> str:
    """Return the card as one page that loads nothing."""
    title = escape(f"Model card: {head.reference}")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>\n'
        f'<meta name="mlcycle-card" content="{escape(head.line())}">\n<style>{_STYLE}</style></head>\n<body>\n'
        f"{body(head, facts, texts)}\n</body></html>\n"
    )


def body(head: CardHead, facts: Sequence[Fact], texts: Sequence[CardText]) -> str:
    """Return what stands inside the page."""
    heads = "".join(f'<th scope="col">{one}</th>' for one in HEADERS)
    lines = [f"<h1>{escape(f'Model card: {head.reference}')}</h1>", f"<p>{escape(head.told)}</p>"]
    lines.append('<section data-card="evidence">')
    for section, rows in _by_section(facts):
        lines.append(f"<h2>{escape(section)}</h2>")
        lines.append(f"<table><tr>{heads}</tr>")
        lines += [html_row(fact) for fact in rows]
        lines.append("</table>")
    lines += ["</section>", '<section data-card="said">', f"<h2>{SAID}</h2>"]
    lines += [*_said_in_html(facts, texts)] or ["<p>Nothing yet.</p>"]
    return "\n".join([*lines, "</section>"])


def html_row(fact: Fact) -> str:
    """Return one row of evidence."""
    cells = "".join(f"<td>{escape(text)}</td>" for text in fact.cells)
    return f'<tr data-fact="{key_text(fact.key)}">{cells}</tr>'


def _said_in_html(facts: Sequence[Fact], texts: Sequence[CardText]) -> Iterator[str]:
    for said in texts:
        yield f"<h3>{escape(said.title.capitalize())}</h3>"
        yield f"<p>{escape(said.author)}, {said.at:%Y-%m-%d %H:%M} UTC:</p>"
        yield "<blockquote>"
        bound = bind(
            escape(said.text), facts, lambda fact: f'<span data-fact="{key_text(fact.key)}">{escape(fact.text)}</span>'
        )
        yield from (f"{line}<br>" for line in bound.splitlines())
        yield "</blockquote>"


# -- parts ---------------------------------------------------------------------------------------------------


def bind(text: str, facts: Sequence[Fact], put: Callable[[Fact], str]) -> str:
    """Return `text` with each ``[[KEY]]`` in it replaced; a key that is not recorded any more says so."""
    known = {escape(fact.key): fact for fact in facts} | {fact.key: fact for fact in facts}
    return BOUND.sub(lambda found: put(known[found[1]]) if found[1] in known else f"(not recorded: {found[1]})", text)


def _by_section(facts: Sequence[Fact]) -> Iterator[tuple[str, list[Fact]]]:
    ordered = in_order(facts)
    for section in dict.fromkeys(fact.section for fact in ordered):
        yield section, [fact for fact in ordered if fact.section == section]


def licence_first(texts: Sequence[CardText]) -> list[CardText]:
    """Return what was said, the licence before all else."""
    return sorted(texts, key=lambda said: said.title != LICENCE)
