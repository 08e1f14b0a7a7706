"""Validation's part of a model card: verdicts, gates with their intervals, fairness, and what was not shown."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING

from mlcycle_nb.development.card.facts import Fact
from mlcycle_nb.development.records import ModelVersion
from mlcycle_nb.outcomes import Outcome
from mlcycle_nb.validation.records import GateResult, Validation

if TYPE_CHECKING:
    from mlcycle_nb.store import Store


def validation_facts(store: Store, version: ModelVersion, at: datetime) -> list[Fact]:
    """Return what the verdicts on a version that were in by a time have shown, oldest verdict first."""
    verdicts = [
        one
        for one in store.find(Validation, name=version.name, newest_first=False)
        if one.model_version == version.version and one.finished_at is not None and one.finished_at <= at
    ]
    if not verdicts:
        nothing = "no finished validation"
        return [Fact(section="Known limits", key="validation/none", name="validation", value=nothing, source="records")]
    return [fact for verdict in verdicts for fact in _facts(verdict)]


def _facts(verdict: Validation) -> Iterator[Fact]:
    source = f"validation {verdict.id}"

    def fact(key: str, name: str, value: str | int) -> Fact:
        return Fact(section="Validation", key=f"{verdict.id}/{key}", name=name, value=value, source=source)

    where = ", ".join(verdict.environments) or "all environments"
    yield fact("verdict", f"verdict for {where}", verdict.outcome.value)
    yield fact("rows", "rows judged on", verdict.rows)
    yield fact("data", "data judged on", verdict.evidence.data)
    yield fact("gates", "gates file", verdict.evidence.gates)
    for place, result in enumerate(verdict.results, 1):
        section = "Fairness" if result.family == "fairness" else "Validation"
        key = f"{verdict.id}/{place}-{result.check}"
        gate = f"{source}, gate {place}"
        if result.value is not None:
            yield Fact(
                section=section,
                key=f"{key}/value",
                name=result.check,
                value=result.value,
                low=result.low,
                high=result.high,
                unit=result.unit,
                source=f"{gate}, {result.n} observations" if result.n is not None else gate,
            )
        yield Fact(section=section, key=f"{key}/outcome", name=_named(result), value=result.outcome.value, source=gate)
        if result.outcome is not Outcome.PASSED:
            yield Fact(
                section="Known limits",
                key=f"{key}/limit",
                name=f"{result.check}: {result.outcome.value}",
                value=result.reason or "no reason recorded",
                source=gate,
            )


def _named(result: GateResult) -> str:
    bound = f" {result.bound}" if result.bound else ""
    return f"gate {result.check}{bound}" + ("" if result.required else " (not required)")
