"""Search spaces: ``lr=log:1e-4..1e-1 hidden=32,64,128 depth=int:1..4 drop=0.0..0.5``, read strictly."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

from mlcycle_nb.errors import InvalidInput
from mlcycle_nb.training.submission import Param, check_param, parse_value

MAX_CHOICES = 1000
_WHERE = "--search"
_FORMS = "write lr=log:1e-4..1e-1, drop=0.0..0.5, depth=int:1..4, width=int:16..256/16 or hidden=32,64,128"
_PREFIXES: dict[str, tuple[str | None, bool]] = {
    "log": (None, True),
    "int": ("int", False),
    "float": ("float", False),
    "logint": ("int", True),
}
_RANGE_KEYS = frozenset({"low", "high", "log", "step", "type"})


@dataclass(frozen=True, slots=True, kw_only=True)
class SpaceEntry:
    """What one hyperparameter may be.

    Attributes
    ----------
    kind : {"float", "int", "choice"}
    low, high : float
        Bounds of a range, both included.
    log : bool
        Whether values are drawn evenly on a logarithmic scale.
    step : float, optional
        Distance between the values of a range.
    choices : tuple
        Values of a choice.
    """

    name: str
    kind: Literal["float", "int", "choice"]
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    step: float | None = None
    choices: tuple[Param, ...] = ()

    def __str__(self) -> str:
        if self.kind == "choice":
            return f"{self.name}=" + ",".join(map(_spelled, self.choices))
        prefix = ("logint:" if self.kind == "int" else "log:") if self.log else f"{self.kind}:"
        whole = self.kind == "int"
        low, high = (str(int(b)) if whole else repr(b) for b in (self.low, self.high))
        step = "" if self.step is None else f"/{int(self.step) if whole else self.step}"
        return f"{self.name}={prefix}{low}..{high}{step}"

    @property
    def values(self) -> tuple[Param, ...] | None:
        """All values, or None for a range of fractions without a step."""
        if self.kind == "choice":
            return self.choices
        if self.kind == "int":
            return tuple(range(int(self.low), int(self.high) + 1, int(self.step or 1)))
        if self.step is None:
            return None
        return tuple(
            self.low + position * self.step for position in range(round((self.high - self.low) / self.step) + 1)
        )


def parse_space(texts: Sequence[str]) -> tuple[SpaceEntry, ...]:
    """Read entries as they are written on a magic's line.

    Raises
    ------
    InvalidInput
        With the entry, what is wrong with it, and how entries are written.
    """
    entries = []
    for text in texts:
        name, equals, body = text.partition("=")
        if not equals:
            raise InvalidInput("an entry of the search space has no '='", value=text, where=_WHERE, remedy=_FORMS)
        entries.append(_parse_entry(name, body))
    return _checked(entries)


def read_space(space: Mapping[str, Any] | Sequence[str] | Sequence[SpaceEntry]) -> tuple[SpaceEntry, ...]:
    """Read a space given in Python.

    Parameters
    ----------
    space : mapping or sequence
        ``{"lr": "log:1e-4..1e-1", "hidden": [32, 64], "depth": range(1, 5), "drop": {"low": 0.0, "high": 0.5}}``,
        Optuna's distributions as values, or entries as texts.
    """
    if isinstance(space, Mapping):
        return _checked([_read_value(name, value) for name, value in space.items()])
    if isinstance(space, str) or not isinstance(space, Sequence):
        raise InvalidInput("a search space is a dict of names", value=type(space).__name__, remedy=_FORMS)
    given = list(space)
    if given and all(isinstance(one, SpaceEntry) for one in given):
        return _checked([one for one in given if isinstance(one, SpaceEntry)])
    return parse_space([str(one) for one in given])


def grid_size(space: Sequence[SpaceEntry]) -> int | None:
    """Return how many combinations there are, or None when there are infinitely many."""
    sizes = [entry.values for entry in space]
    return None if any(values is None for values in sizes) else math.prod(len(values or ()) for values in sizes)


# -- one entry ---------------------------------------------------------------------------------------------------


def _parse_entry(name: str, body: str) -> SpaceEntry:
    text = f"{name}={body}"
    prefix, colon, rest = body.partition(":")
    kind, log = None, False
    if colon and ".." in rest:
        if prefix not in _PREFIXES:
            from mlcycle_nb.errors import did_you_mean

            known = f"{did_you_mean(prefix, _PREFIXES)}known: {', '.join(_PREFIXES)}"
            raise InvalidInput(f"unknown kind of range {prefix!r}", value=text, where=_WHERE, remedy=known)
        (kind, log), body = _PREFIXES[prefix], rest
    if ".." in body:
        return _parse_range(name, text, body, kind, log)
    if colon and prefix in _PREFIXES:
        raise InvalidInput(
            "a range needs two bounds", value=text, where=_WHERE, remedy=f"write {name}={prefix}:LOW..HIGH"
        )
    parts = body.split(",")
    if not body or any(not part.strip() for part in parts):
        raise InvalidInput("an entry of the search space has an empty value", value=text, where=_WHERE, remedy=_FORMS)
    return _choice(name, [parse_value(part.strip()) for part in parts], text)


def _parse_range(name: str, text: str, body: str, kind: str | None, log: bool) -> SpaceEntry:
    bounds, slash, step_text = body.partition("/")
    pieces = bounds.split("..")
    if len(pieces) != 2:
        raise InvalidInput("a range has two bounds", value=text, where=_WHERE, remedy=f"write {name}=LOW..HIGH")
    low, high = (_number(piece, text) for piece in pieces)
    step = _number(step_text, text) if slash else None
    if kind is None and not log and all(isinstance(bound, int) for bound in (low, high)):
        ends = f"{low}..{high}"
        remedy = f"write {name}=int:{ends} or {name}=float:{ends}"
        raise InvalidInput("whole bounds may mean whole numbers or fractions", value=text, where=_WHERE, remedy=remedy)
    return _range(name, low, high, kind=kind or "float", log=log, step=step, text=text)


def _number(text: str, entry: str) -> int | float:
    for kind in (int, float):
        try:
            value = kind(text)
        except ValueError:
            continue
        if math.isfinite(value):
            return value
    raise InvalidInput(f"{text!r} is not a finite number", value=entry, where=_WHERE, remedy=_FORMS)


def _range(name: str, low: Any, high: Any, *, kind: str, log: bool, step: Any = None, text: str = "") -> SpaceEntry:
    shown = text or f"{name}: {low}..{high}"

    def refuse(problem: str, remedy: str = "") -> NoReturn:
        raise InvalidInput(problem, value=shown, where=_WHERE, remedy=remedy)

    for bound in (low, high, *(() if step is None else (step,))):
        if isinstance(bound, bool) or not isinstance(bound, int | float) or not math.isfinite(bound):
            refuse(f"a bound or step of {name!r} is not a finite number")
        if kind == "int" and bound != int(bound):
            refuse(f"{name!r} is a range of whole numbers, and {bound} is none", f"write {name}=float:{low}..{high}")
    if low > high:
        refuse(f"the range of {name!r} ends before it begins", f"write {name}={high}..{low}")
    if low == high:
        refuse(f"the range of {name!r} holds one value", f"give it by --param {name}={low}")
    if log and low <= 0:
        refuse(
            f"a logarithmic range must begin above 0, {name!r} begins at {low}",
            "raise the lower bound, or leave log out",
        )
    if step is not None:
        if log:
            refuse(f"{name!r} has a logarithmic range, which takes no step")
        if step <= 0 or step > high - low:
            refuse(f"the step of {name!r} must be above 0 and at most {high - low:g}")
        count = (high - low) / step
        if abs(count - round(count)) > 1e-9 * max(1.0, count):
            reached = low + math.floor(count) * step
            refuse(f"steps of {step:g} from {low:g} do not reach {high:g}", f"end the range at {reached:g}")
    return SpaceEntry(
        name=name,
        kind="int" if kind == "int" else "float",
        low=float(low),
        high=float(high),
        log=log,
        step=None if step is None else float(step),
    )


def _choice(name: str, values: Sequence[Any], text: str = "") -> SpaceEntry:
    shown = text or f"{name}: {list(values)}"
    for value in values:
        check_param(name, value, where=_WHERE)
    if not values or len(values) > MAX_CHOICES:
        raise InvalidInput(f"{name!r} must have 2 to {MAX_CHOICES} values", value=shown, where=_WHERE)
    if len(values) == 1:
        remedy = f"give it by --param {name}={_spelled(values[0])}; " + _FORMS
        raise InvalidInput(
            f"{name!r} has one value, so there is nothing to search", value=shown, where=_WHERE, remedy=remedy
        )
    if len({(type(value), value) for value in values}) < len(values):
        raise InvalidInput(f"a value of {name!r} is given twice", value=shown, where=_WHERE)
    return SpaceEntry(name=name, kind="choice", choices=tuple(values))


def _read_value(name: Any, value: Any) -> SpaceEntry:
    check_param(name, None, where=_WHERE)
    if isinstance(value, str):
        return _parse_entry(name, value)
    if isinstance(value, range):
        if len(value) < 1 or value.step < 1:
            raise InvalidInput(f"the range of {name!r} is empty or descends", value=value, where=_WHERE)
        return _range(name, value[0], value[-1], kind="int", log=False, step=None if value.step == 1 else value.step)
    if isinstance(value, list | tuple):
        return _choice(name, [_plain(one) for one in value])
    if isinstance(value, Mapping):
        return _read_mapping(name, value)
    if type(value).__module__ == "optuna.distributions":
        return _read_distribution(name, value)
    remedy = "give a list of values, a text such as 'log:1e-4..1e-1', or {'low': 0.0, 'high': 0.5}"
    raise InvalidInput(f"the space of {name!r} is of no known form", value=value, where=_WHERE, remedy=remedy)


def _read_mapping(name: str, value: Mapping[str, Any]) -> SpaceEntry:
    if set(value) == {"choices"}:
        return _choice(name, [_plain(one) for one in value["choices"]])
    unknown = sorted(map(str, set(value) - _RANGE_KEYS))
    if unknown or not {"low", "high"} <= set(value) or value.get("type", "float") not in ("int", "float"):
        remedy = "use low and high, and log, step or type ('int' or 'float'), or choices alone"
        raise InvalidInput(f"the space of {name!r} is of no known form", value=dict(value), where=_WHERE, remedy=remedy)
    low, high = _plain(value["low"]), _plain(value["high"])
    both_whole = all(isinstance(bound, int) for bound in (low, high))
    kind = value.get("type") or ("int" if both_whole else "float")
    return _range(name, low, high, kind=kind, log=bool(value.get("log", False)), step=_plain(value.get("step")))


def _read_distribution(name: str, value: Any) -> SpaceEntry:
    if hasattr(value, "choices"):
        return _choice(name, list(value.choices))
    kind = "int" if type(value).__name__.startswith("Int") else "float"
    step = None if value.step is None or (kind == "int" and value.step == 1) else value.step
    return _range(name, value.low, value.high, kind=kind, log=value.log, step=step)


def _checked(entries: list[SpaceEntry]) -> tuple[SpaceEntry, ...]:
    if not entries:
        raise InvalidInput("the search space is empty", where=_WHERE, remedy=_FORMS)
    seen: set[str] = set()
    for entry in entries:
        check_param(entry.name, None, where=_WHERE)
        if entry.name in seen:
            raise InvalidInput(f"{entry.name!r} is given twice", value=str(entry), where=_WHERE)
        seen.add(entry.name)
    return tuple(entries)


def _plain(value: Any) -> Any:
    """Return a NumPy scalar as the plain value that it holds."""
    return value.item() if type(value).__module__ == "numpy" and hasattr(value, "item") else value


def _spelled(value: Param) -> str:
    return (
        {True: "true", False: "false", None: "none"}[value] if value is None or isinstance(value, bool) else str(value)
    )
