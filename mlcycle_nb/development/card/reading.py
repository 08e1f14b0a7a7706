"""Reading a card file back: its head, its rows of evidence with their lines, and what people said."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

from mlcycle_nb.development.card.document import BEGINS, ENDS, FORM, HEADERS, CardHead
from mlcycle_nb.errors import InvalidInput
from mlcycle_nb.files import read_small_file
from mlcycle_nb.store.record import parse_time

_HEAD = re.compile(r"mlcycle model card (\d+); workspace (\S+); version (\S+); at (\S+)")
_FACT = re.compile(r"(?<!\\)<!-- fact:(\S+) --> \|$")  # one in a value has a backslash before it
_BOUND = re.compile(r"(\S+)<!-- fact:(\S+) -->")
_CELL = re.compile(r"(?<!\\)\|")
_RULE = re.compile(r"[|\-\s]+")


@dataclass(frozen=True, slots=True)
class Row:
    """One row of evidence as it stands in a file; `cells` are plain text."""

    line: int
    key: str
    cells: tuple[str, ...]


@dataclass(slots=True)
class ReadCard:
    """A card as it stands in a file."""

    head: CardHead
    rows: list[Row] = field(default_factory=list)
    loose: list[tuple[int, str]] = field(default_factory=list)  # text among the evidence that has no key
    said: list[tuple[int, str]] = field(default_factory=list)
    bound: list[Row] = field(default_factory=list)  # facts inside what was said


def read_card(path: Path) -> ReadCard:
    """Read a card that this package wrote as Markdown or HTML.

    Raises
    ------
    InvalidInput
        When it is no such file.
    """
    if not path.is_file():
        raise InvalidInput("there is no such file", value=str(path), where="--check")
    text = read_small_file(path)
    return _read_html(text, path) if path.suffix.lower() in {".html", ".htm"} else _read_markdown(text, path)


def _head(text: str, path: Path) -> CardHead:
    found = _HEAD.search(text)
    if found is None or int(found[1]) != FORM:
        raise InvalidInput(
            "not a model card of this package", value=path.name, remedy="write one: %model card digits/3 --to FILE.md"
        )
    try:
        return CardHead(found[2], found[3], parse_time(found[4].rstrip("\"'>")))
    except ValueError:
        raise InvalidInput("the card's time cannot be read", value=found[4], where=str(path)) from None


def _read_markdown(text: str, path: Path) -> ReadCard:
    card = ReadCard(_head(text, path))
    place = "before"
    for number, line in enumerate(text.splitlines(), 1):
        plain = line.strip()
        if plain == BEGINS and place == "before":
            place = "evidence"
        elif plain == ENDS and place == "evidence":
            place = "said"
        elif place == "evidence":
            _evidence_line(card, number, plain)
        elif not plain.startswith("<!-- mlcycle") and not _is_frame(plain):
            _said_line(card, number, plain)
    if place != "said":
        raise InvalidInput("the card's evidence does not begin or end", value=path.name, remedy="write it again")
    return card


def _is_frame(plain: str) -> bool:
    return plain.startswith(("# Model card:", "Read from the records of workspace "))


def _evidence_line(card: ReadCard, number: int, plain: str) -> None:
    key = _FACT.search(plain)
    cells = tuple(_unescape(cell) for cell in _CELL.split(_FACT.sub("", plain).strip("| ")))
    if key is not None and plain.startswith("|"):
        card.rows.append(Row(number, key[1], cells))
    elif plain and not plain.startswith("## ") and cells != HEADERS and not _RULE.fullmatch(plain):
        card.loose.append((number, plain))


def _said_line(card: ReadCard, number: int, plain: str) -> None:
    card.bound += [Row(number, key, (_unescape(text),)) for text, key in _BOUND.findall(plain)]
    rest = _BOUND.sub(" ", plain)
    if rest:
        card.said.append((number, _unescape(rest)))


def _unescape(text: str) -> str:
    return re.sub(r"\\([\\|`*<_(])", r"\1", text).strip()


def _read_html(text: str, path: Path) -> ReadCard:
    card = ReadCard(_head(text, path))
    reader = _HtmlReader(card)
    reader.feed(text)
    if reader.seen != {"evidence", "said"}:
        raise InvalidInput("the card's evidence does not begin or end", value=path.name, remedy="write it again")
    return card


class _HtmlReader(HTMLParser):
    def __init__(self, card: ReadCard) -> None:
        super().__init__()
        self.card = card
        self.seen: set[str] = set()
        self._place = ""
        self._row: tuple[int, str, list[str]] | None = None
        self._span: tuple[int, str, list[str]] | None = None
        self._inside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = dict(attrs)
        self._inside.append(tag)
        if tag == "section" and told.get("data-card"):
            self._place = str(told["data-card"])
            self.seen.add(self._place)
        elif tag == "tr" and "data-fact" in told:
            self._row = (self.getpos()[0], str(told["data-fact"]), [])
        elif tag == "td" and self._row is not None:
            self._row[2].append("")
        elif tag == "span" and "data-fact" in told:
            self._span = (self.getpos()[0], str(told["data-fact"]), [])
        if tag in {"br", "meta", "hr", "img"}:
            self._inside.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag in self._inside:
            while self._inside.pop() != tag:
                continue
        if tag == "section":
            self._place = "after"
        elif tag == "tr" and self._row is not None:
            line, key, cells = self._row
            self.card.rows.append(Row(line, key, tuple(cell.strip() for cell in cells)))
            self._row = None
        elif tag == "span" and self._span is not None:
            line, key, parts = self._span
            self.card.bound.append(Row(line, key, ("".join(parts).strip(),)))
            self._span = None

    def handle_data(self, data: str) -> None:
        plain = data.strip()
        if self._span is not None:
            self._span[2].append(data)
        elif self._row is not None and "td" in self._inside:
            self._row[2][-1] += data
        elif not plain or "style" in self._inside or "title" in self._inside:
            return
        elif self._place == "evidence":
            if not {"h2", "th"} & set(self._inside):
                self.card.loose.append((self.getpos()[0], plain))
        elif "h1" not in self._inside and not _is_frame(plain):
            self.card.said.append((self.getpos()[0], plain))
