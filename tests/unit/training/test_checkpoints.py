"""Checkpoints: whole or absent, verified before use, never fewer than before."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mlcycle_nb.errors import IntegrityError
from mlcycle_nb.training.checkpoints import MANIFEST_NAME, CheckpointRecord, CheckpointStore, KeepPolicy


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
