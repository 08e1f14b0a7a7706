"""What an alert may do by policy: one plug-in a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mlcycle_nb.errors import InvalidInput, did_you_mean
from mlcycle_nb.monitoring.records import (
    ALERT_KINDS,
    DATA_DRIFT,
    JOINT_DRIFT,
    MODEL_DRIFT,
    NO_DATA,
    PREDICTION_DRIFT,
)
from mlcycle_nb.plugins import Registry

if TYPE_CHECKING:
    from mlcycle_nb.monitoring.actions._contract import AlertPolicy

ACTIONS: Registry[AlertPolicy] = Registry(
    package="mlcycle_nb.monitoring.actions", group="mlcycle_nb.actions", what="action"
)
_DRIFT = (DATA_DRIFT, PREDICTION_DRIFT, JOINT_DRIFT)
WORDS: Mapping[str, tuple[str, ...]] = {
    **{kind: (kind,) for kind in ALERT_KINDS},
    "drift": _DRIFT,
    "accuracy": (MODEL_DRIFT,),
}
_ABOUT_NO_VERSION = frozenset({"rollback", "retrain"})


def parse_policy(texts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Read ``accuracy=rollback`` and ``drift=pause,retrain`` into kind of alert -> actions.

    Raises
    ------
    InvalidInput
        When a word is no kind of alert, or an alert of this kind names no version that could be acted on.
    UnknownPlugin
        When there is no such action.
    """
    found: dict[str, tuple[str, ...]] = {}
    for text in texts:
        word, equals, actions = text.partition("=")
        named = tuple(dict.fromkeys(name for name in (part.strip() for part in actions.split(",")) if name))
        if not equals or not named:
            remedy = "write such as accuracy=rollback or drift=pause,retrain"
            raise InvalidInput("an action policy is KIND=ACTION", value=text, where="--on-alert", remedy=remedy)
        if word not in WORDS:
            remedy = f"{did_you_mean(word, WORDS)}known: {', '.join(WORDS)}"
            raise InvalidInput("there is no such kind of alert", value=word, where="--on-alert", remedy=remedy)
        for name in named:
            if name not in ACTIONS.names():
                ACTIONS.load(name)  # raises with the nearest known name
            if word == NO_DATA and name in _ABOUT_NO_VERSION:
                raise InvalidInput(
                    "missing data says nothing about a version", value=text, where="--on-alert", remedy="use pause"
                )
        for kind in WORDS[word]:
            found[kind] = tuple(dict.fromkeys([*found.get(kind, ()), *named]))
    return found
