"""Replicas in an isolated environment: whether a package answers there, and who runs in it."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from mlcycle_nb.deployment.records import RETIREMENT_TAG, Revision
from mlcycle_nb.deployment.revisions import IDLE
from mlcycle_nb.development.records import RegisteredVersion, version_id
from mlcycle_nb.errors import Refused

if TYPE_CHECKING:
    from mlcycle_nb.context import Context

_IMPORT_SECONDS = 60.0


def interpreter(context: Context, runtime: str) -> str:
    """Return the Python that replicas run with: that of an environment, or this one for an empty name."""
    if not runtime:
        return sys.executable
    from mlcycle_nb.development.environments.controller import environment_folder

    return str(environment_folder(context, runtime).python)


def check_runtime(context: Context, runtime: str, digest: str) -> None:
    """Refuse an environment in which a package could not be served, before anything is moved.

    The package is loaded there, in a process of its own, and answers its golden batch; so is the replica's program.

    Raises
    ------
    NotFound
        When there is no such environment.
    Refused
        When it is not ready, misses what a replica needs, or gives other answers.
    """
    if not runtime:
        return
    from mlcycle_nb.development.environments.service import Environments
    from mlcycle_nb.packages import PackageStore
    from mlcycle_nb.packages.probe import probe
    from mlcycle_nb.packages.signing import public_key_hex
    from mlcycle_nb.store.keys import signing_key

    Environments(context, lambda name: users(context, name)).usable(runtime)
    python = interpreter(context, runtime)
    problem = _why_no_replica(python)
    if not problem:
        package = PackageStore(context.folder("packages")).open(digest)
        problem = probe(package, [public_key_hex(signing_key(context.workspace_id))], python=python)
    if problem:
        raise Refused(
            f"replicas cannot run in environment {runtime}: {problem}; nothing was moved",
            remedy="create it with --inherit, or with what is missing among its packages",
        )


def users(context: Context, name: str) -> list[str]:
    """Return the versions whose replicas run in an environment, or would when they are brought back."""
    found = [revision for revision in context.store.find(Revision) if revision.runtime == name]
    found = [one for one in found if one.phase not in IDLE or _may_return(context, one)]
    return [f"replicas of {one.model}/{one.model_version} in {one.environment} ({one.phase})" for one in found]


def _may_return(context: Context, revision: Revision) -> bool:
    version = context.store.maybe(RegisteredVersion, version_id(revision.model, revision.model_version))
    return version is not None and not version.tags.get(RETIREMENT_TAG)


def _why_no_replica(python: str) -> str:
    argv = [python, "-c", "import mlcycle_nb.serving.replica"]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_IMPORT_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as failure:
        return str(failure)
    words = done.stderr.strip().splitlines()
    return "" if done.returncode == 0 else (words[-1] if words else f"exit code {done.returncode}")
