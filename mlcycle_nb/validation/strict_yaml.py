"""YAML read strictly: what a person typed is what is read, or it is refused with its line.

PyYAML follows YAML 1.1, where ``no`` is false, ``08`` is text, ``1e3`` is text, ``1_000`` and ``12:30`` are numbers
and the last of two equal keys wins. In a file that decides what reaches production none of that may happen quietly.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from mlcycle_nb.errors import InvalidInput, show_value

DEPTH_LIMIT = 32
NODE_LIMIT = 20_000
"""Values a document may have, each use of an alias counted in full."""

_NUMBER = re.compile(r"[-+]?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_SURPRISING_WORD = re.compile(r"(y|yes|n|no|on|off)", re.IGNORECASE)
_SURPRISING_NUMBER = re.compile(
    r"[-+]?(0[0-9]+|0[xob][0-9a-f_]+|[0-9][0-9]*_[0-9_]*(\.[0-9_]*)?|\.[0-9]+|[0-9]+\.|[0-9]+(:[0-5]?[0-9])+(\.[0-9]*)?)",
    re.IGNORECASE,
)
_NOT_FINITE = re.compile(r"[-+]?\.?(nan|inf|infinity)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed document: plain dicts, lists and values, and the line of each place."""

    tree: Any
    lines: dict[str, int] = field(default_factory=dict)

    def at(self, place: str) -> str:
        """Return ``gates[2].min (line 7)``."""
        line = self.lines.get(place)
        return place if line is None else f"{place} (line {line})"


def parse(text: str, *, where: str) -> Document:
    """Read a YAML document.

    Raises
    ------
    InvalidInput
        With the line: syntax, a tag, a merge key, an alias that expands without end, a key given twice (both lines),
        a value that YAML 1.1 would read differently from how it looks, a number that is not finite.
    """
    import yaml

    try:
        _check_events(text, where)
        node = yaml.compose(text, Loader=_text_loader())
    except yaml.YAMLError as failure:
        mark = getattr(failure, "problem_mark", None)
        place = where if mark is None else f"{where} line {mark.line + 1}"
        problem = getattr(failure, "problem", None) or getattr(failure, "reason", None) or "cannot be read"
        raise InvalidInput(f"not valid YAML: {problem}", where=place) from None
    if node is None:
        raise InvalidInput("the file is empty", where=where)
    return _Reader(where).read(node)


def _check_events(text: str, where: str) -> None:
    """Look at the stream before any tree is built, so that no small text can become a large one."""
    import yaml

    depth = documents = 0
    events: Iterable[Any] = yaml.parse(text, Loader=yaml.SafeLoader)
    for count, event in enumerate(events):
        place = f"{where} line {event.start_mark.line + 1}"
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
        elif isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if documents > 1:
            raise InvalidInput("a second document begins here", where=place)
        if getattr(event, "tag", None) is not None:
            raise InvalidInput("tags are not allowed", value=event.tag, where=place)
        if depth > DEPTH_LIMIT:
            raise InvalidInput(f"nested deeper than {DEPTH_LIMIT}", where=place)
        if count > NODE_LIMIT:
            raise InvalidInput(f"more than {NODE_LIMIT} values", where=place)


def _text_loader() -> Any:
    import yaml

    class TextLoader(yaml.SafeLoader):
        """Resolves nothing: every scalar stays the text that was typed."""

        yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 -- PyYAML reads it from the class

    return TextLoader


class _Reader:
    def __init__(self, where: str) -> None:
        self._where = where
        self._lines: dict[str, int] = {}
        self._count = 0

    def read(self, node: Any) -> Document:
        return Document(self._value(node, "", 0), self._lines)

    def _value(self, node: Any, place: str, depth: int) -> Any:
        import yaml

        line = node.start_mark.line + 1
        self._lines.setdefault(place, line)
        self._count += 1
        if self._count > NODE_LIMIT or depth > DEPTH_LIMIT:
            raise InvalidInput("alias expansion over the limit", where=f"{self._where} line {line}")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, place, depth)
        if isinstance(node, yaml.SequenceNode):
            return [self._value(item, f"{place}[{index}]", depth + 1) for index, item in enumerate(node.value)]
        return self._scalar(node, place or "value", line)

    def _mapping(self, node: Any, place: str, depth: int) -> dict[str, Any]:
        import yaml

        tree: dict[str, Any] = {}
        seen: dict[str, int] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise InvalidInput("a key must be a word", where=f"{self._where} line {line}")
            key = str(key_node.value)
            if key == "<<":
                raise InvalidInput("merge keys are not allowed", where=f"{self._where} line {line}")
            inside = f"{place}.{key}" if place else key
            if key in seen:
                raise InvalidInput(
                    f"key {show_value(key)} is given twice, in lines {seen[key]} and {line}",
                    where=f"{self._where} {inside}",
                )
            seen[key] = line
            tree[key] = self._value(value_node, inside, depth + 1)
        return tree

    def _scalar(self, node: Any, place: str, line: int) -> Any:
        text = str(node.value)
        if node.style is not None:  # quoted or block text is text
            return text
        where = f"{self._where} line {line}, {place}"
        if text in ("", "~", "null"):
            return None
        if text in ("true", "false"):
            return text == "true"
        if _NUMBER.fullmatch(text):
            return _number(text, where)
        if _NOT_FINITE.fullmatch(text):
            raise InvalidInput("must be a finite number", value=text, where=where)
        if _SURPRISING_WORD.fullmatch(text) or text.lower() in ("true", "false"):
            raise InvalidInput(
                "expected string, got bool: YAML reads this word as true or false",
                value=text,
                where=where,
                remedy=f'quote it ("{text}"), or write true or false',
            )
        if _SURPRISING_NUMBER.fullmatch(text):
            raise InvalidInput(
                "YAML reads this number in a way of its own",
                value=text,
                where=where,
                remedy="write plain digits, or quote it",
            )
        return text


def _number(text: str, where: str) -> int | float:
    if len(text) > 400:
        raise InvalidInput("a number has over 400 digits", value=text, where=where)
    if re.fullmatch(r"[-+]?[0-9]+", text):
        return int(text)
    value = float(text)
    if not math.isfinite(value):
        raise InvalidInput("must be a finite number", value=text, where=where)
    return value
