"""Data workers that die: the batches they owed are fetched again, by new ones.

torch raises in the main thread the moment a data worker dies, in the middle of an update if that is where it stands,
and half an update cannot be saved. Here the death is noticed where the next batch is asked for. Batches are known from
the seed and the position alone, so new workers give the very ones that were owed.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from mlcycle_nb.training.stop_watch import HEEDED

if TYPE_CHECKING:
    from mlcycle_nb.training.session import TrainingSession

_LOST_IN_A_ROW = 3
_DYING_SECONDS = 2.0


def kept_up(session: TrainingSession, batches: Iterator[Any], again: Callable[[], Iterator[Any]]) -> Iterator[Any]:
    """Yield `batches`, and those that are owed from what `again` returns: it begins where training stands.

    A worker that was killed is replaced, up to three times without a batch in between. One that was ended by a signal
    that asks for the end asks the whole job.
    """
    lost = 0
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except (RuntimeError, OSError, EOFError) as failure:  # what a batch on its way gives when its sender dies
            codes = _exit_codes(batches, wait=not isinstance(failure, RuntimeError))
            if not codes or lost >= _LOST_IN_A_ROW:
                raise
            lost += 1
            told = [-code for code in codes if -code in HEEDED]
            name = _signal_name(-codes[0]) if codes[0] < 0 else f"exit status {codes[0]}"
            session.events.write("data_worker_lost", step=session.step, epoch=session.epoch, cause=name)
            if told and session.stop_watch is not None:
                session.stop_watch.ask(f"{_signal_name(told[0])} to a data worker")
            batches = again()
            continue
        lost = 0
        yield batch


def raise_only_when_asked() -> None:
    """Keep torch from raising at the moment a data worker dies; called before the first of them is started."""
    from torch.utils.data._utils import signal_handling

    signal_handling._SIGCHLD_handler_set = True


def _exit_codes(batches: Any, *, wait: bool) -> list[int]:
    """Return how the workers of an iterator ended that did; one whose connection broke may be about to."""
    workers = list(getattr(batches, "_workers", ()))
    deadline = time.monotonic() + _DYING_SECONDS
    while wait and time.monotonic() < deadline and all(each.exitcode is None for each in workers):
        time.sleep(0.01)
    return [each.exitcode for each in workers if each.exitcode]


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
