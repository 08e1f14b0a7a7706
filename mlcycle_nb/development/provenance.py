"""What a run came from: cell, earlier cells, commit and changes, installed packages, data, seeds."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from mlcycle_nb.development.data_digest import data_digest
from mlcycle_nb.notebook.live import shell

ARTIFACT = "provenance.json"
DIFF_LIMIT = 1_048_576
"""Characters of uncommitted changes that are kept; the digest is always of all of them."""
_GIT_SECONDS = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where a run came from. Digests are ``sha256:<hex>``; an empty text says that there was nothing to record."""

    cell: str = ""  # verbatim
    cell_digest: str = ""
    cells_before: tuple[str, ...] = ()  # what ran before in this kernel, in order
    cells_before_digest: str = ""
    git_commit: str = ""
    git_diff: str = ""  # of tracked files, cut to DIFF_LIMIT
    git_diff_digest: str = ""
    git_untracked: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()  # name==version, sorted
    lock_digest: str = ""
    python: str = ""
    platform: str = ""
    data: Mapping[str, str] = field(default_factory=dict)
    seeds: Mapping[str, int] = field(default_factory=dict)

    @property
    def dirty(self) -> bool:
        """Whether files differed from the commit."""
        return bool(self.git_diff_digest or self.git_untracked)

    @property
    def digest(self) -> str:
        """Digest of all of it."""
        return text_digest(self.to_json())

    def to_json(self) -> str:
        """Return it as JSON with one possible spelling."""
        return json.dumps(asdict(self), sort_keys=True, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Provenance:
        """Read what `to_json` wrote."""
        tree = json.loads(text)
        for name in ("cells_before", "git_untracked", "packages"):
            tree[name] = tuple(tree[name])
        return cls(**tree)

    def tags(self) -> dict[str, str]:
        """Return the short facts as tags of a run; the whole is in its ``provenance.json``."""
        tags = {
            "mlcycle.provenance": self.digest,
            "mlcycle.cell_digest": self.cell_digest,
            "mlcycle.cells_before": str(len(self.cells_before)),
            "mlcycle.cells_before_digest": self.cells_before_digest,
            "mlcycle.git_commit": self.git_commit,
            "mlcycle.git_dirty": str(self.dirty).lower() if self.git_commit else "",
            "mlcycle.git_diff_digest": self.git_diff_digest,
            "mlcycle.lock_digest": self.lock_digest,
            **{f"mlcycle.data.{name}": digest for name, digest in self.data.items()},
            **{f"mlcycle.seed.{name}": str(seed) for name, seed in self.seeds.items()},
        }
        return {key: value for key, value in tags.items() if value}


def capture(
    *,
    cell: str | None = None,
    data: Mapping[str, Any] | None = None,
    seeds: Mapping[str, int] | None = None,
    folder: Path | None = None,
) -> Provenance:
    """Record where a run that starts now comes from.

    Parameters
    ----------
    cell : str, optional
        Verbatim cell; the one that runs now in IPython by default.
    data : mapping, optional
        Name -> value; see `data_digest`.
    seeds : mapping, optional
        Name -> seed; torch's initial seed is added when torch is loaded.
    folder : Path, optional
        Where to look for a git repository; the working directory by default.
    """
    current, before = session_cells()
    text = current if cell is None else cell
    commit, diff, untracked = _git(folder or Path.cwd())
    packages = _packages(tuple((part, _changed(part)) for part in sys.path))
    return Provenance(
        cell=text,
        cell_digest=text_digest(text),
        cells_before=before,
        cells_before_digest=text_digest(json.dumps(before)) if before else "",
        git_commit=commit,
        git_diff=diff[:DIFF_LIMIT],
        git_diff_digest=text_digest(diff),
        git_untracked=untracked,
        packages=packages,
        lock_digest=text_digest("\n".join(packages)),
        python=platform.python_version(),
        platform=platform.platform(),
        data={name: data_digest(value, name=name) for name, value in (data or {}).items()},
        seeds={**_torch_seed(), **{name: int(seed) for name, seed in (seeds or {}).items()}},
    )


def session_cells() -> tuple[str, tuple[str, ...]]:
    """Return the cell that runs now and those that ran before it in this kernel, verbatim; empty outside IPython."""
    running = shell()
    history = getattr(running, "history_manager", None)
    if history is None:
        return "", ()
    cells = list(history.input_hist_raw)[1:]  # IPython's first entry is always empty
    return (cells[-1], tuple(cells[:-1])) if cells else ("", ())


def text_digest(text: str) -> str:
    """Return ``sha256:<hex>`` of text; empty for empty text."""
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}" if text else ""


def _git(folder: Path) -> tuple[str, str, tuple[str, ...]]:
    commit = _run_git(folder, "rev-parse", "HEAD")
    if commit is None:
        return "", "", ()
    # A repository's own settings may name programs to run for a diff: none is run.
    diff = _run_git(folder, "diff", "HEAD", "--no-ext-diff", "--no-textconv", "--binary") or ""
    untracked = _run_git(folder, "ls-files", "--others", "--exclude-standard", "-z") or ""
    return commit.strip(), diff, tuple(sorted(name for name in untracked.split("\0") if name))


def _run_git(folder: Path, *arguments: str) -> str | None:
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"}
    command = ["git", "-C", str(folder), "-c", "core.fsmonitor=false", *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, env=environment, timeout=_GIT_SECONDS, check=False, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return None  # no git, or a repository too slow to ask: nothing is recorded rather than a part
    return done.stdout.decode(errors="replace") if done.returncode == 0 else None


def _changed(folder: str) -> int:
    try:
        return Path(folder or ".").stat().st_mtime_ns
    except OSError:
        return 0


@lru_cache(maxsize=1)
def _packages(_: tuple[tuple[str, int], ...]) -> tuple[str, ...]:
    """Return installed packages; read again when a folder of ``sys.path`` has changed, as by ``pip install``."""
    from importlib.metadata import distributions

    found: dict[str, str] = {}
    for distribution in distributions():
        name = distribution.metadata["Name"]
        if name:
            found.setdefault(name.lower().replace("_", "-"), distribution.version)
    return tuple(f"{name}=={version}" for name, version in sorted(found.items()))


def _torch_seed() -> dict[str, int]:
    torch = sys.modules.get("torch")
    return {} if torch is None else {"torch": int(torch.initial_seed())}
