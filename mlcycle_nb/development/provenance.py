"""What a run came from: cell, earlier cells, commit and changes, installed packages, data, seeds; and whether the
notebook as it stands would give it again."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from mlcycle_nb.development.data_digest import NoDigest, data_digest
from mlcycle_nb.development.lineage import local_code
from mlcycle_nb.development.lineage.cell_log import CellLog, Execution, log_of
from mlcycle_nb.development.lineage.document import Document, read_document
from mlcycle_nb.development.lineage.effects import imported_modules
from mlcycle_nb.development.lineage.verdict import why_not
from mlcycle_nb.notebook.live import shell

ARTIFACT = "provenance.json"
CELLS_AFTER = "cells_after.json"
DIFF_LIMIT = 1_048_576
"""Characters of uncommitted changes that are kept; the digest is always of all of them."""
REPRODUCIBLE_TAG = "mlcycle.reproducible"
REASONS_TAG = "mlcycle.not_reproducible"
_GIT_SECONDS = 20.0
_TAG_LIMIT = 4900


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
    cells_failed: tuple[int, ...] = ()  # places in `cells_before` of those that raised
    run_of_cell: int = 0  # how many runs this cell had started before
    code: Mapping[str, str] = field(default_factory=dict)  # modules of one's own: file -> digest
    cwd: str = ""
    sys_path: tuple[str, ...] = ()
    environment: str = ""  # name of the isolated environment that it ran in
    environment_lock: str = ""  # the lock's text, enough to make the environment again
    not_reproducible: tuple[str, ...] = ()  # why the notebook would not give it again; empty when it would

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
        for name, value in tree.items():
            if isinstance(value, list):
                tree[name] = tuple(value)
        return cls(**tree)

    def reproducible_tags(self) -> dict[str, str]:
        """Return the tags that say whether the notebook would give the run again, and if not, why."""
        tags = {REPRODUCIBLE_TAG: "false" if self.not_reproducible else "true"}
        if self.not_reproducible:
            tags[REASONS_TAG] = "\n".join(self.not_reproducible)[:_TAG_LIMIT]
        return tags

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
            "mlcycle.environment": self.environment,
            **self.reproducible_tags(),
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
    needs: Iterable[str] = (),
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
    needs : iterable of str
        Names of the notebook that the run uses besides those in the cell's text.
    """
    log = log_of(shell())
    executions = [] if log is None else log.executions()
    current, before = _sources(executions)
    text = current if cell is None else cell
    top, commit, diff, untracked = _git(folder or Path.cwd())
    packages = installed_packages()
    digests, undigested = _data_digests(data or {})
    code = local_code.local_modules({name for e in executions for name in imported_modules(e.code)})
    reasons = (
        undigested if log is None else [*_cell_reasons(log, read_document(shell()), executions, needs), *undigested]
    )
    reasons += local_code.unrecorded(code, Path(top), commit, untracked)
    if len(diff) > DIFF_LIMIT:
        reasons.append(
            f"the uncommitted changes have {len(diff):,} characters, and {DIFF_LIMIT:,} are kept: commit them"
        )
    ordinal = 0 if log is None else log.runs_started
    if log is not None:
        log.runs_started += 1
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
        data=digests,
        seeds={**_torch_seed(), **{name: int(seed) for name, seed in (seeds or {}).items()}},
        cells_failed=tuple(place for place, e in enumerate(executions[:-1]) if e.failed),
        run_of_cell=ordinal,
        code=code,
        cwd=os.getcwd(),
        sys_path=tuple(path or os.getcwd() for path in sys.path),
        not_reproducible=tuple(dict.fromkeys(reasons)),
    )


def _cell_reasons(
    log: CellLog, document: Document | None, executions: list[Execution], needs: Iterable[str]
) -> list[str]:
    return why_not(executions, needs=needs, deleted=log.deleted, document=document, to_python=log.to_python)


def _data_digests(data: Mapping[str, Any]) -> tuple[dict[str, str], list[str]]:
    """Return the digests of what has one, and why the others cannot be recognised again."""
    digests, reasons = {}, []
    for name, value in data.items():
        try:
            digests[name] = data_digest(value, name=name)
        except NoDigest as refused:
            digests[name] = ""
            reasons.append(f"the data it used cannot be recognised again: {refused.problem}")
    return digests, reasons


def later_cells(origin: Provenance) -> tuple[list[str], tuple[str, ...]]:
    """Return the cells that ran after the one in which `origin` was captured, and what is not reproducible by now."""
    log = log_of(shell())
    if log is None:
        return [], ()
    executions = log.executions()
    cells = [execution.source for execution in executions]
    begun = len(origin.cells_before)
    if cells[: begun + 1] != [*origin.cells_before, origin.cell]:
        return [], ()  # another kernel, or none
    after = cells[begun + 1 :]
    if not after:
        return [], ()
    document = read_document(shell())
    ends = range(begun + 2, len(executions) + 1)
    reasons = [reason for end in ends for reason in _cell_reasons(log, document, executions[:end], ())]
    return after, tuple(dict.fromkeys((*origin.not_reproducible, *reasons)))


def session_cells() -> tuple[str, tuple[str, ...]]:
    """Return the cell that runs now and those that ran before it in this kernel, verbatim; empty outside IPython."""
    log = log_of(shell())
    return _sources([] if log is None else log.executions())


def _sources(executions: list[Execution]) -> tuple[str, tuple[str, ...]]:
    cells = [execution.source for execution in executions]
    return (cells[-1], tuple(cells[:-1])) if cells else ("", ())


def text_digest(text: str) -> str:
    """Return ``sha256:<hex>`` of text; empty for empty text."""
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}" if text else ""


def _git(folder: Path) -> tuple[str, str, str, tuple[str, ...]]:
    commit = _run_git(folder, "rev-parse", "HEAD")
    if commit is None:
        return "", "", "", ()
    top = (_run_git(folder, "rev-parse", "--show-toplevel") or "").strip()
    # A repository's own settings may name programs to run for a diff: none is run.
    diff = _run_git(folder, "diff", "HEAD", "--no-ext-diff", "--no-textconv", "--binary") or ""
    untracked = _run_git(folder, "ls-files", "--others", "--exclude-standard", "-z") or ""
    return top, commit.strip(), diff, tuple(sorted(name for name in untracked.split("\0") if name))


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


def installed_packages() -> tuple[str, ...]:
    """Return ``name==version`` of all packages that this process could import, sorted."""
    return _packages(tuple((part, _changed(part)) for part in sys.path))


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
