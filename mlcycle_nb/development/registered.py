"""Registered versions and aliases as the workspace knows them: answered without MLflow."""

from __future__ import annotations

from collections.abc import Mapping

from mlcycle_nb.development.records import ModelAlias, ModelVersion, RegisteredVersion, version_id, version_subject
from mlcycle_nb.errors import InvalidInput, NotFound, did_you_mean
from mlcycle_nb.references import ModelReference, check_name
from mlcycle_nb.store import Store
from mlcycle_nb.store.deletion import Deletion


class Registered:
    """Reads registered versions and aliases from the workspace database."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def models(self) -> list[str]:
        """Return the names of all models, sorted."""
        return sorted({record.model for record in self._store.find(RegisteredVersion)})

    def versions(self, name: str) -> list[ModelVersion]:
        """Return the versions of a model, newest first."""
        records = self._store.find(RegisteredVersion, name=check_name(name, "model name"))
        aliases = self.aliases(name)
        return sorted((_version(record, aliases) for record in records), key=lambda v: v.version, reverse=True)

    def aliases(self, name: str) -> dict[str, int]:
        """Return alias -> version of a model."""
        return {record.alias: record.number for record in self._store.find(ModelAlias, name=name)}

    def lookup(self, reference: ModelReference) -> ModelVersion | None:
        """Return the version that a reference names, or None."""
        number = reference.version
        aliases = self.aliases(reference.name)
        if reference.alias is not None:
            number = aliases.get(reference.alias)
        elif number is None:
            numbers = [r.number for r in self._store.find(RegisteredVersion, name=reference.name)]
            if len(numbers) > 1:
                raise InvalidInput(
                    f"{reference.name} has {len(numbers)} versions",
                    value=str(reference),
                    remedy=f"name one, such as {version_id(reference.name, max(numbers))}",
                )
            number = numbers[0] if numbers else None
        if number is None:
            return None
        record = self._store.maybe(RegisteredVersion, version_id(reference.name, number))
        return None if record is None else _version(record, aliases)

    def absent(self, reference: ModelReference) -> NotFound:
        """Return the error that says what there is instead."""
        models = self.models()
        if reference.name not in models:
            known = ", ".join(models) or "none yet; register one with %model or register_model"
            return NotFound(
                "there is no model of this name",
                value=reference.name,
                remedy=f"{did_you_mean(reference.name, models)}known: {known}",
            )
        if reference.alias is not None:
            aliases = self.aliases(reference.name)
            listed = ", ".join(f"@{alias}={number}" for alias, number in sorted(aliases.items())) or "none yet"
            return NotFound(
                f"{reference.name} has no alias {reference.alias!r}",
                value=str(reference),
                remedy=f"{did_you_mean(reference.alias, aliases)}known: {listed}",
            )
        numbers = ", ".join(str(version.version) for version in self.versions(reference.name)[:10])
        gone = (
            None
            if reference.version is None
            else self._store.maybe(Deletion, version_subject(reference.name, reference.version))
        )
        if gone is not None:
            return NotFound(f"{gone.about} {gone.told()}", value=str(reference), remedy=f"known: {numbers or 'none'}")
        return NotFound(
            f"{reference.name} has no version {reference.version}", value=str(reference), remedy=f"known: {numbers}"
        )


def _version(record: RegisteredVersion, aliases: Mapping[str, int]) -> ModelVersion:
    return ModelVersion(
        name=record.model,
        version=record.number,
        package_digest=record.package_digest,
        run_id=record.run_id,
        created_at=record.created_at,
        aliases=tuple(sorted(alias for alias, number in aliases.items() if number == record.number)),
        tags=dict(record.tags),
    )
