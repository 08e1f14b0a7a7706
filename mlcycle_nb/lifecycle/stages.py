"""The stages, which of them follows which, and the gates before each."""

from __future__ import annotations

from enum import StrEnum

from mlcycle_nb.errors import InvalidInput, Refused, did_you_mean


class Stage(StrEnum):
    """A stage of a model's life."""

    DEVELOPMENT = "development"
    TRAINING = "training"
    VALIDATION = "validation"
    DEPLOYMENT = "deployment"
    MONITORING = "monitoring"
    RETIREMENT = "retirement"


ORDER = tuple(Stage)

FOLLOWS: dict[Stage, tuple[Stage, ...]] = {
    Stage.DEVELOPMENT: (Stage.TRAINING,),
    Stage.TRAINING: (Stage.VALIDATION,),
    Stage.VALIDATION: (Stage.DEPLOYMENT, Stage.TRAINING),
    Stage.DEPLOYMENT: (Stage.MONITORING, Stage.TRAINING),
    Stage.MONITORING: (Stage.RETIREMENT, Stage.TRAINING),
    Stage.RETIREMENT: (),
}
"""Stage -> the stages that may follow it. Going back to training begins a new cycle."""

VERSION, PACKAGE, VERDICT, APPROVAL, ROLLOUT, MONITOR, PLAN = (
    "version",
    "package",
    "verdict",
    "approval",
    "rollout",
    "monitor",
    "plan",
)

GATES: dict[Stage, tuple[str, ...]] = {
    Stage.TRAINING: (),
    Stage.VALIDATION: (VERSION, PACKAGE),
    Stage.DEPLOYMENT: (PACKAGE, VERDICT, APPROVAL),
    Stage.MONITORING: (PACKAGE, ROLLOUT, MONITOR),
    Stage.RETIREMENT: (PLAN,),
}
"""Stage -> what has to be shown before it begins."""

NEVER_FORCED = frozenset({VERSION, PACKAGE})
"""Gates that no reason opens: without a version, or with other bytes, there is nothing to go on with."""


def parse_stage(text: str | Stage) -> Stage:
    """Return the stage of this name."""
    try:
        return Stage(text)
    except ValueError:
        known = [stage.value for stage in ORDER]
        raise InvalidInput(
            "there is no stage of this name",
            value=text,
            remedy=f"{did_you_mean(str(text), known)}known: {', '.join(known)}",
        ) from None


def check_order(lifecycle: str, source: Stage, target: Stage) -> None:
    """Refuse a step that the order of stages does not have, whoever asks for it."""
    if target in FOLLOWS[source]:
        return
    if not FOLLOWS[source]:
        raise Refused(
            f"{lifecycle} is in {source.value}, the last stage",
            value=target.value,
            remedy="create a lifecycle for the model that follows",
        )
    allowed = " or ".join(stage.value for stage in FOLLOWS[source])
    raise Refused(
        f"{lifecycle} cannot go from {source.value} to {target.value}", value=target.value, remedy=f"next: {allowed}"
    )


def only_next(lifecycle: str, source: Stage) -> Stage:
    """Return the stage that follows when none was named: the next one in order."""
    if source is Stage.MONITORING:
        raise InvalidInput(
            f"{lifecycle} is monitored and stays so; name where it goes",
            where="--to",
            remedy="retirement, or training for a new cycle",
        )
    if not FOLLOWS[source]:
        raise Refused(f"{lifecycle} is in {source.value}, the last stage")
    return FOLLOWS[source][0]
