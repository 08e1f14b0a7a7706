"""The verdict on one window: every column against its reference, under control of the false-discovery rate."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mlcycle_nb.monitoring.dependence import dependence
from mlcycle_nb.monitoring.detectors import DETECTORS
from mlcycle_nb.monitoring.detectors._contract import (
    SMALLEST_SAMPLE,
    Detector,
    Floats,
    caution,
    parts_of,
    smallest_of,
    unfit,
)
from mlcycle_nb.monitoring.records import Finding
from mlcycle_nb.outcomes import Outcome
from mlcycle_nb.stats.multiple_testing import OnlineFdr

DATA, PREDICTION, JOINT = "data", "prediction", "joint"
FAMILIES = (DATA, PREDICTION, JOINT)
ALL_NUMERIC = "(all numeric features)"
_ORDER = {"drift": 0, "insufficient": 1, "stable": 2}


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """One column of a sample: of the ``data`` family, or of the ``prediction`` family."""

    name: str
    family: str
    kind: str  # numeric, categorical or joint
    values: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A reference column with its detector, and what that detector did once for all windows."""

    column: Column
    detector_name: str
    detector: Detector
    ready: Any
    why_not: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """Findings in the order drifted, insufficient, stable; the worst first within each."""

    outcome: Outcome
    findings: tuple[Finding, ...]
    levels: dict[str, float]
    why: str


def prepare(reference: Sequence[Column], detectors: Sequence[str]) -> list[Prepared]:
    """Pair each reference column with the first detector that takes its kind.

    A joint detector gets one column more: the matrix of all numeric features that can be compared.
    """
    loaded = [(name, part) for name in detectors for part in parts_of(DETECTORS.load(name))]
    columns = [*reference, *_joint(reference, [detector for _, detector in loaded])]
    found = []
    for column in columns:
        name, detector = next(((n, d) for n, d in loaded if d.kind == column.kind), ("", None))
        if detector is None:
            continue
        why_not = unfit_alone(column.values, smallest_of(detector))
        ready = None if why_not else detector.prepare(column.values)
        found.append(Prepared(column, name, detector, ready, why_not))
    return found


def reference_digest(reference: Sequence[Column], prepared: Sequence[Prepared]) -> str:
    """Return the digest of what windows are compared with, and of how: 16 hexadecimal digits.

    A detector keeps nothing from one window to the next; all state that is carried over is the false-discovery
    control's, which is JSON. So verdicts with one digest came from one rule.
    """
    digest = hashlib.sha256()
    for one in prepared:
        kind = type(one.detector)
        told = (one.detector_name, kind.__module__, kind.__qualname__, one.detector.effect_bound)
        digest.update(f"{told};".encode())
    for column in reference:
        digest.update(f"{column.family} {column.name} {column.kind} {column.values.shape};".encode())
        digest.update(np.ascontiguousarray(column.values, dtype="<f8").tobytes())
    return digest.hexdigest()[:16]


def unfit_alone(values: Floats, smallest: int = SMALLEST_SAMPLE) -> str:
    """Return why a reference column cannot be compared with any window, or the empty text."""
    # Compared with itself moved by one, it cannot be "one and the same value" on both sides.
    return unfit(values, values + 1.0, smallest)


def judge(
    prepared: Sequence[Prepared],
    current: Mapping[tuple[str, str], Floats],
    streams: Mapping[str, OnlineFdr],
    bounds: Mapping[str, float],
) -> tuple[Judgement, dict[str, OnlineFdr]]:
    """Compare one window with its reference.

    Parameters
    ----------
    prepared : sequence of Prepared
    current : mapping
        (family, column name) to its values in the window; a missing column is insufficient.
    streams : mapping
        Family to the state of its false-discovery control over the windows before.
    bounds : mapping
        Detector name to the effect bound that the monitor asks for instead of the detector's own.

    Returns
    -------
    Judgement, dict
        The verdict, and the next state of each family's control.

    Notes
    -----
    A difference is drift when it has both keys. A column whose effect is below its bound enters the control with a
    p-value of 1, which is still a valid one; so the guarantee of `OnlineFdr` is for drift with both keys.
    """
    compared = [_compare(one, current, bounds) for one in prepared]
    findings: list[Finding] = []
    levels: dict[str, float] = {}
    following = dict(streams)
    at_fault: list[str] = []
    for family in FAMILIES:
        members = [one for one in compared if one.finding.family == family]
        tested = [one for one in members if one.finding.p_value is not None]
        counted = [_with_both_keys(one.finding) for one in tested]
        following[family], decided = streams[family].decide(counted)
        if tested:
            levels[family] = decided.level
        for one, rejected, adjusted in zip(tested, decided.rejected, decided.adjusted, strict=True):
            findings.append(_decided(one, bool(rejected), float(adjusted)))
        findings += [one.finding for one in members if one.finding.p_value is None]
        at_fault += [one.finding.name for one in members if one.window_fault]
    findings.sort(key=lambda f: (_ORDER[f.state], f.adjusted if f.adjusted is not None else 2.0, -(f.effect or 0.0)))
    outcome, why = _outcome(findings, at_fault)
    return Judgement(outcome=outcome, findings=tuple(findings), levels=levels, why=why), following


