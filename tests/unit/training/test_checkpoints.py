"""Checkpoints: whole or absent, verified before use, never fewer than before."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mlcycle_nb.errors import IntegrityError
from mlcycle_nb.training.checkpoints import MANIFEST_NAME, CheckpointRecord, CheckpointStore, KeepPolicy, order_of


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    """An empty store that keeps two and the best."""
    return CheckpointStore(tmp_path / "checkpoints", KeepPolicy(last=2, best=1))


def save(store: CheckpointStore, step: int, metric: float | None = None) -> CheckpointRecord:
    tensors = {"model.w": torch.full((7,), float(step)), "empty": torch.zeros(0), "half": torch.ones(3).bfloat16()}
    return store.save(step=step, epoch=0, tensors=tensors, state={"step": step}, metric=metric)


class TestSave:
    """What was saved is what is loaded."""

    def test_round_trip(self, store: CheckpointStore) -> None:
        """Tensors and state come back equal."""
        record = save(store, 3)
        tensors, state = store.load(record)

        assert state == {"step": 3}
        assert torch.equal(tensors["model.w"], torch.full((7,), 3.0))
        assert tensors["half"].dtype is torch.bfloat16
        assert tensors["empty"].shape == (0,)

    def test_last_and_best_stay(self, store: CheckpointStore) -> None:
        """The newest two and the one with the lowest metric are kept; NaN and infinity are never best."""
        for step, metric in ((1, 0.5), (2, 0.1), (3, 0.4), (4, float("nan")), (5, float("-inf")), (6, 0.3)):
            save(store, step, metric)

        assert [record.step for record in store.records()] == [6, 5, 2]
        assert store.best()[0].step == 2
        assert store.records()[1].metric is None

    def test_the_same_step_again_leaves_the_newer_one(self, store: CheckpointStore) -> None:
        """A step that is saved a second time, with its metric, is one checkpoint afterwards."""
        save(store, 1)
        save(store, 2)
        save(store, 2, 0.2)

        assert [(r.step, r.metric) for r in store.records()] == [(2, 0.2), (1, None)]

    def test_a_step_may_be_saved_a_thousand_times(self, store: CheckpointStore) -> None:
        """A loop that counts no steps saves the same one again and again: the newest is found by number."""
        save(store, 0).path.rename(store.folder / "step-0000000000.999")
        assert save(store, 0).path.name == "step-0000000000.1000"
        again = save(store, 0, 0.5)

        assert again.path.name == "step-0000000000.1001"
        assert [record.path for record in store.records()] == [again.path]
        newest = store.newest_verified().newest
        assert newest is not None
        assert newest.metric == 0.5

    def test_an_older_one_that_cannot_be_dropped(self, store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
        """The new one is committed all the same, the reason is told, and the next save drops both."""
        save(store, 1)
        save(store, 2)
        real = os.rename

        def refuse(source: Any, target: Any) -> None:
            if ".trash" in str(target):
                raise OSError(5, "Input/output error")
            real(source, target)

        monkeypatch.setattr(os, "rename", refuse)
        assert save(store, 3).step == 3
        assert store.prune_failure == "Input/output error"
        monkeypatch.undo()
        save(store, 4)

        assert store.prune_failure is None
        assert [record.step for record in store.records()] == [4, 3]

    def test_best_when_higher_is_better(self, store: CheckpointStore) -> None:
        """The best are kept by the direction of their metric."""
        for step, metric in ((1, 0.9), (2, 0.1), (3, 0.5), (4, 0.4)):
            tensors = {"w": torch.zeros(1)}
            store.save(step=step, epoch=0, tensors=tensors, state={}, metric=metric, lower_is_better=False)

        assert [record.step for record in store.records()] == [4, 3, 1]

    def test_private(self, store: CheckpointStore) -> None:
        """Nobody else can read weights."""
        record = save(store, 1)

        assert record.path.stat().st_mode & 0o777 == 0o700
        assert all(file.stat().st_mode & 0o777 == 0o600 for file in record.path.iterdir())

    def test_a_full_disk_leaves_the_older_ones(self, store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
        """The save raises, nothing half-made stays, and the newest sound one is still there."""
        save(store, 1)

        def full(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            save(store, 2)
        monkeypatch.undo()

        assert [path.name for path in store.folder.iterdir()] == ["step-0000000001.000"]
        found = store.newest_verified().newest
        assert found is not None
        assert found.step == 1


class TestDamage:
    """A damaged checkpoint is passed over, with the reason, for the newest sound one."""

    def assert_falls_back(self, store: CheckpointStore, reason: str) -> None:
        search = store.newest_verified()
        assert search.newest is not None
        assert search.newest.step == 1
        assert [name for name, _ in search.rejected] == ["step-0000000002.000"]
        assert reason in search.rejected[0][1]

    @pytest.fixture
    def newest(self, store: CheckpointStore) -> Path:
        """The folder of the newer of two checkpoints."""
        save(store, 1)
        return save(store, 2).path

    def test_every_single_bit_flip_is_found(self, store: CheckpointStore) -> None:
        """500 flips at random places of all three files: each is found."""
        record = save(store, 1)
        draw = random.Random(7)
        files = sorted(record.path.iterdir())
        for _ in range(500):
            file = draw.choice(files)
            sound = file.read_bytes()
            broken = bytearray(sound)
            broken[draw.randrange(len(broken))] ^= 1 << draw.randrange(8)
            file.write_bytes(broken)
            with pytest.raises(IntegrityError):
                store.verify(record.path)
            file.write_bytes(sound)
        store.verify(record.path)

    @pytest.mark.parametrize("name", ["tensors.safetensors", "state.json", MANIFEST_NAME])
    def test_truncated_and_empty(self, store: CheckpointStore, newest: Path, name: str) -> None:
        """A shorter file, down to none at all, is found."""
        content = (newest / name).read_bytes()
        for size in (len(content) - 1, len(content) // 2, 0):
            (newest / name).write_bytes(content[:size])
            self.assert_falls_back(store, "bytes instead of" if name != MANIFEST_NAME else "manifest has changed")

    def test_missing_and_extra_files(self, store: CheckpointStore, newest: Path) -> None:
        """The manifest names all files, and only those may be there."""
        (newest / "pytorch_model.bin").write_bytes(b"pickle")
        self.assert_falls_back(store, "pytorch_model.bin is not in the manifest")
        (newest / "pytorch_model.bin").unlink()
        (newest / "state.json").unlink()
        self.assert_falls_back(store, "state.json is missing")

    def test_links(self, store: CheckpointStore, newest: Path, tmp_path: Path) -> None:
        """A symbolic or hard link in place of a file is refused, although its content would fit."""
        shutil.copy(newest / "state.json", tmp_path / "elsewhere.json")
        (newest / "state.json").unlink()
        (newest / "state.json").symlink_to(tmp_path / "elsewhere.json")
        self.assert_falls_back(store, "state.json")
        (newest / "state.json").unlink()
        os.link(tmp_path / "elsewhere.json", newest / "state.json")
        self.assert_falls_back(store, "link")

    def test_a_link_to_a_folder(self, store: CheckpointStore, newest: Path, tmp_path: Path) -> None:
        """A checkpoint that is a link is refused."""
        newest.rename(tmp_path / "moved")
        newest.symlink_to(tmp_path / "moved")
        self.assert_falls_back(store, "is not a folder")

    def test_swapped_and_renamed(self, store: CheckpointStore, newest: Path) -> None:
        """Files of another checkpoint, and another step's name, are found."""
        renamed = newest.with_name("step-0000000009.000")
        newest.rename(renamed)
        assert store.newest_verified().rejected == [("step-0000000009.000", "holds step 2")]
        renamed.rename(newest)
        shutil.copy(store.folder / "step-0000000001.000" / "state.json", newest / "state.json")
        self.assert_falls_back(store, "state.json has changed")

    def test_a_folder_with_the_highest_number(self, store: CheckpointStore, newest: Path) -> None:
        """Number 999999 is no more believed than any other: empty, a file, a copy, or with a manifest of nonsense."""
        false = store.folder / "step-0000999999.000"
        false.mkdir()
        assert self.assert_next_is_newest(store, newest) == [
            (false.name, "MANIFEST cannot be read: No such file or directory")
        ]
        for nonsense in (b"[]", b"null", b'{"format": 1, "step": 999999}', b"\xff", b'{"format": 1, "step": 1e999}'):
            (false / MANIFEST_NAME).write_bytes(hashlib.sha256(nonsense).hexdigest().encode() + b"\n" + nonsense)
            assert self.assert_next_is_newest(store, newest) == [(false.name, "the manifest is not one of ours")]
        shutil.rmtree(false)
        shutil.copytree(newest, false)
        assert self.assert_next_is_newest(store, newest) == [(false.name, "holds step 2")]
        shutil.rmtree(false)
        false.write_bytes(b"")
        assert self.assert_next_is_newest(store, newest) == [(false.name, "is not a folder")]

        assert save(store, 3).step == 3
        assert [record.step for record in store.records()] == [3, 2]

    @staticmethod
    def assert_next_is_newest(store: CheckpointStore, newest: Path) -> list[tuple[str, str]]:
        search = store.newest_verified()
        assert search.newest is not None
        assert search.newest.path == newest
        return search.rejected

    def test_a_manifest_that_names_other_files(self, store: CheckpointStore, newest: Path) -> None:
        """A manifest, sound in itself, that names another file than ours is refused: nothing else is ever read."""
        (newest / "model.pkl").write_bytes(b"code")
        body = (newest / MANIFEST_NAME).read_bytes().partition(b"\n")[2].replace(b"state.json", b"model.pkl")
        (newest / "state.json").unlink()
        (newest / MANIFEST_NAME).write_bytes(hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
        self.assert_falls_back(store, "not one of ours")

    def test_a_pipe_is_not_waited_for(self, store: CheckpointStore, newest: Path) -> None:
        """A FIFO in place of a file is refused at once."""
        (newest / "state.json").unlink()
        os.mkfifo(newest / "state.json")
        self.assert_falls_back(store, "not a regular file")

    @pytest.mark.parametrize("damage", [b"x", None])
    def test_damaged_ones_do_not_count(self, store: CheckpointStore, damage: bytes | None) -> None:
        """After a resume from before damaged checkpoints, two sound ones are kept, and the damaged are dropped."""
        save(store, 1)
        for step in (2, 3):
            file = save(store, step).path / "tensors.safetensors"
            file.write_bytes(damage) if damage is not None else file.unlink()
        resumed = CheckpointStore(store.folder, KeepPolicy(last=2, best=0))
        found = resumed.newest_verified()
        assert found.newest is None or found.newest.step == 1

        for step in (2, 4, 5):
            save(resumed, step)

        assert [resumed.verify(record.path).step for record in resumed.records()] == [5, 4]
        assert [path.name for path in resumed.folder.iterdir() if "000003" in path.name] == []

    def test_what_cannot_be_read_now_is_not_dropped(
        self, store: CheckpointStore, newest: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A disk's bad moment passes a checkpoint over, and costs no more than that."""
        real = os.open

        def bad(path: Any, *arguments: Any, **options: Any) -> int:
            if str(path).endswith("0002.000/tensors.safetensors"):
                raise OSError(5, "Input/output error")
            return real(path, *arguments, **options)

        monkeypatch.setattr(os, "open", bad)
        self.assert_falls_back(store, "tensors.safetensors cannot be read: Input/output error")
        save(store, 3)
        save(store, 4)
        monkeypatch.undo()

        assert CheckpointStore(store.folder).verify(newest).step == 2

    def test_older_than(self, store: CheckpointStore, newest: Path) -> None:
        """The search can be told where to end."""
        assert store.newest_verified(before=order_of(newest)).newest == store.records()[1]
        assert store.newest_verified(before=(1, 0)).newest is None

    def test_leftovers_are_not_candidates_and_are_swept(self, store: CheckpointStore, newest: Path) -> None:
        """Staging and trash folders of a crash are never chosen, and the next save removes them."""
        shutil.copytree(newest, store.folder / ".staging-0000000009-1-1")
        shutil.copytree(newest, store.folder / ".trash-step-0000000009.000-1")
        found = store.newest_verified().newest
        assert found is not None
        assert found.step == 2

        save(store, 3)

        assert sorted(path.name for path in store.folder.iterdir()) == ["step-0000000002.000", "step-0000000003.000"]


PROGRAM = """
import sys, torch
from pathlib import Path
from mlcycle_nb.training.checkpoints import CheckpointStore, KeepPolicy
store = CheckpointStore(Path(sys.argv[1]), KeepPolicy(last=1, best=0))
for step in range(1, 4):
    store.save(step=step, epoch=0, tensors={"w": torch.full((1000,), float(step))}, state={"step": step})
    print(step, flush=True)
"""
POINTS = ("checkpoint.after_tensors", "checkpoint.before_rename", "checkpoint.after_rename", "checkpoint.after_discard")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("point", POINTS)
def test_killed_inside_a_save(tmp_path: Path, point: str) -> None:
    """With one checkpoint kept, kill -9 at any place of the second save leaves a sound one at least as new as told."""
    environment = {**os.environ, "MLCYCLE_CRASH_AT": f"{point}:{1 if point.endswith('discard') else 2}"}
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], env=environment, capture_output=True, text=True
    )

    assert run.returncode == -signal.SIGKILL
    newest = CheckpointStore(tmp_path).newest_verified().newest
    assert newest is not None
    assert newest.step >= max(int(line) for line in run.stdout.split())
