"""What a validation check is: the small contract that each file in ``checks/`` keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from mlcycle_nb.plugins import Registry

if TYPE_CHECKING:
    from mlcycle_nb.validation.gates import Gate
    from mlcycle_nb.validation.subject import Subject

Better = Literal["higher", "lower", "none"]
Family = Literal["performance", "fairness", "robustness", "security", "compliance", "data"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One extra key that a check takes in ``gates.yaml``."""

    kind: Literal["number", "integer", "text", "words"]
    default: Any = None
    low: float = float("-inf")
    high: float = float("inf")
    choices: tuple[str, ...] = ()


NO_OPTIONS: Mapping[str, Option] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundRange:
    """Values that ``min`` and ``max`` of a gate may have."""

    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What a check found. It never says passed: `decide` does, from the interval and the gate's bound.

    Parameters
    ----------
    value, low, high : float, optional
        Estimate with its confidence interval at the gate's confidence.
    n : int
        Observations behind it.
    missing : str
        Why too little is known to measure; the gate is then inconclusive.
    flaw : str
        What is wrong, for checks that look for a flaw; the gate then fails.
    proven : bool
        For checks without a bound: everything was examined and nothing is wrong.
    advice : str
        What to do next when the gate does not pass.
    detail : mapping
        JSON-able numbers for the report, such as the value of each group.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    missing: str = ""
    flaw: str = ""
    proven: bool = False
    advice: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict)


class Check(Protocol):
    """A plug-in: one file in ``checks/``, or an entry point of the group ``mlcycle_nb.checks``."""

    name: str
    family: Family
    unit: str
    summary: str
    """One sentence for the report: what is measured, and what 0 or 1 means."""
    better: Better
    """Which bound makes sense: ``min``, ``max``, or no bound at all."""
    bounds: BoundRange | None
    options: Mapping[str, Option]

    def measure(self, subject: Subject, gate: Gate) -> Measurement:
        """Measure `subject`; deterministic for one seed, and without effects outside of it."""
        ...


checks: Registry[Check] = Registry(package="mlcycle_nb.validation.checks", group="mlcycle_nb.checks", what="check")