@dataclass(frozen=True, slots=True)
class _Compared:
    finding: Finding
    caution: str = ""
    window_fault: bool = False


def _compare(one: Prepared, current: Mapping[tuple[str, str], Floats], bounds: Mapping[str, float]) -> _Compared:
    column = one.column
    bound = float(bounds.get(one.detector_name, one.detector.effect_bound))
    base = Finding(
        name=column.name, family=column.family, detector=one.detector_name, state="insufficient", bound=bound
    )
    if one.why_not:
        return _Compared(replace(base, why=one.why_not))
    values = current.get((column.family, column.name))
    if values is None:
        return _Compared(replace(base, why="the window has no such column"), window_fault=True)
    if values.shape[1:] != column.values.shape[1:]:
        return _Compared(replace(base, why="the window's rows have another shape"), window_fault=True)
    problem = unfit(column.values, values, smallest_of(one.detector))
    if problem:
        constant = bool((column.values == column.values[0]).all())
        return _Compared(replace(base, why=problem), window_fault=not constant)
    result = one.detector.compare(one.ready, values)
    if not (np.isfinite(result.p_value) and np.isfinite(result.effect)):
        return _Compared(replace(base, why="the detector gave no finite answer"), window_fault=True)
    finding = replace(
        base,
        state="stable",
        p_value=min(max(result.p_value, 0.0), 1.0),
        effect=result.effect,
        note=dependence(values, tests=len(current)),
    )
    return _Compared(finding, caution=caution(column.values, values))


def _with_both_keys(finding: Finding) -> float:
    assert finding.p_value is not None  # only compared columns get here
    assert finding.effect is not None
    assert finding.bound is not None
    return finding.p_value if finding.effect >= finding.bound else 1.0


def _decided(one: _Compared, rejected: bool, adjusted: float) -> Finding:
    if rejected:
        return replace(one.finding, state="drift", adjusted=adjusted)
    if one.caution:
        return replace(one.finding, state="insufficient", adjusted=adjusted, why=one.caution)
    return replace(one.finding, adjusted=adjusted)


def _outcome(findings: Sequence[Finding], at_fault: Sequence[str]) -> tuple[Outcome, str]:
    if any(finding.state == "drift" for finding in findings):
        return Outcome.FAILED, ""
    if not any(finding.state == "stable" for finding in findings):
        return Outcome.INCONCLUSIVE, "no column could be judged"
    if at_fault:
        listed = ", ".join(at_fault[:5]) + (" and more" if len(at_fault) > 5 else "")
        return Outcome.INCONCLUSIVE, f"{len(at_fault)} columns of the window could not be judged: {listed}"
    return Outcome.PASSED, ""


def _joint(reference: Sequence[Column], detectors: Any) -> list[Column]:
    if not any(detector.kind == "joint" for detector in detectors):
        return []
    members = joint_members(reference)
    return [Column(ALL_NUMERIC, JOINT, "joint", np.column_stack([c.values for c in members]))] if members else []


def joint_members(reference: Sequence[Column]) -> list[Column]:
    """Return the numeric features that go into a joint comparison: those that vary and are finite."""
    return [
        column
        for column in reference
        if column.family == DATA and column.kind == "numeric" and not unfit_alone(column.values)
    ]
