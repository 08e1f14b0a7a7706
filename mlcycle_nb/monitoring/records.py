"""The nouns of monitoring: monitors, alerts, silences, notifications and the numbers they speak of."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, TypeVar

from mlcycle_nb.development.records import version_subject
from mlcycle_nb.store import Record
from mlcycle_nb.store.record import format_time, structured

T = TypeVar("T")

DATA_DRIFT = "data_drift"
PREDICTION_DRIFT = "prediction_drift"
JOINT_DRIFT = "joint_drift"
MODEL_DRIFT = "model_drift"
NO_DATA = "no_data"
ALERT_KINDS = (DATA_DRIFT, PREDICTION_DRIFT, JOINT_DRIFT, MODEL_DRIFT, NO_DATA)

GROUPS = ("kind", "service")

PENDING, FIRING, ACKNOWLEDGED, RESOLVED = "pending", "firing", "acknowledged", "resolved"
OPEN_PHASES = (PENDING, FIRING, ACKNOWLEDGED)


def monitor_id(environment: str, model: str) -> str:
    """Return the id of a service's monitor, such as ``production/digits``."""
    return f"{environment}/{model}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Monitor(Record):
    """What is watched, and how: one for each service.

    Attributes
    ----------
    phase : {"running", "stopping", "stopped"}
    window : int
        Served rows in a window; each full window gets one verdict.
    detectors : tuple of str
        Names of detector plug-ins; the first that takes a column's kind judges it.
    q : float
        Bound on the share of false alarms among all alarms of one kind and version, over the monitor's whole life.
    effect_bounds : dict
        Detector name to the effect below which a difference is not drift; the detector's own bound by default.
    confirm_windows, clear_windows : int
        Drifted windows in a row before an alert fires, and clear ones in a row before it is resolved.
    repeat_seconds, group_seconds : float
        A firing alert is told again after the first; two messages about one kind keep the second apart.
    stale_seconds : float
        Silence of the prediction log after which it is asked whether there is no traffic or no data.
    generation : int
        Grows when the monitor is started again in another way; streams of an earlier generation are left alone.
    digests : dict
        Package digest of each version known at the start.
    group_by : {"kind", "service"}
        Which alerts share messages: those of one kind, or all of the service.
    on_alert : dict
        Kind of alert to the actions that are taken, once each, when one fires.
    """

    KIND: ClassVar[str] = "monitor"

    environment: str
    model: str
    window: int
    detectors: tuple[str, ...]
    channels: tuple[str, ...]
    q: float = 0.05
    effect_bounds: dict[str, float] = field(default_factory=dict)
    categorical: tuple[str, ...] = ()
    confirm_windows: int = 1
    clear_windows: int = 2
    repeat_seconds: float = 14_400.0
    group_seconds: float = 300.0
    stale_seconds: float = 60.0
    generation: int = 1
    digests: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    group_by: str = "kind"
    on_alert: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.model

    @property
    def active(self) -> bool:
        return self.phase in {"running", "stopping"}

    @property
    def refers_to(self) -> tuple[str, ...]:
        return tuple(version_subject(self.model, int(number)) for number in self.digests) if self.active else ()

    @property
    def owner(self) -> str:
        """Owner of its measurements in the store."""
        return f"monitor:{self.id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert(Record):
    """One incident: all trouble of one kind with one service until it is over.

    Attributes
    ----------
    phase : {"pending", "firing", "acknowledged", "resolved"}
    subjects : tuple of str
        What is affected, such as the names of drifted features; only grows while the alert is open.
    versions : tuple of int
        Model versions that it was seen on.
    notifications : int
        Messages made so far; each one's key is the alert's id and its number.
    told_resolved : bool
        Whether the end needs no message any more.
    flaps : int
        How often it ended and fired again before anybody was told of the end.
    closed_by : str
        Who said that it is over; empty when the windows did.
    """

    KIND: ClassVar[str] = "alert"

    monitor: str
    kind: str
    subjects: tuple[str, ...]
    versions: tuple[int, ...]
    summary: str
    fired_at: datetime | None = None
    acknowledged_at: datetime | None = None
    acknowledged_by: str = ""
    resolved_at: datetime | None = None
    notified_at: datetime | None = None
    notifications: int = 0
    told_resolved: bool = False
    flaps: int = 0
    closed_by: str = ""

    @property
    def name(self) -> str:
        return self.monitor

    @property
    def open(self) -> bool:
        """Whether the trouble is not over."""
        return self.phase in OPEN_PHASES

    @property
    def active(self) -> bool:
        ended_untold = self.phase == RESOLVED and self.fired_at is not None and not self.told_resolved
        return self.phase in {FIRING, ACKNOWLEDGED} or ended_untold

    @property
    def lock_key(self) -> str | None:
        return f"{self.monitor}/{self.kind}" if self.open else None

    @property
    def refers_to(self) -> tuple[str, ...]:
        model = self.monitor.rpartition("/")[2]
        return tuple(version_subject(model, number) for number in self.versions) if self.open else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Silence(Record):
    """Keeps the alerts of a monitor from being told until a time; they go on being recorded."""

    KIND: ClassVar[str] = "silence"

    monitor: str
    kind: str  # empty: every kind
    until: datetime
    reason: str
    created_by: str

    @property
    def name(self) -> str:
        return self.monitor

    @property
    def active(self) -> bool:
        return self.phase == "active"

    def covers(self, alert: Alert, now: datetime) -> bool:
        """Return whether `alert` is to stay untold at `now`."""
        in_force = self.phase == "active" and now < self.until
        return in_force and self.monitor == alert.monitor and self.kind in {"", alert.kind}


