"""A lifecycle service over gates that a test opens and closes by name, and one over stored records."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from mlcycle_nb.context import Context
from mlcycle_nb.development.records import ModelVersion
from mlcycle_nb.errors import NotFound
from mlcycle_nb.lifecycle.service import ModelLifecycleManager
from mlcycle_nb.store import Store
from mlcycle_nb.testing.lifecycle import ScriptedEvidence, scripted_manager
from mlcycle_nb.validation.records import Validation


class Versions:
    """A registry in memory."""

    def __init__(self, *versions: ModelVersion) -> None:
        self.known = {version.reference: version for version in versions}

    def get_version(self, ref: str) -> ModelVersion:
        if ref not in self.known:
            raise NotFound("there is no such version", value=ref)
        return self.known[ref]

    def versions(self, name: str) -> list[ModelVersion]:
        found = [version for version in self.known.values() if version.name == name]
        return sorted(found, key=lambda version: version.version, reverse=True)


class StoredVerdicts:
    """Validation, as far as its stored verdicts say: the newest that applies decides."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.void = ""

    def validations(self, name: str | None = None) -> Sequence[Validation]:
        return self.store.find(Validation, name=name)

    def is_valid_for(self, ref: str, environment: str) -> tuple[bool, str]:
        for verdict in self.validations(ref.partition("/")[0]):
            if verdict.reference == ref and (not verdict.environments or environment in verdict.environments):
                if self.void:
                    return False, f"validation {verdict.id} is void: {self.void}"
                return verdict.passed, f"validation {verdict.id} is {verdict.outcome.value}"
        return False, f"{ref} has no verdict for {environment}"


@pytest.fixture
def evidence() -> ScriptedEvidence:
    return ScriptedEvidence()


@pytest.fixture
def lifecycles(context: Context, evidence: ScriptedEvidence) -> ModelLifecycleManager:
    return scripted_manager(context, evidence)
