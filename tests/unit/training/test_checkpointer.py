"""Taking a worker's state and putting it back: what does not fit gives way to what does."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from mlcycle_nb.errors import InvalidInput
from mlcycle_nb.training.checkpointer import Checkpointer
from mlcycle_nb.training.checkpoints import CheckpointStore, KeepPolicy
from mlcycle_nb.training.events import EventReader, EventWriter


class Worker:
    """What one attempt of a job has."""

    def __init__(self, path: Path, *, width: int = 3) -> None:
        (path / "events").mkdir(exist_ok=True)
        self.store = CheckpointStore(path / "checkpoints")
        self.events = EventWriter(path / "events" / "rank-0.jsonl", rank=0, attempt=1)
        self.checkpointer = Checkpointer(self.store, Accelerator(cpu=True), self.events)
        self.model = torch.nn.Sequential(torch.nn.Linear(2, width), torch.nn.BatchNorm1d(width))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.1)
        self.scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(self.optimizer)
        self.objects = {"model": self.model, "optimizer": self.optimizer, "scheduler": self.scheduler}
        self._path = path

    def step(self) -> None:
        self.model(torch.randn(4, 2)).square().sum().backward()
        self.optimizer.step()
        self.scheduler.step(1.0)

    def save(self, step: int) -> None:
        self.checkpointer.save(self.objects, step=step, epoch=0, cursor={"step": step})
        self.checkpointer.wait()

    def told(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in EventReader(self._path / "events").read() if event["kind"] == kind]


def test_round_trip(tmp_path: Path) -> None:
    """Model, optimizer, scheduler and generators come back to the bit."""
    first = Worker(tmp_path)
    first.step()
    first.save(1)
    ahead = torch.rand(3)
    second = Worker(tmp_path)
    cursor = second.checkpointer.restore(second.objects)
    assert cursor is not None
    second.checkpointer.put_random_back(cursor)

    assert cursor["step"] == 1
    assert torch.equal(torch.rand(3), ahead)
    for one, other in zip(first.model.state_dict().values(), second.model.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    ours, theirs = first.optimizer.state_dict(), second.optimizer.state_dict()
    assert ours["param_groups"] == theirs["param_groups"]
    assert torch.equal(ours["state"][0]["exp_avg_sq"], theirs["state"][0]["exp_avg_sq"])
    assert first.scheduler.state_dict() == second.scheduler.state_dict()


def test_restored_tensors_are_no_part_of_the_file(tmp_path: Path) -> None:
    """The optimizer keeps copies: the file may be dropped, or changed, after the resume."""
    first = Worker(tmp_path)
    first.step()
    first.save(1)
    second = Worker(tmp_path)
    second.checkpointer.restore(second.objects)
    lines = [line for line in Path("/proc/self/maps").read_text().splitlines() if "safetensors" in line]
    mapped = [tuple(int(end, 16) for end in line.split()[0].split("-")) for line in lines]
    place = second.optimizer.state_dict()["state"][0]["exp_avg"].data_ptr()

    assert not any(start <= place < end for start, end in mapped)


def test_another_architecture_gives_way_to_an_older_one_that_fits(tmp_path: Path) -> None:
    """A checkpoint that does not fit the model is passed over by name."""
    Worker(tmp_path).save(1)
    Worker(tmp_path, width=5).save(2)
    again = Worker(tmp_path)

    cursor = again.checkpointer.restore(again.objects)

    assert cursor is not None
    assert cursor["step"] == 1
    (rejected,) = again.told("checkpoint_rejected")
    assert rejected["name"] == "step-0000000002.000"
    assert "does not fit model" in rejected["reason"]


def test_when_none_fits_nothing_begins_anew(tmp_path: Path) -> None:
    """Weights that were loaded in part are not trained on."""
    Worker(tmp_path, width=5).save(1)
    again = Worker(tmp_path)

    with pytest.raises(InvalidInput, match=r"does not fit model.*size mismatch"):
        again.checkpointer.restore(again.objects)


def test_when_all_are_damaged_training_begins_anew_and_says_so(tmp_path: Path) -> None:
    """No checkpoint is better than a wrong one."""
    worker = Worker(tmp_path)
    worker.save(1)
    worker.save(2)
    for record in worker.store.records():
        (record.path / "state.json").write_bytes(b"{}")

    assert Worker(tmp_path).checkpointer.restore(worker.objects) is None
    assert [event["name"] for event in worker.told("checkpoint_rejected")] == [
        "step-0000000002.000",
        "step-0000000001.000",
    ]


def test_a_failed_save_is_named_and_the_next_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever goes wrong on the writing thread is told: nobody else would hear of it."""
    worker = Worker(tmp_path)
    for failure in (OSError(28, "No space left on device"), ZeroDivisionError("odd")):

        def fail(failure: Exception = failure, **_: Any) -> None:
            raise failure

        with monkeypatch.context() as patch:
            patch.setattr(worker.store, "save", fail)
            worker.save(1)
    worker.save(2)

    assert [event["reason"] for event in worker.told("checkpoint_failed")] == ["No space left on device", "odd"]
    assert [event["step"] for event in worker.told("checkpoint")] == [2]


