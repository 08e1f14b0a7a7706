"""Handles: waiting ends with the work, with the time, or with an interrupt that stops only the waiting."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable

import pytest

from mlcycle_nb.errors import WaitTimeout
from mlcycle_nb.notebook import handle as handle_module
from mlcycle_nb.notebook.handle import Handle

pytestmark = pytest.mark.timeout(30)


class Work:
    """Work that has ended after it was read a number of times."""

    def __init__(self, reads: int) -> None:
        self.left = reads
        self.read_by: set[str] = set()

    def read(self) -> str:
        self.read_by.add(threading.current_thread().name)
        self.left -= 1
        return f"step {max(self.left, 0)}"

    def handle(self, **options: Callable[[], None]) -> Handle[str]:
        return Handle("job:1", self.read, lambda record: record == "step 0", **options)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handle_module, "_POLL_SECONDS", 0.001)


def test_waiting_returns_the_last_record() -> None:
    """And tells of each state in between."""
    seen: list[str] = []

    assert Work(4).handle().wait(on_change=seen.append) == "step 0"
    assert seen == ["step 3", "step 2", "step 1", "step 0"]


def test_a_time_limit() -> None:
    """The work goes on, and the error says so; with no time at all the record is still read once."""
    work = Work(10**9)

    with pytest.raises(WaitTimeout, match=r"job:1 has not ended within 0\.01 s; it goes on - wait again"):
        work.handle().wait(timeout=0.01)
    assert Work(1).handle().wait(timeout=0) == "step 0"


def test_an_interrupt_detaches(capsys: pytest.CaptureFixture[str]) -> None:
    """The notebook's stop button ends the waiting; nothing is raised, and the record is returned."""

    class Interrupted(Work):
        def read(self) -> str:
            record = super().read()
            if self.left == 10**9 - 3:  # once, in the middle of the waiting
                os.kill(os.getpid(), signal.SIGINT)
            return record

    record = Interrupted(10**9).handle().wait()

    assert record.startswith("step ")
    assert "detached from job:1: it goes on" in capsys.readouterr().out


def test_it_can_be_awaited() -> None:
    """Without holding up the event loop: reading happens in another thread."""
    work = Work(3)

    async def main() -> tuple[str, int]:
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        other = asyncio.create_task(count())
        record = await work.handle()
        other.cancel()
        return record, turns

    record, turns = asyncio.run(main())

    assert record == "step 0"
    assert turns > 3
    assert threading.current_thread().name not in work.read_by


def test_a_condition_can_be_waited_for() -> None:
    """Any, within a time."""
    assert Work(9).handle().wait_for(lambda record: record == "step 5") == "step 5"
    with pytest.raises(WaitTimeout, match="did not hold within"):
        Work(9).handle().wait_for(lambda record: record == "never", timeout=0.01)


def test_what_the_work_needs_is_sustained_while_somebody_waits() -> None:
    """About once a second, however often the record is read."""
    calls: list[int] = []
    Work(20).handle(sustain=lambda: calls.append(1)).wait()

    assert calls == [1]


def test_the_record_is_read_anew() -> None:
    """A handle keeps no state of its own."""
    handle = Work(3).handle()

    assert (handle.record, handle.done, handle.done) == ("step 2", False, True)


def test_without_a_panel_it_is_its_name() -> None:
    """In text and in a notebook."""
    handle = Work(3).handle()

    assert repr(handle) == "Handle job:1"
    assert handle._repr_mimebundle_() == {"text/plain": "Handle job:1"}
