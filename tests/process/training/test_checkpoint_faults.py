"""Every system call of a save, of pruning and of a resume fails or is the last: what was good stays good."""

from __future__ import annotations

import errno
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

import checkpoint_probe
from checkpoint_probe import KEEP, save, tensors_of

from mlcycle_nb.training.checkpoints import CheckpointStore, KeepPolicy

pytestmark = pytest.mark.timeout(120)

Probe = Callable[..., dict[str, Any]]
Call = tuple[str, int, str]  # name, its number among the calls of that name from 1, arguments
_CHANGING = {"write", "writev", "pwrite64", "fsync", "fdatasync", "ftruncate", "rename", "renameat", "renameat2"}
_CHANGING |= {"mkdir", "mkdirat", "unlink", "unlinkat", "rmdir", "link", "linkat", "openat", "close", "chmod", "fchmod"}
FAULTS = ("signal=KILL", "error=ENOSPC", "error=EIO")
SAMPLE = 10


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Probe]:
    """Ask for one probe; skipped, with the reason, where nothing may be traced."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed: apt-get install strace")
    folder = tmp_path_factory.mktemp("probe")
    argv = [sys.executable, checkpoint_probe.__file__, str(folder / "warm")]
    host = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder)
    assert host.stdin is not None
    assert host.stdout is not None
    source, sink = host.stdout, host.stdin

    def ask(**request: Any) -> dict[str, Any]:
        sink.write(json.dumps({"trace": str(folder / "trace"), **request}) + "\n")
        sink.flush()
        answer: dict[str, Any] = json.loads(source.readline())
        if "refused" in answer:
            pytest.skip(f"tracing is not permitted here: {answer['refused']}")
        return answer

    yield ask
    sink.close()
    assert host.wait(30) == 0
    source.close()


@pytest.fixture
def fresh(tmp_path: Path) -> Callable[[], Path]:
    """Return, again and again, a folder with steps 1 (the best), 2 and 3, and what two crashes have left."""
    template = tmp_path / "template"
    for step, metric in ((1, 0.1), (2, 0.5), (3, None)):
        save(template, step, metric, KeepPolicy(last=2, best=1))
    newest = template / "step-0000000003.000"
    shutil.copytree(newest, template / ".staging-0000000004-1-1")
    shutil.copytree(newest, template / ".trash-step-0000000001.000-1")
    numbers = itertools.count()

    def make() -> Path:
        return Path(shutil.copytree(template, tmp_path / f"copy-{next(numbers)}"))

    return make


def numbered(answer: dict[str, Any]) -> list[Call]:
    """Return the calls of an undisturbed run, each with its number among those of its name."""
    counts: Counter[str] = Counter()
    found = []
    for name, arguments, _ in answer["calls"]:
        counts[name] += 1
        found.append((name, counts[name], arguments))
    return found


def on_a_file(call: Call) -> bool:
    """Whether a call is about a file: memory is also asked for by mmap."""
    return call[0] != "mmap" or ", -1, 0" not in call[2]


def inject(probe: Probe, call: Call, fault: str, **request: Any) -> dict[str, Any]:
    """Disturb one call and make sure that it was this one."""
    name, number, _ = call
    answer = probe(inject=f"{name}:{fault}:when={number}", **request)
    assert answer["killed"] if "KILL" in fault else any(tampered for *_, tampered in answer["calls"])
    return answer


def assert_save_held(folder: Path, answer: dict[str, Any], fault: str) -> None:
    """After a disturbed save of step 4 a sound checkpoint is there, nothing was claimed, and saving goes on."""
    told = answer["told"]
    store = CheckpointStore(folder, KEEP)
    newest = store.newest_verified().newest
    assert newest is not None
    assert newest.step >= (4 if told and told["done"] else 3)
    assert torch.equal(store.load(newest)[0]["model.w"], tensors_of(newest.step)["model.w"])
    assert 1 in [record.step for record in store.records()], "the best is gone"
    if told and not told["done"]:
        named = told["errno"] == getattr(errno, fault.partition("=")[2])
        assert named or told["type"] in {"IntegrityError", "Unreadable"}, told
    save(folder, 5)
    save(folder, 6)
    assert sorted(path.name for path in folder.iterdir()) == [f"step-000000000{step}.000" for step in (1, 6)]
    assert resumed(folder) == 6


def resumed(folder: Path) -> int:
    """Return the step that a resume goes on from, its content checked."""
    found = checkpoint_probe.resume(folder)
    assert found["sound"]
    return int(found["step"])


def sweep_save(probe: Probe, fresh: Callable[[], Path], sample: int | None) -> int:
    """Disturb each call of a save, or some; return how many were."""
    undisturbed = probe(op="save", step=4, folder=str(fresh()))
    assert undisturbed["told"] == {"done": True}
    points = [
        (call, fault)
        for call in numbered(undisturbed)
        for fault in FAULTS
        if on_a_file(call) and (call[0] in _CHANGING or fault != "error=ENOSPC")
    ]
    assert {"mkdir", "write", "fsync", "rename", "unlinkat", "openat"} <= {call[0] for call, _ in points}
    chosen = points if sample is None else random.Random(3).sample(points, sample)
    for call, fault in chosen:
        folder = fresh()
        answer = inject(probe, call, fault, op="save", step=4, folder=str(folder))
        try:
            assert_save_held(folder, answer, fault)
        except AssertionError as failure:
            raise AssertionError(f"{fault} at {call}: {answer['told']}") from failure
        shutil.rmtree(folder)
    return len(chosen)


def sweep_resume(probe: Probe, fresh: Callable[[], Path], sample: int | None) -> int:
    """Disturb each call of a resume, or some; return how many were."""
    undisturbed = probe(op="resume", folder=str(fresh()))
    assert undisturbed["told"]["step"] == 3
    points = [(call, fault) for call in numbered(undisturbed) for fault in FAULTS[::2] if on_a_file(call)]
    assert {"openat", "read", "getdents64"} <= {call[0] for call, _ in points}
    chosen = points if sample is None else random.Random(5).sample(points, sample)
    folder = fresh()
    before = sorted(path.name for path in folder.iterdir())
    for call, fault in chosen:
        told = inject(probe, call, fault, op="resume", folder=str(folder))["told"]
        where = f"{fault} at {call}: {told}"
        assert sorted(path.name for path in folder.iterdir()) == before, where
        if told is None:
            continue
        if told["done"]:
            assert told["step"] in {2, 3}, where  # the one that could not be read is passed over, by name
            assert told["sound"], where
            assert told["step"] == 3 or told["rejected"][0][0] == "step-0000000003.000", where
        else:
            assert told["errno"] == errno.EIO or told["type"] in {"IntegrityError", "Unreadable"}, where
    return len(chosen)


def test_some_calls_of_a_save(probe: Probe, fresh: Callable[[], Path]) -> None:
    """The short form of the sweep over a save with its pruning."""
    assert sweep_save(probe, fresh, SAMPLE) == SAMPLE


def test_some_calls_of_a_resume(probe: Probe, fresh: Callable[[], Path]) -> None:
    """The short form of the sweep over a resume."""
    assert sweep_resume(probe, fresh, SAMPLE) == SAMPLE


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_every_call_of_a_save(
    probe: Probe, fresh: Callable[[], Path], record_property: Callable[[str, object], None]
) -> None:
    """Kill, a full disk and a broken disk at every call of a save with its sweep and its pruning."""
    record_property("measured", f"checkpoint save: {sweep_save(probe, fresh, None)} faults, no good one lost")


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_every_call_of_a_resume(
    probe: Probe, fresh: Callable[[], Path], record_property: Callable[[str, object], None]
) -> None:
    """Kill and a broken disk at every call of a resume."""
    record_property("measured", f"checkpoint resume: {sweep_resume(probe, fresh, None)} faults, nothing wrong loaded")


@pytest.mark.parametrize("op", ["save", "resume"])
def test_interrupted_calls_are_done_again(probe: Probe, fresh: Callable[[], Path], op: str) -> None:
    """EINTR, which any signal may cause, is no failure."""
    request = {"op": op, "step": 4}
    calls = numbered(probe(folder=str(fresh()), **request))
    for name in ("openat", "read", "write", "fsync"):
        numbers = [number for found, number, _ in calls if found == name]
        for number in random.Random(1).sample(numbers, min(2, len(numbers))):
            answer = inject(probe, (name, number, ""), "error=EINTR", folder=str(fresh()), **request)
            assert answer["told"]["done"], (name, number)


def test_a_disk_that_lies_about_a_write(probe: Probe, fresh: Callable[[], Path]) -> None:
    """A write that is told as done, and is not, is found when the checkpoint is read back: nothing is claimed."""
    calls = numbered(probe(op="save", step=4, folder=str(fresh())))
    writes = [call for call in calls if call[0] == "write"]
    assert len(writes) >= 4
    for name, number, arguments in writes:
        size = int(arguments.rpartition(", ")[2])
        folder = fresh()
        answer = inject(probe, (name, number, arguments), f"retval={size}", op="save", step=4, folder=str(folder))
        assert answer["told"]["type"] == "IntegrityError", answer["told"]
        assert resumed(folder) == 3
        shutil.rmtree(folder)


def test_files_are_synced_before_the_rename_and_the_folder_after(probe: Probe, fresh: Callable[[], Path]) -> None:
    """What survives a loss of power cannot be seen by killing processes, but the order of calls can."""
    calls = [(name, arguments) for name, _, arguments in numbered(probe(op="save", step=4, folder=str(fresh())))]
    commit = next(i for i, (name, text) in enumerate(calls) if name.startswith("rename") and ".staging-" in text)
    synced = [i for i, (name, _) in enumerate(calls) if name in {"fsync", "fdatasync"}]
    dropped = [i for i, (name, text) in enumerate(calls) if name.startswith("rename") and ".trash-" in text]
    written = [i for i, (name, _) in enumerate(calls) if name == "write"]

    assert sum(i < commit for i in synced) == 4  # three files and their folder
    assert max(written) < max(i for i in synced if i < commit)
    assert dropped
    assert min(dropped) > min(i for i in synced if i > commit)


def test_a_full_disk(tmp_path: Path) -> None:
    """On a file system of 256 KiB the save that does not fit raises, and the older one stays; then there is room."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    try:
        folder = disk / "checkpoints"
        save(folder, 1)
        (disk / "filler").write_bytes(b"x" * (os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize - 8192))
        with pytest.raises(OSError, match="No space left"):
            save(folder, 2)
        assert [path.name for path in folder.iterdir()] == ["step-0000000001.000"]
        assert resumed(folder) == 1
        (disk / "filler").unlink()
        save(folder, 2)
        assert resumed(folder) == 2
    finally:
        subprocess.run(["umount", str(disk)], check=True)
