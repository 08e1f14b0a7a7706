"""The folder of one training job: where each part lies, and what the workers are told."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mlcycle_nb.files import private_folder, write_atomically


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """Everything a worker needs besides the cell and its names."""

    job: str
    model: str
    processes: int
    epochs: int
    params: dict[str, Any]
    seed: int
    device: str  # auto, cpu or cuda
    threads: int  # of each process; part of what makes a resumed run equal to an unbroken one
    mixed_precision: str
    gradient_accumulation: int
    checkpoint_every_steps: int  # 0: by time
    checkpoint_every_seconds: float
    keep_last: int
    keep_best: int
    python: str
    cwd: str
    sys_path: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class JobFolder:
    """Names inside a job's folder."""

    path: Path

    def make(self) -> None:
        """Create the folder with its parts, private to this user."""
        for part in (self.path, self.events, self.output, self.errors, self.result, self.checkpoints, self.run):
            private_folder(part)

    @property
    def cell(self) -> Path:
        """The cell's source, as it will run."""
        return self.path / "cell.py"

    @property
    def provenance(self) -> Path:
        """Where the job comes from, as captured in the notebook."""
        return self.path / "provenance.json"

    @property
    def payload(self) -> Path:
        """Names carried from the notebook."""
        return private_folder(self.path / "payload")

    @property
    def events(self) -> Path:
        """One file of JSON lines a rank."""
        return self.path / "events"

    @property
    def output(self) -> Path:
        """What each rank printed."""
        return self.path / "output"

    @property
    def errors(self) -> Path:
        """One document for each failed rank of each attempt."""
        return self.path / "errors"

    @property
    def checkpoints(self) -> Path:
        """Committed checkpoints."""
        return self.path / "checkpoints"

    @property
    def result(self) -> Path:
        """The trained model and its reference rows, read only to package them."""
        return self.path / "result"

    @property
    def run(self) -> Path:
        """Rendezvous files and agreements of the running attempt."""
        return self.path / "run"

    @property
    def launcher_log(self) -> Path:
        """What torchrun itself wrote."""
        return self.output / "launcher.log"

    @property
    def stop_request(self) -> Path:
        """Present once a stop was asked for."""
        return self.run / "stop-requested"

    def events_of(self, rank: int) -> Path:
        """Return the event file of a rank."""
        return self.events / f"rank-{rank}.jsonl"

    def output_of(self, rank: int) -> Path:
        """Return the output file of a rank."""
        return self.output / f"rank-{rank}.log"

    def error_of(self, attempt: int, rank: int) -> Path:
        """Return the error document of a rank in an attempt."""
        return self.errors / f"attempt-{attempt}-rank-{rank}.json"

    def outcome_of(self, attempt: int) -> Path:
        """Return the document in which rank 0 says how an attempt ended."""
        return self.run / f"outcome-{attempt}.json"

    def write_spec(self, spec: JobSpec) -> None:
        """Store the specification."""
        write_atomically(self.path / "job.json", json.dumps(asdict(spec), indent=1))

    def read_spec(self) -> JobSpec:
        """Read the specification back."""
        return JobSpec(**json.loads((self.path / "job.json").read_text()))


def read_document(path: Path) -> dict[str, Any] | None:
    """Return a JSON document that was written atomically, or None while there is none."""
    try:
        return dict(json.loads(path.read_text()))
    except FileNotFoundError:
        return None
