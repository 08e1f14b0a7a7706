"""What watching a run costs: bytes to the page, time for a long run, room on the disk; and what is said of it."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlcycle_nb.context import Context
from mlcycle_nb.development.service import ModelDevelopmentManager
from mlcycle_nb.notebook import panel as panel_module
from mlcycle_nb.training import heartbeat, output
from mlcycle_nb.training.events import EventWriter
from mlcycle_nb.training.faces import TrainingState, ranks_table, text, trouble_of
from mlcycle_nb.training.heartbeat import Beat, Heart, read_beats
from mlcycle_nb.training.job_folder import JobFolder
from mlcycle_nb.training.listing import JobList, JobStanding
from mlcycle_nb.training.logs import NewLines
from mlcycle_nb.training.output import bound, left_out, plain_lines, tail
from mlcycle_nb.training.panel import TrainingPanel
from mlcycle_nb.training.progress import Progress
from mlcycle_nb.training.records import Restart, TrainingJob
from mlcycle_nb.training.service import TrainingManager
from tests.builders import training_job


def make_job(context: Context, **changes: Any) -> TrainingJob:
    """Return a running job of two processes that is in the store."""
    job = training_job("long-1", created_at=context.clock.now(), processes=2, epochs=100, attempt=1)
    with context.store.transaction(actor="tester") as transaction:
        return transaction.insert(replace(job, **changes), event="training.submitted")


class Run:
    """Two workers' event files, as they grow."""

    def __init__(self, context: Context) -> None:
        self.folder = JobFolder(context.folder("training", "jobs") / "long-1")
        self.folder.make()
        self.writers = [EventWriter(self.folder.events_of(rank), rank=rank, attempt=1) for rank in (0, 1)]
        self.writers[0].write("started", world=2, device="cpu")
        self.writers[0].write("fit", epochs=100, total_steps=200_000, epoch=0, step=0, best="val_loss")
        self.step = 0

    def go_on(self, steps: int) -> None:
        """Add steps of both ranks, and the figures of an epoch now and then."""
        for step in range(self.step + 1, self.step + steps + 1):
            for rank, writer in enumerate(self.writers):
                writer.step(step // 2000, step, 1.2345678 / (1 + step * 1e-4) + 0.01 * rank, 16)
            if step % 2000 == 0:
                values = {
                    "train_loss": 1.0 / step,
                    "val_loss": 1.1 / step,
                    "val_accuracy": 0.5 + step * 1e-6,
                    "lr": 0.01,
                }
                self.writers[0].write("epoch", epoch=step // 2000, step=step, values=values)
        self.step += steps
        for writer in self.writers:
            writer.flush()


class TestBytes:
    """Ten new points are told in a kilobyte, whatever came before."""

    @pytest.mark.parametrize("history", [50, 399, 20_000])
    def test_ten_new_points(self, context: Context, monkeypatch: pytest.MonkeyPatch, history: int) -> None:
        """Everything that moved: bar, pace, ranks, both curves; and the page then shows what is meant."""
        monkeypatch.setattr(panel_module, "REFRESH_SECONDS", 3600.0)
        training = TrainingManager(context, ModelDevelopmentManager(context))
        make_job(context)
        run = Run(context)
        run.go_on(history)
        panel = TrainingPanel(training, "long-1")
        live = panel.live()
        sent: list[str] = []
        live.widget.send = lambda content, buffers=None: sent.append(json.dumps(content, separators=(",", ":")))
        sizes = []
        for _ in range(12):
            run.go_on(10)
            live.refresh()
            (message,) = sent
            sizes.append(len(message.encode()))
            assert "charts" not in json.loads(message)
            sent.clear()
        panel.close()

        assert max(sizes) <= 1024, sizes

    def test_a_curve_is_bounded(self, context: Context) -> None:
        """The whole state of a page that comes late to a long run."""
        training = TrainingManager(context, ModelDevelopmentManager(context))
        make_job(context)
        run = Run(context)
        run.go_on(30_000)
        panel = TrainingPanel(training, "long-1")
        charts = panel.charts(panel.snapshot())
        state = json.dumps([chart.to_dict() for chart in charts])

        assert len(state) < 60_000
        assert len(panel.to_html()) < 300_000


class TestOutput:
    """Printed lines: bounded on the disk, plain on the page."""

    @pytest.mark.parametrize(
        ("printed", "shown"),
        [
            ("\x1b[31mred\x1b[0m", "red"),
            ("\x1b]0;title\x07text", "text"),
            ("  0%|     |\r 50%|##   |\r100%|#####|", "100%|#####|"),
            ("a\tb", "a    b"),
            ("abc\b\bX", "aX"),
            ("\x00\x9b\u202e", "<U+0000><U+009B><U+202E>"),
            ("x" * 10_000_000, "x" * 500 + "… (10,000,000 characters)"),
            ("é" * 600, "é" * 500 + "… (600 characters)"),
        ],
    )
    def test_lines_are_plain(self, printed: str, shown: str) -> None:
        """No escape, no control character, no endless line."""
        assert plain_lines(printed) == [shown]

    def test_what_is_no_text_is_shown_as_such(self, tmp_path: Path) -> None:
        """Bytes that are no UTF-8."""
        (tmp_path / "log").write_bytes(bytes(range(256)) * 4 + b"\nend\n")

        assert tail(tmp_path / "log", 10)[-1] == "end"
        assert all(line.isprintable() for line in tail(tmp_path / "log", 10))

    def test_a_log_is_bounded_and_says_what_is_missing(self, tmp_path: Path) -> None:
        """However much is printed, the end stays, and the number of lines adds up."""
        log, number = tmp_path / "rank-0.log", 0
        with log.open("ab", buffering=0) as out:
            for _ in range(4):
                block = "".join(f"line {number + n}\n" for n in range(400_000)).encode()
                number += 400_000
                out.write(block)
                bound(log)
            out.write(b"the last\n")
        kept = sum(path.read_bytes().count(b"\n") for path in tmp_path.glob("rank-0.log*") if path.suffix != ".json")
        room = sum(path.stat().st_size for path in tmp_path.iterdir())

        assert room <= output.MOST_BYTES + output.KEPT_BYTES + 200
        assert kept + left_out(log).lines == number + 1
        assert tail(log, 2)[-2:] == [f"line {number - 1}", "the last"]
        assert tail(log, 2)[0] == f"[{left_out(log)}]"

    def test_a_heart_bounds_what_its_rank_prints(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """And beats: its process, its memory, its end."""
        monkeypatch.setattr(heartbeat, "BEAT_SECONDS", 0.01)
        (tmp_path / "output").mkdir()
        log = tmp_path / "output" / "rank-1.log"
        log.write_bytes(b"x" * 79 + b"\n")
        with log.open("ab", buffering=0) as out:
            out.write(b"0123456789\n" * 1_000_000)
            heart = Heart(tmp_path, 1, 3).start()
            deadline = time.monotonic() + 30
            while log.stat().st_size and time.monotonic() < deadline:
                time.sleep(0.01)
            assert log.stat().st_size == 0
            heart.stop()
        beat = read_beats(tmp_path)[1]

        assert (beat.rank, beat.attempt, beat.ended) == (1, 3, True)
        assert beat.memory_bytes > 1_000_000

    def test_new_lines_are_whole(self, tmp_path: Path) -> None:
        """What has no end yet waits for it; a log that was cut begins anew."""
        folder = JobFolder(tmp_path / "job")
        folder.make()
        log = folder.output_of(0)
        log.write_text("old\n")
        new = NewLines(folder, 1)
        with log.open("a") as out:
            out.write("one\ntw")
        assert list(new.read()) == ["one"]
        with log.open("a") as out:
            out.write("o\n")
        assert list(new.read()) == ["two"]
        log.write_text("new\nlast")

        assert list(new.read()) == ["new"]
        assert list(new.read(last=True)) == ["last"]


class TestTrouble:
    """What is wrong is said in one line."""

    def look(self, job: TrainingJob, **parts: Any) -> TrainingState:
        return TrainingState(job, parts.pop("progress", Progress(attempt=job.attempt)), now=1000.0, **parts)

    def test_a_rank_that_gives_no_sign(self, context: Context) -> None:
        """By its number, and for how long."""
        beats = {0: Beat(0, 1, 10, 999.5, 5_000_000), 1: Beat(1, 1, 11, 935.0, 6_000_000)}
        state = self.look(make_job(context), beats=beats)

        assert trouble_of(state) == "no sign of life from rank 1 for 1 min 5 s"
        assert "trouble: no sign of life from rank 1" in text(state)
        assert [row[5] for row in ranks_table(state)[1]] == ["now", "1 min 5 s ago"]
        assert ranks_table(state)[1][0][6] == "5 MB"

    def test_a_recovery_until_the_workers_are_back(self, context: Context) -> None:
        """From where it goes on, and why."""
        restart = Restart(attempt=1, at=context.clock.now(), why="a worker was killed", from_step=40)
        job = make_job(context, attempt=2, restarts=(restart,))
        state = self.look(job, progress=Progress(attempt=1))

        assert trouble_of(state) == "recovering: a worker was killed; goes on from step 40"
        assert state.word == "recovering"
        assert trouble_of(self.look(job, progress=Progress(attempt=2))) == ""

    def test_values_that_are_no_numbers(self, context: Context) -> None:
        """Counted, by metric: they have no place in the curves."""
        progress = Progress(attempt=1)
        event = {"kind": "metrics", "rank": 0, "time": 1.0, "epoch": 0, "step": 1, "values": {"f1": float("nan")}}
        progress.apply(event)

        assert trouble_of(self.look(make_job(context), progress=progress)) == "NaN or infinite: f1 once"

    def test_a_long_and_hostile_message_stays_one_short_line(self, context: Context) -> None:
        """Whatever a worker says."""
        progress = Progress(attempt=1)
        message = "bad\nthing \x1b[31m" + "y" * 5000
        progress.apply({"kind": "error", "rank": 1, "time": 1.0, "message": message})
        shown = text(self.look(make_job(context), progress=progress))

        assert all(len(line) < 1300 and line.isprintable() for line in shown.split("\n"))
        assert "note: rank 1: bad thing <U+001B>[31m" in shown


def test_the_list_says_how_far_each_is(context: Context) -> None:
    """State, progress, age and best metric."""
    job = make_job(context)
    standing = JobStanding(step=50, total_steps=200, best=("val_loss", 0.12345))
    shown = repr(JobList([job], {job.id: standing}, context.clock.now()))

    assert shown.splitlines()[1].split("  ")[0] == "long-1"
    for part in ("running", "25%, step 50 of 200", "0 s", "val_loss 0.1235"):
        assert part in shown


@pytest.mark.timeout(120)
def test_a_million_steps(context: Context) -> None:
    """A reader that comes late reads all of them, keeps few, and then only what is new."""
    training = TrainingManager(context, ModelDevelopmentManager(context))
    make_job(context)
    folder = JobFolder(context.folder("training", "jobs") / "long-1")
    folder.make()
    with folder.events_of(0).open("w") as out:
        out.write('{"kind":"started","attempt":1,"rank":0,"time":1.0,"world":1,"device":"cpu"}\n')
        for block in range(2000):
            rows = ",".join(f"[{step},{step % 1000 / 1000},16]" for step in range(block * 500 + 1, block * 500 + 501))
            out.write(f'{{"kind":"steps","attempt":1,"rank":0,"time":{2 + block},"epoch":0,"rows":[{rows}]}}\n')
    reader = training.progress("long-1")
    progress = reader.read()
    read = reader._reader.offsets["rank-0.jsonl"]

    assert progress.step == 1_000_000
    assert len(progress.loss_curve()) <= 402
    assert len(progress._pending) == 1
    assert read == folder.events_of(0).stat().st_size
    assert reader.read() is progress
