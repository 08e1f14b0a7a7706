"""Events, progress and the metrics handed on; state trees; parameters."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mlcycle_nb.errors import InvalidInput
from mlcycle_nb.training import random_state, state_tree
from mlcycle_nb.training.agreement import Agreement
from mlcycle_nb.training.events import EventReader, EventWriter
from mlcycle_nb.training.faults import classify
from mlcycle_nb.training.progress import Progress
from mlcycle_nb.training.session import Params
from mlcycle_nb.training.submission import TrainingOptions, parse_params
from mlcycle_nb.training.tracking import metric_rows, newer
from mlcycle_nb.training.trouble import NonFinite


class TestEvents:
    """Lines survive a kill in the middle of one."""

    def test_a_torn_line_waits_and_is_then_passed_over(self, tmp_path: Path) -> None:
        """The reader gives whole lines only; the next attempt begins on a line of its own."""
        path = tmp_path / "rank-0.jsonl"
        first = EventWriter(path, rank=0, attempt=1)
        first.step(0, 1, 0.5, 8)
        first.write("epoch", values={})
        first.close()
        with path.open("ab") as out:
            out.write(b'{"kind":"steps","rows":[[2,')
        reader = EventReader(tmp_path)
        before = [event["kind"] for event in reader.read()]
        second = EventWriter(path, rank=0, attempt=2)
        second.write("resumed", step=1)
        second.close()

        assert before == ["steps", "epoch"]
        assert [event["kind"] for event in reader.read()] == ["resumed"]

    def test_nan_survives(self, tmp_path: Path) -> None:
        """A loss that is not a number is told as such."""
        writer = EventWriter(tmp_path / "rank-0.jsonl", rank=0, attempt=1)
        writer.step(0, 1, float("nan"), 8)
        writer.close()

        (event,) = EventReader(tmp_path).read()
        assert math.isnan(event["rows"][0][1])


def steps(rows: list[tuple[int, float]], *, rank: int = 0, at: float = 0.0) -> dict[str, Any]:
    return {"kind": "steps", "rank": rank, "time": at, "epoch": 0, "rows": [[s, v, 4] for s, v in rows]}


class TestProgress:
    """The picture after a resume is that of an unbroken run."""

    def test_ranks_are_averaged_and_resumes_replace(self) -> None:
        """Steps past the checkpoint are dropped and run again."""
        progress = Progress()
        for event in (
            steps([(1, 1.0), (2, 3.0), (3, 9.0)], at=1.0),
            steps([(1, 2.0), (2, 5.0)], rank=1, at=1.0),
            {"kind": "resumed", "rank": 0, "time": 2.0, "step": 2, "name": "x"},
            steps([(3, 7.0)], at=3.0),
        ):
            progress.apply(event)

        assert progress.loss_curve() == [(1, 1.5), (2, 4.0), (3, 7.0)]
        assert progress.resumed == [2]
        assert progress.step == 3

    def test_pace(self) -> None:
        """Rows a second and time left come from the last looks; before two of them they are unknown."""
        progress = Progress(total_steps=20, world=2)
        progress.apply(steps([(1, 1.0)], at=10.0))
        assert progress.eta_seconds is None
        progress.apply(steps([(2, 1.0), (3, 1.0), (4, 1.0), (5, 1.0)], at=12.0))

        assert progress.eta_seconds == pytest.approx(15 * 2 / 4)
        assert progress.throughput == pytest.approx(16 * 2 / 2)


class TestMetrics:
    """What the run gets is the same however often training was interrupted."""

    def test_each_step_once(self) -> None:
        """A replayed step is not handed on again."""
        sent: dict[str, int] = {}
        first = newer(metric_rows([steps([(1, 0.5), (2, 0.4)])], None), sent)
        again = newer(metric_rows([steps([(2, 0.4), (3, 0.3)])], None), sent)

        assert [row.step for row in first] == [1, 2]
        assert [row.step for row in again] == [3]

    def test_long_runs_are_thinned_by_step(self) -> None:
        """With 20,000 steps every tenth is handed on, whichever batch of events it came in."""
        rows = metric_rows([steps([(step, 0.1) for step in range(1, 41)])], 20_000)

        assert [row.step for row in rows] == [10, 20, 30, 40]


class TestStateTree:
    """State dictionaries through JSON and back."""

    def test_round_trip(self) -> None:
        """Int keys, tuples, infinities, nested tensors and numpy scalars keep type and value."""
        tree = {
            0: {"step": torch.tensor(3.0), "betas": (0.9, 0.999)},
            "best": float("inf"),
            "list": [None, True, 2**70, "x"],
            "$tensor": {"odd": 1},
            "scalar": np.float32(0.5),
        }
        document, tensors = state_tree.split(tree, "optimizer")
        back = state_tree.join(document, tensors)

        assert torch.equal(back[0]["step"], tree[0]["step"])
        assert back[0]["betas"] == (0.9, 0.999)
        assert back["best"] == float("inf")
        assert back["list"] == tree["list"]
        assert back["$tensor"] == {"odd": 1}
        assert back["scalar"] == 0.5

    def test_objects_are_refused_with_their_place(self) -> None:
        """Only plain values go into a checkpoint."""
        with pytest.raises(InvalidInput, match=r"cannot hold a object.*scheduler\.a\.0"):
            state_tree.split({"a": [object()]}, "scheduler")


def test_generators_come_back() -> None:
    """After a restore, python, numpy and torch draw what they would have drawn."""
    import random

    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.normal()), float(torch.randn(()))

    draw()
    state = random_state.capture()
    expected = [draw() for _ in range(3)]
    random_state.seed_everything(99)
    random_state.restore(state)

    assert [draw() for _ in range(3)] == expected


def test_the_first_proposal_stands(tmp_path: Path) -> None:
    """Ranks that propose at once end up with one step."""
    one, other = Agreement(tmp_path / "stop"), Agreement(tmp_path / "stop")
    assert one.standing() is None
    one.propose(7)
    other.propose(8)

    assert other.standing() == 7
    one.withdraw()
    assert other.standing() is None


class TestParameters:
    """`--param` and what the options refuse."""

    def test_values(self) -> None:
        """Numbers, truth values and texts are told apart."""
        texts = ["lr=0.01", "n=3", "on=true", "x=none", "name=adam", "eq=a=b"]

        assert parse_params(texts) == {"lr": 0.01, "n": 3, "on": True, "x": None, "name": "adam", "eq": "a=b"}

    @pytest.mark.parametrize("text", ["lr", "lr=nan", "lr=inf", "1x=2", "=1", "lr=1e999", "a b=1"])
    def test_refused(self, text: str) -> None:
        """Each in one line that names the option."""
        with pytest.raises(InvalidInput, match="--param"):
            parse_params([text])

    def test_twice(self) -> None:
        """Nothing is silently overwritten."""
        with pytest.raises(InvalidInput, match="twice"):
            parse_params(["lr=1", "lr=2"])

    @pytest.mark.parametrize(
        "options",
        [
            {"processes": 0},
            {"epochs": 0},
            {"epochs": True},
            {"seed": -1},
            {"device": "gpu"},
            {"mixed_precision": "fp8"},
            {"checkpoint_every": "0"},
            {"checkpoint_every": "soon"},
            {"keep_last": 0},
            {"params": {"model": object()}},
        ],
    )
    def test_options_out_of_range(self, options: dict[str, Any]) -> None:
        """Nothing is started with them."""
        with pytest.raises(InvalidInput):
            TrainingOptions(**options)

    def test_access(self) -> None:
        """By attribute, by key, with a default; a missing one says how to give it."""
        params = Params({"lr": 0.1})

        assert (params.lr, params["lr"], params.get("depth", 2), dict(params)) == (0.1, 0.1, 2, {"lr": 0.1})
        with pytest.raises(InvalidInput, match=r"no parameter 'lrr'.*did you mean 'lr'.*--param lrr=VALUE"):
            _ = params.lrr


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ValueError("no"), "user"),
        (RuntimeError("shape mismatch"), "user"),
        (NonFinite("loss"), "non_finite"),
        (MemoryError(), "out_of_memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes"), "out_of_memory"),
        (OSError(28, "No space left on device"), "disk"),
        (RuntimeError("[gloo/transport/tcp/pair.cc:537] Connection closed by peer"), "peer"),
    ],
)
def test_causes(error: BaseException, kind: str) -> None:
    """What ended a worker decides whether it is tried again."""
    assert classify(error) == kind
