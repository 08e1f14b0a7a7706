"""Environments: what is stored of them, and where their parts lie."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import ClassVar, Literal

from mlcycle_nb.store import Record

Phase = Literal["creating", "rebuilding", "ready", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Environment(Record):
    """A virtual environment that is built outside the kernel.

    Attributes
    ----------
    requirements : tuple of str
        What was asked for, one requirement each.
    wanted_lock : str
        The lock that it is built from; empty when it is resolved from `requirements`.
    inherit : bool
        Whether what the base interpreter has installed can be imported too.
    base : str
        The interpreter that it was made with.
    generation : int
        Number of the newest build; `ready_generation` is the one in use, 0 while there is none.
    lock : str
        What is installed, exactly; the text that `%environment create --from-lock` takes.
    missing : tuple of str
        Modules that training needs and the environment does not have.
    """

    KIND: ClassVar[str] = "environment"

    requirements: tuple[str, ...] = ()
    wanted_lock: str = ""
    inherit: bool = False
    find_links: tuple[str, ...] = ()
    no_index: bool = False
    base: str = ""
    generation: int = 1
    attempt: int = 0
    ready_generation: int = 0
    lock: str = ""
    lock_digest: str = ""
    python: str = ""  # version, such as 3.11.7
    missing: tuple[str, ...] = ()
    kernels_folder: str = ""
    kernel: str = ""  # name of the kernel spec; empty when it has none
    failure: str = ""
    ready_at: datetime | None = None

    @property
    def name(self) -> str:
        return self.id

    @property
    def active(self) -> bool:
        """Whether the supervisor has to build it."""
        return self.phase in {"creating", "rebuilding"}

    @property
    def lock_key(self) -> str | None:
        """One environment of a name."""
        return self.id

    @property
    def usable(self) -> bool:
        """Whether something can run in it now."""
        return self.ready_generation > 0

    def __repr__(self) -> str:
        packages = sum(1 for line in self.lock.splitlines() if line and not line.startswith("#"))
        built = f", {packages} packages of its own, lock {self.lock_digest[:19]}" if self.lock else ""
        kernel = f", kernel {self.kernel}" if self.kernel else ""
        failure = f" - {self.failure}" if self.failure else ""
        return f"environment {self.id}: {self.phase}{built}{kernel}{failure}"


@dataclass(frozen=True, slots=True)
class EnvironmentFolder:
    """Names inside the folder of one environment."""

    path: Path

    @property
    def current(self) -> Path:
        """A link to the build in use: its place stays when the environment is rebuilt."""
        return self.path / "current"

    @property
    def python(self) -> Path:
        """The interpreter in use."""
        return self.current / "bin" / "python"

    @property
    def log(self) -> Path:
        """What the builds printed."""
        return self.path / "build.log"

    def build(self, generation: int) -> Path:
        """Return the virtual environment of a build."""
        return self.path / str(generation)

    def request(self, generation: int) -> Path:
        """Return the document that a build is started with."""
        return self.path / f"request-{generation}.json"

    def progress(self, generation: int) -> Path:
        """Return the document in which a build says what it does now."""
        return self.path / f"progress-{generation}.json"

    def outcome(self, generation: int) -> Path:
        """Return the document in which a build says how it ended."""
        return self.path / f"outcome-{generation}.json"
