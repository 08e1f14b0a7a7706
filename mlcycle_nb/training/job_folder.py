"""The folder of one training job: where each part lies, and what the workers are told."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mlcycle_nb.files import private_folder, write_atomically
from mlcycle_nb.training.trouble import DEFAULT_POLICIES


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
    cell_number: int | None = None  # In [n], where the cell ran in IPython
    script_kind: str = ""  # empty: a cell; script or module
    script: str = ""  # as it was given
    script_path: str = ""
    script_args: list[str] = field(default_factory=list)
    nodes: int = 1  # hosts, with `processes` in all
    rendezvous: str = ""  # HOST:PORT, when there are several
    join_seconds: float = 600.0
    rehearsal: str = ""  # of a dry run: pid and start of the process that waits for it
    grace_seconds: float = 30.0
    on_trouble: dict[str, str] = field(default_factory=lambda: dict(DEFAULT_POLICIES))
    trial: bool = False  # of a search, which may end it early


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
        """The source of the cell or script, as it will run."""
        return self.path / "cell.py"

    @property
    def inputs(self) -> Path:
        """Digests of the cell and of what was carried, as they were submitted."""
        return self.path / "inputs.json"

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
    def launcher_files(self) -> Path:
        """Where torchrun makes a folder for each attempt; left to itself it leaves one in the system's ``/tmp``."""
        return self.run / "torchrun"

    @property
    def stop_request(self) -> Path:
        """Present once a stop was asked for."""
        return self.run / "stop-requested"

    @property
    def prune_request(self) -> Path:
        """Present once the search has decided that this trial ends early."""
        return self.run / "prune-requested"

    def events_of(self, rank: int) -> Path:
        """Return the event file of a rank."""
        return self.events / f"rank-{rank}.jsonl"

    def output_of(self, rank: int) -> Path:
        """Return the output file of a rank."""
        return self.output / f"rank-{rank}.log"

    def error_of(self, attempt: int, rank: int) -> Path:
        """Return the error document of a rank in an attempt."""
        return self.errors / f"attempt-{attempt}-rank-{rank}.json"

    def told_of(self, attempt: int) -> Path:
        """Return the document that says what told an attempt to end, and which rank."""
        return self.run / f"told-{attempt}"

    def stacks_of(self, attempt: int, rank: int) -> Path:
        """Return where a rank writes its Python stacks at SIGUSR2."""
        return self.run / f"stacks-{rank}-{attempt}"

    @property
    def skips(self) -> Path:
        """Epoch, first and last batch of what is passed over after roll-backs."""
        return self.path / "skips.json"

    def outcome_of(self, attempt: int) -> Path:
        """Return the document in which rank 0 says how an attempt ended."""
        return self.run / f"outcome-{attempt}.json"

    def ended_of(self, attempt: int, rank: int) -> Path:
        """Return the mark of a script's rank that came to its end."""
        return self.run / f"ended-{rank}-{attempt}"

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
