"""Gates: the rules of ``gates.yaml``, read strictly. A rule is written as what must be shown to be good."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlcycle_nb.errors import InvalidInput, MLCycleError, UnknownPlugin, did_you_mean, show_value
from mlcycle_nb.files import read_small_file
from mlcycle_nb.references import check_name
from mlcycle_nb.store.record import canonical_json
from mlcycle_nb.validation.contract import Check, Option, checks
from mlcycle_nb.validation.strict_yaml import Document, parse

COMMON_KEYS = ("check", "min", "max", "bound", "confidence", "min_samples", "required")
_BOUND = re.compile(r"\s*(>=|<=)\s*([-+]?[0-9][0-9.eE+-]*)\s*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """One rule.

    Parameters
    ----------
    check : str
        Name of the check that measures.
    minimum, maximum : float, optional
        The whole confidence interval must be at least / at most this.
    confidence : float
        Of the interval.
    min_samples : int
        Observations below which the gate is inconclusive.
    required : bool
        A rule that is not required is reported and does not change the verdict.
    options : dict
        Extra keys of the check, defaults filled in.
    """

    check: str
    minimum: float | None = None
    maximum: float | None = None
    confidence: float = 0.95
    min_samples: int = 100
    required: bool = True
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def bound(self) -> str:
        """The bound as text: ``>= 0.9``."""
        parts = []
        if self.minimum is not None:
            parts.append(f">= {self.minimum:g}")
        if self.maximum is not None:
            parts.append(f"<= {self.maximum:g}")
        return " and ".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class GateFile:
    """All rules, where they came from, and the digest that a verdict is bound to."""

    gates: tuple[Gate, ...]
    environments: tuple[str, ...] = ()
    source: str = ""
    digest: str = ""

    def applies_to(self, environment: str) -> bool:
        """Return whether a verdict by these rules counts in `environment`; without a list it counts everywhere."""
        return not self.environments or environment in self.environments


def load_gates(source: Path | str | Mapping[str, Any]) -> GateFile:
    """Read gates from a YAML file or a mapping of the same form.

    Raises
    ------
    InvalidInput
        Naming every problem with its place and line; nothing is guessed.
    """
    if isinstance(source, Mapping):
        document, where, path = Document(dict(source)), "gates", ""
        try:
            digest = _sha256(canonical_json(document.tree))
        except MLCycleError as failure:
            raise InvalidInput(f"gates must be plain JSON values: {failure.problem}", where=where) from None
    else:
        file = Path(source).expanduser().absolute()
        text = read_small_file(file)
        document, where, path = parse(text, where=file.name), file.name, str(file)
        digest = _sha256(text)
    reader = _GateReader(document)
    gates, environments = reader.read()
    if reader.problems:
        count = len(reader.problems)
        head = "" if count == 1 else f"{count} problems: "
        raise InvalidInput(head + "; ".join(reader.problems), where=where)
    return GateFile(gates=gates, environments=environments, source=path, digest=digest)


def digest_of(path: Path) -> str:
    """Return the digest of a gates file as it is now."""
    return _sha256(read_small_file(path))


def _sha256(text: str) -> str:
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


class _GateReader:
    """Turns a document into gates and collects every problem on the way."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self.problems: list[str] = []

    def read(self) -> tuple[tuple[Gate, ...], tuple[str, ...]]:
        tree = self._document.tree
        if not isinstance(tree, Mapping):
            self.problems.append(f"expected a mapping with the key gates, got {type(tree).__name__}")
            return (), ()
        self._refuse_unknown(tree, ("gates", "environments"), "")
        environments = self._environments(tree.get("environments", []))
        listed = tree.get("gates")
        if not isinstance(listed, list | tuple) or not listed:
            self.problems.append("gates must be a list with at least one rule: without one nothing is shown to be good")
            return (), environments
        gates = [self._gate(rule, f"gates[{index}]") for index, rule in enumerate(listed)]
        if not any(gate is None or gate.required for gate in gates):
            self.problems.append("no gate is required, so the verdict would mean nothing")
        return tuple(gate for gate in gates if gate is not None), environments

    def _environments(self, given: Any) -> tuple[str, ...]:
        if not isinstance(given, list | tuple):
            self._problem("environments", "must be a list of names", given)
            return ()
        names = []
        for index, name in enumerate(given):
            place = f"environments[{index}]"
            if not isinstance(name, str):
                self._problem(place, f"expected string, got {type(name).__name__}; quote it", name)
                continue
            try:
                names.append(check_name(name, "environment"))
            except MLCycleError as refused:
                self.problems.append(f"{self._document.at(place)}: {refused.problem}")
        return tuple(names)

    def _gate(self, rule: Any, place: str) -> Gate | None:
        if not isinstance(rule, Mapping):
            self._problem(place, "must be a mapping such as {check: accuracy, min: 0.9}", rule)
            return None
        name = rule.get("check")
        if not isinstance(name, str) or name not in checks.names():
            near = did_you_mean(str(name), checks.names())
            self._problem(f"{place}.check", f"unknown check; {near}known: {', '.join(checks.names())}", name)
            return None
        try:
            check = checks.load(name)
        except (UnknownPlugin, MLCycleError) as failure:
            self.problems.append(f"{self._document.at(place)}: {failure}")
            return None
        before = len(self.problems)
        self._refuse_unknown(rule, (*COMMON_KEYS, *check.options), place)
        minimum, maximum = self._bounds(rule, check, place)
        confidence = self._number(rule, "confidence", place, 0.95, 0.5, 0.9999)
        samples = self._number(rule, "min_samples", place, 100, 1, 10**9, whole=True)
        required = rule.get("required", True)
        if not isinstance(required, bool):
            self._problem(f"{place}.required", "must be true or false", required)
        options = {key: self._option(rule, key, option, place) for key, option in check.options.items()}
        if len(self.problems) > before:
            return None
        assert confidence is not None
        assert samples is not None
        return Gate(
            check=name,
            minimum=minimum,
            maximum=maximum,
            confidence=confidence,
            min_samples=int(samples),
            required=bool(required),
            options=options,
        )

    def _bounds(self, rule: Mapping[str, Any], check: Check, place: str) -> tuple[float | None, float | None]:
        if check.bounds is None:
            for key in ("min", "max", "bound"):
                if key in rule:
                    self._problem(f"{place}.{key}", f"{check.name} has no bound; remove the key", rule[key])
            return None, None
        low, high = check.bounds.low, check.bounds.high
        minimum = self._number(rule, "min", place, None, low, high)
        maximum = self._number(rule, "max", place, None, low, high)
        if "bound" in rule:
            found = _BOUND.fullmatch(rule["bound"]) if isinstance(rule["bound"], str) else None
            if found is None or "min" in rule or "max" in rule:
                self._problem(f"{place}.bound", 'must be such as ">= 0.9" and stand alone', rule["bound"])
                return None, None
            try:
                number = float(found[2])
            except ValueError:
                number = math.nan
            if not low <= number <= high:
                self._problem(f"{place}.bound", f"must be a finite number in [{low:g},{high:g}]", rule["bound"])
            minimum, maximum = (number, None) if found[1] == ">=" else (None, number)
        if minimum is None and maximum is None and not any(key in rule for key in ("min", "max", "bound")):
            wanted = "min" if check.better == "higher" else "max"
            self._problem(place, f"{check.name} needs a bound, such as {wanted}: …", None, shown=False)
        if check.better == "higher" and minimum is None and maximum is not None:
            self._problem(f"{place}.max", f"{check.name} is better when higher: use min", maximum)
        if check.better == "lower" and maximum is None and minimum is not None:
            self._problem(f"{place}.min", f"{check.name} is better when lower: use max", minimum)
        if minimum is not None and maximum is not None and minimum > maximum:
            self._problem(f"{place}.min", f"is above max {maximum:g}", minimum)
        return minimum, maximum

    def _option(self, rule: Mapping[str, Any], key: str, option: Option, place: str) -> Any:
        if option.kind in ("number", "integer"):
            return self._number(
                rule, key, place, option.default, option.low, option.high, whole=option.kind == "integer"
            )
        if key not in rule:
            return option.default
        value = rule[key]
        words = value if option.kind == "words" else [value]
        if not isinstance(words, list | tuple) or not words:
            self._problem(f"{place}.{key}", "must be a list of texts", value)
            return option.default
        for word in words:
            if not isinstance(word, str):
                self._problem(f"{place}.{key}", f"expected string, got {type(word).__name__}; quote it", value)
                return option.default
            if option.choices and word not in option.choices:
                near = did_you_mean(word, option.choices)
                self._problem(f"{place}.{key}", f"{near}known: {', '.join(option.choices)}", word)
                return option.default
        return list(words) if option.kind == "words" else value

    def _number(
        self,
        rule: Mapping[str, Any],
        key: str,
        place: str,
        default: float | None,
        low: float,
        high: float,
        *,
        whole: bool = False,
    ) -> float | None:
        if key not in rule:
            return default
        value = rule[key]
        good = (
            isinstance(value, int | float)
            and not isinstance(value, bool)
            and math.isfinite(value)
            and low <= value <= high
        )
        if good and (not whole or value == int(value)):
            return int(value) if whole else float(value)
        kind = "whole" if whole else "finite"
        problem = f"must be a {kind} number in [{low:g},{high:g}]"
        if key == "min_samples" and value in (0, False):
            problem += "; 0 would judge on no data"
        self._problem(f"{place}.{key}", problem, value)
        return default

    def _refuse_unknown(self, tree: Mapping[str, Any], known: tuple[str, ...], place: str) -> None:
        for key in tree:
            if key not in known:
                inside = f"{place}.{key}" if place else str(key)
                near = did_you_mean(str(key), known)
                self.problems.append(f"{self._document.at(inside)}: unknown key; {near}known: {', '.join(known)}")

    def _problem(self, place: str, problem: str, value: object, *, shown: bool = True) -> None:
        tail = f" (got {show_value(value)})" if shown else ""
        self.problems.append(f"{self._document.at(place)}: {problem}{tail}")
