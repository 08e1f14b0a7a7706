"""Every stage's records and its part of a model card, in one place: what `Workspace` hands to development."""

from __future__ import annotations

import importlib

from mlcycle_nb.development.knowledge import StageKnowledge
from mlcycle_nb.store import Record

RECORD_MODULES = (
    "mlcycle_nb.store.deletion",
    "mlcycle_nb.development.records",
    "mlcycle_nb.development.comments",
    "mlcycle_nb.development.ownership",
    "mlcycle_nb.development.card.texts",
    "mlcycle_nb.development.environments.records",
    "mlcycle_nb.training.records",
    "mlcycle_nb.training.search.records",
    "mlcycle_nb.validation.records",
    "mlcycle_nb.deployment.records",
    "mlcycle_nb.monitoring.records",
    "mlcycle_nb.monitoring.maintenance",
    "mlcycle_nb.monitoring.action_records",
    "mlcycle_nb.retirement.records",
    "mlcycle_nb.lifecycle.records",
)
"""A contract test holds this list against the source: a kind that is missing here would not be asked for referrers."""


def stage_knowledge() -> StageKnowledge:
    """Return what all stages of this package have to tell."""
    from mlcycle_nb.validation.card import validation_facts

    return StageKnowledge(record_kinds=record_kinds(), card_sources=(validation_facts,))


def record_kinds() -> tuple[type[Record], ...]:
    """Return every class of record of this package."""
    found: list[type[Record]] = []
    for name in RECORD_MODULES:
        module = importlib.import_module(name)
        found += [
            value
            for value in vars(module).values()
            if isinstance(value, type) and issubclass(value, Record) and value.__module__ == name
        ]
    return tuple(dict.fromkeys(found))
