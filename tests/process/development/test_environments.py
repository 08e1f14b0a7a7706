"""Environments, really built: two versions of one package, training in each, locks, kills, refusals."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.kernelspec import KernelSpecManager

from mlcycle_nb.development.environments.records import Environment
from mlcycle_nb.development.environments.service import Environments
from mlcycle_nb.errors import Conflict, EngineError, InvalidInput, InvalidName, NotFound, Refused
from mlcycle_nb.supervisor.start import find_supervisor
from mlcycle_nb.workspace import Workspace

sys.path.insert(0, str(Path(__file__).parent))

from wheels import make_wheel

pytestmark = pytest.mark.timeout(400)

CELL = "import tiny_thing\nprint('saw', tiny_thing.VERSION)\nlog(version=float(tiny_thing.VERSION))\n"


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Options that take packages from two local wheels alone."""
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "jupyter"))
    monkeypatch.setenv("UV_NO_CACHE", "1")
    for version in ("1.0", "2.0"):
        make_wheel(tmp_path / "wheels", version)
    return {"find_links": [str(tmp_path / "wheels")], "no_index": True}


@pytest.fixture
def environments(offline: dict[str, Any], workspace: Workspace) -> Environments:
    """The environments of the test's workspace."""
    return workspace.development.environments


def test_two_versions_train_side_by_side_and_one_is_rebuilt_and_reproduced(
    environments: Environments, workspace: Workspace, offline: dict[str, Any], tmp_path: Path
) -> None:
    """What a run saw, its lock, its kernel; a rebuild with the same digest; who may not be deleted."""
    seen = {}
    for version in ("1.0", "2.0"):
        name = f"tiny-{version[0]}"
        environments.create(name, [f"tiny-thing=={version}"], inherit=True, **offline).result()
        job = workspace.training.train_model("tiny", CELL, {}, environment=name).result()
        assert workspace.training.logs(job.id).strip() == f"saw {version}"
        seen[name] = job
        origin = workspace.development.provenance(str(job.run_id))
        assert origin.environment == name
        assert origin.environment_lock == str(environments.lock(name))
        assert f"tiny-thing=={version}" in origin.packages
    first = environments.get("tiny-1")
    specs = KernelSpecManager().get_all_specs()
    assert specs[first.kernel]["spec"]["argv"][0] == str(environments.python("tiny-1"))

    rebuilt = environments.rebuild("tiny-1").result()
    assert (rebuilt.lock_digest, rebuilt.ready_generation) == (first.lock_digest, 2)
    assert environments.changes("tiny-1") == []
    (environments.folder("tiny-1").build(2) / "lib").rename(tmp_path / "lib")  # somebody breaks it
    assert "tiny-thing 1.0 -> absent" in environments.changes("tiny-1")
    finding = next(found for found in workspace.doctor().findings if found.what == "environment tiny-1")
    assert (finding.outcome, finding.remedy) == ("failed", "%environment rebuild tiny-1")
    assert environments.rebuild("tiny-1").result().lock_digest == first.lock_digest

    report = workspace.training.reproduce(seen["tiny-1"].id).wait()
    assert report.verdict == "reproduced", report
    assert workspace.development.run(str(report.run)).tags["mlcycle.environment"] == "tiny-1"
    assert workspace.training.logs(report.job).strip() == "saw 1.0"

    with pytest.raises(Refused, match=rf"referred to by run tiny-\d+ \({str(report.run)[:8]}\), run tiny-1"):
        environments.delete("tiny-1")
    assert environments.get("tiny-1").phase == "ready"


def test_isolated_locked_and_deleted(
    environments: Environments, workspace: Workspace, offline: dict[str, Any], tmp_path: Path
) -> None:
    """Without --inherit nothing else can be imported, so that training is refused by name before a job is made."""
    environments.create("alone", ["tiny-thing<2"], **offline).result()
    lock = environments.lock("alone")
    assert [pin.requirement for pin in lock.own] == ["tiny-thing==1.0"]
    assert lock.inherited == ()
    with pytest.raises(Refused, match=r"torch, accelerate, .* cannot be imported there - create it with --inherit"):
        workspace.training.train_model("tiny", CELL, {}, environment="alone")
    assert workspace.training.jobs() == []

    written = tmp_path / "alone.lock"
    written.write_text(str(lock))
    copy = environments.create("copy", from_lock=written, **offline).result()
    assert copy.lock_digest == environments.get("alone").lock_digest
    make_wheel(tmp_path / "wheels", "1.0", needs="other")  # other files under the same version
    with pytest.raises(EngineError, match=r"differs from the lock: tiny-thing 1\.0: other files"):
        environments.create("changed", from_lock=written, **offline).result()
    assert environments.rebuild("copy").wait().failure.startswith("the rebuild failed, and what was there is kept")
    assert environments.usable("copy").lock_digest == copy.lock_digest

    environments.delete("copy")
    assert not environments.folder("copy").path.exists()
    with pytest.raises(NotFound):
        environments.get("copy")


