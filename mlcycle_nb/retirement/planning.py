"""What must hold before a version may be retired; everything that speaks against it, at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mlcycle_nb.context import Context
from mlcycle_nb.errors import InvalidInput, Refused, did_you_mean
from mlcycle_nb.references import ModelReference
from mlcycle_nb.retirement.records import ENDED_PHASES, Retirement
from mlcycle_nb.retirement.world import ModelRegistry, Traffic

if TYPE_CHECKING:
    from mlcycle_nb.packages import TensorSpec

REASON_LIMIT = 2000


def check_environment(context: Context, environment: str) -> str:
    """Return the environment when the workspace has it."""
    known = context.settings.deployment.environments
    if environment not in known:
        remedy = f"{did_you_mean(environment, known)}known: {', '.join(known)}"
        raise InvalidInput("there is no such environment", value=environment, where="--env", remedy=remedy)
    return environment


def check_reason(reason: str) -> str:
    """Return the reason, which must say something."""
    if not reason.strip():
        raise InvalidInput(
            "a retirement needs a reason", where="--reason", remedy="say why, for those who read it later"
        )
    if len(reason) > REASON_LIMIT:
        raise InvalidInput(f"the reason has {len(reason)} characters, over {REASON_LIMIT}", where="--reason")
    return reason.strip()


def read_version(reference: str, registry: ModelRegistry, *, where: str) -> tuple[str, int]:
    """Return model and version of a reference; an alias is resolved now and never again."""
    parsed = ModelReference.parse(reference)
    if parsed.version is not None:
        return parsed.name, parsed.version
    if parsed.alias is None:
        raise InvalidInput(
            "which version?", value=reference, where=where, remedy=f"write {parsed.name}/VERSION or {parsed.name}@ALIAS"
        )
    aliases = registry.aliases(parsed.name)
    if parsed.alias not in aliases:
        remedy = f"{did_you_mean(parsed.alias, aliases)}known: {', '.join(sorted(aliases)) or 'none'}"
        raise InvalidInput("there is no such alias", value=reference, where=where, remedy=remedy)
    return parsed.name, aliases[parsed.alias]


def check_replacement(
    context: Context, traffic: Traffic, registry: ModelRegistry, environment: str, model: str, version: int, other: str
) -> str:
    """Return the replacement's reference when it can take over.

    Raises
    ------
    InvalidInput
        When it is the same version or another model's.
    Refused
        When it has no healthy replica, takes other inputs, or is being retired itself.
    """
    name, number = read_version(other, registry, where="--replacement")
    if name != model:
        raise InvalidInput(
            f"the replacement must be a version of {model}: it answers at {model}'s address",
            value=other,
            where="--replacement",
        )
    if number == version:
        raise InvalidInput("a version cannot replace itself", value=other, where="--replacement")
    digest = registry.digest(name, number)
    reference = f"{name}/{number}"
    for one in _open_retirements(context, environment, model):
        if one.model_version == number:
            raise Refused(f"{reference} is being retired itself", where=one.id, remedy="name another replacement")
    problem = _differing_inputs(context, registry.digest(model, version), digest)
    if problem:
        raise Refused(f"{reference} cannot answer {model}/{version}'s callers: {problem}", where="--replacement")
    if traffic.healthy(environment, name, number) < 1:
        raise Refused(
            f"{reference} has no healthy replica in {environment}",
            where="--replacement",
            remedy=f"%deploy {reference} --env {environment}",
        )
    return reference


def check_not_needed(context: Context, environment: str, model: str, version: int) -> None:
    """Refuse to retire a version that replaces another one whose retirement has not ended."""
    for one in _open_retirements(context, environment, model):
        if one.replacement_version == version:
            raise Refused(
                f"{model}/{version} replaces {one.reference}, whose retirement is {one.phase}",
                where=one.id,
                remedy="wait for it, or cancel it first",
            )


def _open_retirements(context: Context, environment: str, model: str) -> list[Retirement]:
    found = context.store.find(Retirement, name=model)
    return [one for one in found if one.environment == environment and one.phase not in ENDED_PHASES]


def check_alone(
    traffic: Traffic, registry: ModelRegistry, environment: str, model: str, version: int, replacement: str | None
) -> tuple[str, ...]:
    """Return the aliases that name the version; without a replacement there must be none, and it must not be stable."""
    aliases = tuple(sorted(alias for alias, named in registry.aliases(model).items() if named == version))
    if replacement is not None:
        return aliases
    problems = []
    if traffic.stable(environment, model) == version:
        problems.append(f"it is the stable version of {environment}/{model}")
    if aliases:
        problems.append(f"alias {', '.join(aliases)} names it")
    if problems:
        raise Refused(
            f"{model}/{version} cannot be retired without a replacement: {' and '.join(problems)}",
            remedy=f"--replacement {model}/VERSION, one that is deployed and healthy",
        )
    return aliases


def _differing_inputs(context: Context, old: str, new: str) -> str:
    """Return why callers of the old version would be refused by the new one; empty when they would not."""
    from mlcycle_nb.packages import PackageStore

    store = PackageStore(context.folder("packages"))
    before, after = store.open(old).signature.inputs, store.open(new).signature.inputs
    if [(t.name, t.datatype, t.shape) for t in before] == [(t.name, t.datatype, t.shape) for t in after]:
        return ""
    return f"it takes {_shown(after)} and they send {_shown(before)}"


def _shown(tensors: Sequence[TensorSpec]) -> str:
    return ", ".join(f"{t.name} {t.datatype} {list(t.shape)}" for t in tensors)