@dataclass(frozen=True, slots=True, kw_only=True)
class Notification(Record):
    """One message for one channel: the durable outbox. Its id is the key that every resend carries.

    Attributes
    ----------
    phase : {"queued", "delivered", "dead"}
        ``dead`` was given up: the channel said that trying again is useless, or a day went by.
    """

    KIND: ClassVar[str] = "notification"

    alert: str
    monitor: str
    channel: str
    message: dict[str, str | int | float | bool | None]
    receiver: str = ""  # which one, of a channel that has several
    delivered_at: datetime | None = None
    detail: str = ""

    @property
    def name(self) -> str:
        return self.monitor

    @property
    def active(self) -> bool:
        return self.phase == "queued"


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitoringMetric:
    """One number of one version in one interval of time."""

    time: datetime
    version: int
    metric: str
    value: float
    unit: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one window says about one column.

    Attributes
    ----------
    family : {"data", "prediction", "joint"}
    state : {"drift", "stable", "insufficient"}
    p_value, adjusted : float, optional
        Chance of such a difference without drift; the same after control of the false-discovery rate.
    effect, bound : float, optional
        How large the difference is, and how large it must be to count.
    why : str
        Reason when insufficient.
    note : str
        What makes the p-value smaller than it ought to be: rows that depend on one another.
    """

    name: str
    family: str
    detector: str
    state: str
    p_value: float | None = None
    adjusted: float | None = None
    effect: float | None = None
    bound: float | None = None
    why: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """The distribution of one column, in the reference and in the window: shares in the same bins."""

    name: str
    bins: tuple[str, ...]
    reference: tuple[float, ...]
    current: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimated:
    """Accuracy in one window without any label of it; nothing but the reason when the confidence is not calibrated."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowVerdict:
    """The verdict on one full window of one version.

    Attributes
    ----------
    outcome : {"passed", "failed", "inconclusive"}
        ``failed`` is drift; ``inconclusive`` when a column could not be judged although its reference could.
    judged, columns : int
        Columns that were compared, and all of them.
    findings : tuple of Finding
        Drifted and insufficient ones first; cut to the first 256.
    levels : dict
        Level at which each family was tested in this window.
    reference : str
        Digest of the reference columns that it was compared with, and of how; equal digests are comparable verdicts.
    estimated : Estimated, optional
        How often the model was right in this window, as far as its own confidence tells; None when it has none.
    """

    time: datetime
    generation: int
    version: int
    index: int
    outcome: str
    rows: int
    first_time: str
    last_time: str
    judged: int
    columns: int
    findings: tuple[Finding, ...]
    shares: tuple[Shares, ...]
    levels: dict[str, float]
    latency_p50_ms: float | None = None
    latency_p95_ms: float | None = None
    why: str = ""
    reference: str = ""
    estimated: Estimated | None = None

    def drifted(self, family: str = "") -> tuple[Finding, ...]:
        """Return the drifted findings of a family, or of all."""
        return tuple(f for f in self.findings if f.state == "drift" and family in {"", f.family})


@dataclass(frozen=True, slots=True, kw_only=True)
class Performance:
    """How often a version was right, as far as late labels tell.

    Attributes
    ----------
    metric : {"accuracy", "mean_absolute_error"}
    coverage : float
        Share of the served rows whose label has come.
    lag_seconds : float
        Median time from prediction to label.
    baseline : float, optional
        The same metric on the package's reference window.
    unknown : int
        Labels of the service, of whichever version, whose prediction is not in the log.
    """

    time: datetime
    version: int
    metric: str
    value: float | None
    low: float | None
    high: float | None
    labelled: int
    served: int
    coverage: float
    lag_seconds: float | None
    baseline: float | None
    outcome: str
    why: str = ""
    unknown: int = 0


def read_row(kind: type[T], row: dict[str, Any]) -> T:
    """Return a stored measurement as one of the dataclasses above."""
    tree = {key: value for key, value in row.items() if key != "kind"}
    return structured({**tree, "time": format_time(row["time"])}, kind)
