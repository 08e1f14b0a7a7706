"""Policies, spikes, evidence for lack of memory, stacks of stalled ranks."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mlcycle_nb.errors import InvalidInput
from mlcycle_nb.training import memory
from mlcycle_nb.training.job_folder import JobFolder
from mlcycle_nb.training.spikes import SpikeDetector
from mlcycle_nb.training.stalls import STACK_SIGNAL, read_stack, stage_after, stuck_rank
from mlcycle_nb.training.submission import TrainingOptions
from mlcycle_nb.training.trouble import DEFAULT_POLICIES, batches_to_skip, parse_policies


class TestPolicies:
    """``--on-trouble``."""

    @pytest.mark.parametrize(
        ("texts", "changed"),
        [
            ([], {}),
            (["rollback"], dict.fromkeys(DEFAULT_POLICIES, "rollback")),
            (["loss_spike=stop"], {"loss_spike": "stop"}),
            (["rollback", "stall=ignore"], {**dict.fromkeys(DEFAULT_POLICIES, "rollback"), "stall": "ignore"}),
        ],
    )
    def test_read(self, texts: list[str], changed: dict[str, str]) -> None:
        """One kind goes before all kinds, and what is not said is the default."""
        assert parse_policies(texts) == {**DEFAULT_POLICIES, **changed}

    @pytest.mark.parametrize(
        ("texts", "message"),
        [
            (["rolback"], "unknown policy.*did you mean 'rollback'"),
            (["spike=stop"], "unknown kind of trouble.*known: non_finite"),
            (["stall=stop", "stall=ignore"], "given twice"),
            (["non_finite=ignore"], "cannot be ignored"),
            (["ignore"], "cannot be ignored"),
            (["stall="], "unknown policy"),
            (["=stop"], "names no kind"),
        ],
    )
    def test_refused(self, texts: list[str], message: str) -> None:
        """In one line, with what would do."""
        with pytest.raises(InvalidInput, match=message) as refused:
            parse_policies(texts)
        assert "\n" not in str(refused.value)

    @pytest.mark.parametrize(
        "options",
        [
            {"grace": "soon"},
            {"grace": "10ms"},
            {"grace": "2d"},
            {"stall": "-1s"},
            {"stall": "0s"},
            {"stall": "1000w"},
            {"resume": "maybe"},
            {"max_rollbacks": -1},
            {"max_rollbacks": True},
            {"on_trouble": {"fire": "stop"}},
        ],
    )
    def test_options_out_of_range(self, options: dict[str, Any]) -> None:
        """Nothing is started with them."""
        with pytest.raises(InvalidInput):
            TrainingOptions(**options)


@pytest.mark.parametrize(
    ("batch", "in_epoch", "accumulation", "skipped"),
    [
        (500, 1000, 1, (401, 500)),
        (5, 1000, 1, (0, 5)),
        (7, 10, 1, (7, 7)),
        (500, None, 4, (400, 503)),
        (9, 20, 4, (8, 11)),
    ],
)
def test_batches_to_skip(batch: int, in_epoch: int | None, accumulation: int, skipped: tuple[int, int]) -> None:
    """Whole updates around the bad batch, and at most a tenth of an epoch."""
    assert batches_to_skip(batch, in_epoch, accumulation) == skipped


class TestSpikes:
    """Against the median of the last losses."""

    @staticmethod
    def falling(steps: int, seed: int) -> list[float]:
        """Return a noisy falling loss."""
        draw = random.Random(seed)
        return [2.0 / (1 + step / 200) * draw.lognormvariate(0, 0.15) + 0.05 for step in range(steps)]

    def test_noise_is_no_spike(self) -> None:
        """200 runs of 1000 noisy steps: none is called one."""
        alarms = 0
        for seed in range(200):
            detector = SpikeDetector()
            alarms += any(detector.take(loss) for loss in self.falling(1000, seed))
        assert alarms == 0

    def test_three_in_a_row_are(self) -> None:
        """Two are not, and one bad batch is not."""
        detector = SpikeDetector()
        for loss in self.falling(300, 1):
            assert not detector.take(loss)

        assert [detector.take(loss) for loss in (50.0, 60.0, 1.0, 50.0, 50.0, 50.0)] == [False] * 5 + [True]
        assert detector.median() < 2.5

    def test_resumed_anywhere_it_says_the_same(self) -> None:
        """Its state goes through JSON at every step."""
        losses = [*self.falling(170, 2), 9.0, 9.5, 0.9, 9.0, 9.0, 9.0]
        whole, carried = SpikeDetector(), SpikeDetector()
        for loss in losses:
            state = json.loads(json.dumps(carried.state(), allow_nan=False))
            carried = SpikeDetector()
            carried.restore(state)
            assert carried.take(loss) == whole.take(loss)
            assert carried.bound == whole.bound


class TestMemory:
    """An end by SIGKILL alone says nothing of memory."""

    @pytest.mark.parametrize(
        ("before", "now", "resident", "limit", "said"),
        [
            (3, 3, {0: 1_000}, 10_000, ""),
            (3, 4, {}, None, "the kernel has killed a process for memory since the launch"),
            (0, 0, {0: 5_000_000_000, 1: 4_500_000_000}, 10_000_000_000, "the workers held 9.5 GB of 10 GB"),
            (0, 0, {0: 5_000}, None, ""),
        ],
    )
    def test_evidence(self, before: int, now: int, resident: dict[int, int], limit: int | None, said: str) -> None:
        """It is what the kernel counted, or how near the limit the workers were, and says what to do."""
        found = memory.evidence(before, now, resident, limit)
        assert found.startswith(said)
        assert bool(found) == bool(said)
        assert not said or "--gradient-accumulation" in found

    def test_control_groups(self, tmp_path: Path) -> None:
        """Both versions of control groups are read, and a limit that means none is none."""
        (tmp_path / "memory").mkdir()
        (tmp_path / "memory" / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 7\n")
        (tmp_path / "memory" / "memory.limit_in_bytes").write_text("4096\n")
        assert memory.kills(tmp_path) == 7
        assert memory.limit_bytes(tmp_path) == 4096
        (tmp_path / "memory.events").write_text("low 0\noom 3\noom_kill 2\n")
        (tmp_path / "memory" / "memory.limit_in_bytes").write_text(str(2**63 - 4096))
        (tmp_path / "memory.max").write_text("max\n")
        assert memory.kills(tmp_path) == 2
        assert memory.limit_bytes(tmp_path) == memory.limit_bytes(tmp_path / "absent")


READING = [("/home/me/data.py", 5, "__getitem__"), ("<train digits>", 9, "<module>")]
REDUCING = [("/x/torch/autograd/graph.py", 9, "run_backward"), ("<train digits>", 9, "<module>")]


class TestStalls:
    """Which rank holds the others up."""

    def test_the_stuck_rank(self) -> None:
        """A suspended one, one that is behind, one that does not wait for the others; else the first."""
        stacks = {0: REDUCING, 1: READING}
        assert stuck_rank({0: 8, 1: 8}, stacks, set()) == 1
        assert stuck_rank({0: 7, 1: 8}, stacks, set()) == 0
        assert stuck_rank({0: 8, 1: 8}, stacks, {0}) == 0
        assert stuck_rank({0: 8, 1: 8}, {}, set()) == 0

    def test_a_rank_says_where_its_main_thread_stands(self, tmp_path: Path) -> None:
        """However many threads it has: of all, faulthandler writes the newest hundred, and the main is the oldest."""
        script = (
            "import sys, threading\n"
            "from pathlib import Path\n"
            "from mlcycle_nb.training.job_folder import JobFolder\n"
            "from mlcycle_nb.training.worker import _write_stacks_when_asked\n"
            "over = threading.Event()\n"
            "for _ in range(120): threading.Thread(target=over.wait, daemon=True).start()\n"
            "def stands_here():\n"
            "    print('ready', flush=True)\n"
            "    sys.stdin.read()\n"
            "_write_stacks_when_asked(JobFolder(Path(sys.argv[1])), 1, 0)\n"
            "stands_here()\n"
        )
        (tmp_path / "run").mkdir()
        (tmp_path / "stands.py").write_text(script)
        dump = JobFolder(tmp_path).stacks_of(1, 0)
        command = [sys.executable, str(tmp_path / "stands.py"), str(tmp_path)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as rank:
            assert rank.stdout is not None
            assert rank.stdout.readline() == "ready\n"
            rank.send_signal(STACK_SIGNAL)
            until = time.monotonic() + 20
            while len(read_stack(dump)) < 2 and time.monotonic() < until:
                time.sleep(0.02)
            rank.communicate("")

        assert rank.returncode == 0
        assert [(Path(file).name, name) for file, _, name in read_stack(dump)] == [
            ("stands.py", "stands_here"),
            ("stands.py", "<module>"),
        ]
        assert read_stack(tmp_path / "absent") == []

    def test_what_is_watched(self) -> None:
        """From the launch to the group, and from the first epoch to the last; not what the cell does besides."""
        stages = ["starting"]
        for kind in ("started", "steps", "fit", "steps", "epoch", "trained", "result"):
            stages.append(stage_after(stages[-1], {"kind": kind}))
        assert stages[1:] == ["preparing", "preparing", "training", "training", "training", "closing", "closing"]