def test_a_killed_build_is_built_again_and_never_called_ready_before(
    environments: Environments, workspace: Workspace, offline: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """kill -9 of the builder, three times, and then of the supervisor too."""
    handle = environments.create("killed", ["tiny-thing==1.0"], **offline)
    attempts = set()
    while handle.record.active and len(attempts) < 2:
        record = handle.record
        process = workspace.context.processes.get(f"environment-killed-1-{record.attempt}")
        if record.attempt not in attempts and process is not None:
            os.kill(process.pid, signal.SIGKILL)
            attempts.add(record.attempt)
        assert not handle.record.usable or handle.record.phase == "ready"
    assert handle.result().phase == "ready"
    assert attempts

    again = environments.rebuild("killed")
    leader = find_supervisor(workspace.home)
    assert leader is not None
    os.kill(leader.pid, signal.SIGKILL)
    assert again.result().ready_generation == 2
    deadline = time.monotonic() + 60  # the build before is swept once the new one is in use
    place = environments.folder("killed").path
    while (left := sorted(path.name for path in place.iterdir() if path.is_dir())) != ["2", "current"]:
        assert time.monotonic() < deadline, left
        time.sleep(0.02)


def test_what_cannot_be_resolved_fails_with_the_installers_words(
    environments: Environments, offline: dict[str, Any]
) -> None:
    with pytest.raises(EngineError, match="tiny-thing==9"):
        environments.create("none", ["tiny-thing==9"], **offline).result()
    failed = environments.get("none")
    assert (failed.phase, failed.usable, failed.kernel) == ("failed", False, "")
    with pytest.raises(Refused, match="environment none is failed"):
        environments.usable("none")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"name": "Tiny"}, InvalidName, "LATIN CAPITAL LETTER T"),
        ({"name": "../x", "packages": ["a"]}, InvalidName, "FULL STOP"),
        ({"name": ""}, InvalidName, "is empty"),
        ({}, InvalidInput, "nothing says what the environment holds"),
        ({"packages": ["a==1", "A==2"]}, InvalidInput, "a is asked for in two versions, 1 and 2"),
        ({"packages": ["a=1"]}, InvalidInput, "not a requirement"),
        ({"packages": ["--index-url=http://evil"]}, InvalidInput, "an option is not a requirement"),
        ({"packages": ["./missing.whl"]}, InvalidInput, "no such wheel"),
        ({"packages": ["a"], "requirements": "r.txt"}, InvalidInput, "only one of them"),
        ({"requirements": "missing.txt"}, InvalidInput, "no such requirements file"),
        ({"from_lock": "missing.lock"}, InvalidInput, "no such lock file"),
        ({"packages": ["a"], "find_links": ["missing"]}, InvalidInput, "no such folder of packages"),
    ],
)
def test_refused_before_anything_is_stored(
    workspace: Workspace, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        workspace.development.environments.create(**{"name": "tiny", **options})

    assert workspace.store.find(Environment) == []
    assert not (workspace.home / "environments").exists() or not list((workspace.home / "environments").iterdir())


def test_files_that_are_wrong_name_the_line(workspace: Workspace, tmp_path: Path) -> None:
    environments, file = workspace.development.environments, tmp_path / "file.txt"
    file.write_text("# fine\nnumpy>=2\n-r other.txt\n")
    with pytest.raises(InvalidInput, match=r"an option .* file\.txt line 3"):
        environments.create("tiny", requirements=file)
    file.write_text("numpy>=2\n")
    with pytest.raises(InvalidInput, match=r"pins each package to one version .* file\.txt line 1"):
        environments.create("tiny", from_lock=file)
    file.write_text("# mlcycle environment lock 1\n# python 2.7.18\na==1\n")
    with pytest.raises(InvalidInput, match=r"the lock is of Python 2\.7\.18"):
        environments.create("tiny", from_lock=file)


def test_unknown_names(workspace: Workspace) -> None:
    for verb in ("get", "lock", "rebuild", "delete", "attach", "log"):
        with pytest.raises(NotFound, match="there is none yet"):
            getattr(workspace.development.environments, verb)("tiny")
    with pytest.raises(NotFound, match="no such environment"):
        workspace.training.train_model("tiny", CELL, {}, environment="tiny")


def test_a_name_is_taken_once(environments: Environments, offline: dict[str, Any]) -> None:
    environments.create("tiny", inherit=True, **offline)
    with pytest.raises(Conflict, match="an environment tiny already"):
        environments.create("tiny", inherit=True, **offline)
    environments.delete("tiny")  # while it is built
