"""Which runs are shown and in which order: ``metrics.val_accuracy > 0.9 and params.lr = 0.1``."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mlcycle_nb.development.records import Run
from mlcycle_nb.errors import InvalidInput, did_you_mean

EXAMPLE = "metrics.val_accuracy > 0.9 and params.lr = 0.1"
_FAMILIES = ("metrics", "params", "tags")
_FIELDS = ("status", "name", "experiment", "seconds")
_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "!=": operator.ne,
    "==": operator.eq,
    "=": operator.eq,
    ">": operator.gt,
    "<": operator.lt,
}
_TOKEN = re.compile(
    r"""\s*(?:(?P<op>>=|<=|!=|==|=|>|<)
    |(?P<text>'[^']*'|"[^"]*")
    |(?P<name>(?:metrics|params|tags)\.(?:"[^"]+"|[^\s<>=!'"]+))
    |(?P<word>[^\s<>=!'"]+))""",
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class Field:
    """Something of a run that can be compared: ``metrics.loss``, ``params.lr``, ``tags.team``, ``status``."""

    family: str
    key: str = ""

    def of(self, run: Run) -> str | float | None:
        """Return its value in a run, None when the run has none."""
        if self.family == "metrics":
            return run.metrics.get(self.key)
        if self.family == "params":
            return run.parameters.get(self.key)
        if self.family == "tags":
            return run.tags.get(self.key)
        if self.family == "seconds":
            return run.duration_seconds
        return str(getattr(run, self.family))

    def __str__(self) -> str:
        return f"{self.family}.{self.key}" if self.key else self.family


@dataclass(frozen=True, slots=True)
class Condition:
    """One comparison."""

    field: Field
    operator: str
    value: str

    def holds(self, run: Run) -> bool:
        """Return whether it holds; a run without the value never fits, NaN fits nothing but ``!=``."""
        found = self.field.of(run)
        if found is None:
            return False
        number, wanted = _number(found), _number(self.value)
        if number is not None and wanted is not None:
            return _OPERATORS[self.operator](number, wanted)
        return _OPERATORS[self.operator](str(found), self.value)


def parse_where(text: str) -> tuple[Condition, ...]:
    """Read conditions joined by ``and``.

    Raises
    ------
    InvalidInput
        With the part that cannot be read.
    """
    tokens = _tokens(text)
    conditions: list[Condition] = []
    while tokens:
        if conditions:
            kind, word = tokens.pop(0)
            if kind != "word" or word.lower() != "and":
                raise _refused("conditions are joined by 'and'", word)
        part, tokens = tokens[:3], tokens[3:]
        if [kind == "op" for kind, _ in part] != [False, True, False]:
            raise _refused("a condition is a name, an operator and a value", " ".join(word for _, word in part) or text)
        field, value = parse_field(part[0][1], where="--where"), part[2][1]
        ordered = part[1][1] in {">", "<", ">=", "<="}
        if (ordered or field.family == "metrics") and _number(value) is None:
            raise _refused(f"{field} is compared with a number", value)
        conditions.append(Condition(field, part[1][1], value))
    if not conditions:
        raise _refused("it is empty", text)
    return tuple(conditions)


def parse_field(text: str, *, where: str) -> Field:
    """Read ``metrics.loss`` and its kin."""
    family, dot, key = text.partition(".")
    if dot and family in _FAMILIES and key:
        return Field(family, key.strip('"'))
    if not dot and text in _FIELDS:
        return Field(text)
    known = [*(f"{family}.NAME" for family in _FAMILIES), *_FIELDS]
    near = did_you_mean(family, [*_FAMILIES, *_FIELDS])
    raise InvalidInput(
        "runs have nothing of this name", value=text, where=where, remedy=f"{near}known: {', '.join(known)}"
    )


def refuse_unheard_of(fields: Iterable[Field], runs: Sequence[Run], *, where: str) -> None:
    """Refuse a metric, parameter or tag that none of the runs has: a misspelt one would silently fit nothing."""
    for field in fields:
        if not field.key or not runs or any(field.of(run) is not None for run in runs):
            continue
        tables = {"metrics": "metrics", "params": "parameters", "tags": "tags"}
        found = {key for run in runs for key in getattr(run, tables[field.family])}
        known = sorted(key for key in found if not key.startswith("mlflow."))
        listed = ", ".join(known[:15]) or "none"
        raise InvalidInput(
            f"none of {len(runs)} runs has {field}",
            value=field.key,
            where=where,
            remedy=f"{did_you_mean(field.key, known)}known: {listed}",
        )


def ordered(runs: Iterable[Run], field: Field, *, ascending: bool) -> list[Run]:
    """Return runs by a value, the greatest first unless `ascending`; those without one, or with NaN, come last."""
    known: list[tuple[Any, Run]] = []
    without = []
    for run in runs:
        value = field.of(run)
        number = None if value is None else _number(value)
        if value is None or (number is not None and math.isnan(number)):
            without.append(run)
        else:
            known.append(((0, number, "") if number is not None else (1, 0.0, str(value)), run))
    return [run for _, run in sorted(known, key=lambda pair: pair[0], reverse=not ascending)] + without


def _tokens(text: str) -> list[tuple[str, str]]:
    found, position = [], 0
    text = text.rstrip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None or match.end() == position:
            raise _refused(f"it cannot be read at column {position + 1}", text)
        kind = str(match.lastgroup)
        word = match[kind]
        found.append(("text", word[1:-1]) if kind == "text" else (kind, word))
        position = match.end()
    return found


def _number(value: str | float) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None


def _refused(problem: str, value: str) -> InvalidInput:
    return InvalidInput(f"--where: {problem}", value=value, where="%runs", remedy=f'write --where "{EXAMPLE}"')