def test_events_that_are_not_written_hold_the_checkpoint_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that went on from there would lack the steps; once the disk takes them, all is told."""
    worker = Worker(tmp_path)
    worker.events.step(0, 1, 0.5, 4)

    def full() -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(worker.events, "_write_lines", full)
        worker.save(1)
    assert worker.store.records() == []
    worker.save(2)

    assert [record.step for record in worker.store.records()] == [2]
    (failed,) = worker.told("checkpoint_failed")
    assert failed["reason"] == "the events of rank 0 cannot be written: No space left on device"
    assert worker.told("steps")[0]["rows"] == [[1, 0.5, 4]]


def test_a_sparse_tensor_is_refused_where_it_is(tmp_path: Path) -> None:
    """What no checkpoint can hold ends training by name, instead of failing each save in the background."""
    worker = Worker(tmp_path)
    worker.model.register_buffer("odd", torch.eye(3).to_sparse())

    with pytest.raises(InvalidInput, match=r"cannot hold torch.sparse_coo tensors.*model\.odd"):
        worker.save(1)


NOTHING_RUNS = """
import json, sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from test_checkpointer import Worker
found = []
def hook(name, arguments):
    if name == "pickle.find_class":
        found.append(arguments)
first = Worker(Path(sys.argv[1]))
first.step()
sys.addaudithook(hook)
first.save(1)
second = Worker(Path(sys.argv[1]))
assert second.checkpointer.restore(second.objects) is not None
print(json.dumps([str(part) for part in found]))
"""


def test_nothing_in_a_checkpoint_is_unpickled(tmp_path: Path) -> None:
    """Python's own audit events see no class looked up by a pickle, and the files are of forms without code."""
    argv = [sys.executable, "-c", NOTHING_RUNS, str(tmp_path), str(Path(__file__).parent)]
    ended = subprocess.run(argv, capture_output=True, text=True)

    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout) == []
    (folder,) = (tmp_path / "checkpoints").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["MANIFEST", "state.json", "tensors.safetensors"]


TWO_RANKS = """
import os, sys
sys.path.insert(0, sys.argv[3])
rank, root = sys.argv[1], sys.argv[2]
os.environ |= {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1", "GLOO_SOCKET_IFNAME": "lo"}
from pathlib import Path
import torch
torch.distributed.init_process_group("gloo", init_method=f"file://{root}/group", rank=int(rank), world_size=2)
from test_checkpointer import Worker
for case in sys.argv[4:]:
    worker = Worker(Path(root) / case / rank)
    assert worker.checkpointer._accelerator.num_processes == 2
    cursor = worker.checkpointer.restore(worker.objects)
    print(None if cursor is None else cursor["step"])
os._exit(0 if sys.stdout.flush() is None else 1)
"""


@pytest.mark.timeout(170)
def test_ranks_go_on_from_the_newest_that_all_can_read(tmp_path: Path) -> None:
    """Where one rank finds the newest damaged, all take the older one; where one finds none, all begin anew."""
    (tmp_path / "made").mkdir()
    maker = Worker(tmp_path / "made")
    maker.store.keep = KeepPolicy(last=3)
    for step in (1, 2, 3):
        maker.save(step)
        make_it_of_two_ranks(maker.store)
    cases = {"newest": (3,), "two": (2, 3), "all": (1, 2, 3)}
    for case, damaged in cases.items():
        for rank in ("0", "1"):
            shutil.copytree(tmp_path / "made", tmp_path / case / rank)
        for step in damaged:
            (tmp_path / case / "1" / "checkpoints" / f"step-{step:010d}.001" / "state.json").write_bytes(b"")
    argv = [str(tmp_path), str(Path(__file__).parent), *cases]
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", TWO_RANKS, rank, *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for rank in ("0", "1")
    ]
    told = [process.communicate() for process in ranks]

    assert [out.split() for out, _ in told] == [["2", "1", "None"]] * 2, told


def make_it_of_two_ranks(store: CheckpointStore) -> None:
    """Write the newest checkpoint again as one that two processes took."""
    record = store.records()[0]
    tensors, state = store.load(record)
    state |= {"world": 2, "random": state["random"] * 2}
    store.save(step=record.step, epoch=0, tensors=tensors, state=state)
