"""``%train logs --follow``: what a job prints, as it comes, until the job ends or the cell is interrupted."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mlcycle_nb.notebook.html import Printed
from mlcycle_nb.notebook.live import in_notebook, is_live

if TYPE_CHECKING:
    from mlcycle_nb.training.service import TrainingManager

_LOOK_SECONDS = 0.5
_MOST_LINES_LIVE = 200


def follow_logs(training: TrainingManager, job: str, *, rank: int | None, lines: int) -> Printed | None:
    """Show the output of a job while it comes.

    A live front end sees the last lines renewed twice a second in one place; a terminal gets each line; a headless
    notebook gets the last lines when the job has ended.

    Returns
    -------
    Printed or None
        What is left to be shown, for a headless notebook.
    """
    job = training.job(job).id
    text = Printed(training.logs(job, rank=rank, lines=lines))  # refuses a wrong rank before anything is shown
    if not in_notebook():
        print(text, flush=True)
        _until_it_ends(training, job, _printer(training, job, rank))
        return None
    if not is_live():
        _until_it_ends(training, job, lambda _: None)
        return Printed(training.logs(job, rank=rank, lines=lines))
    from IPython.display import display

    shown, last = display(text, display_id=True), text

    def renew(_: bool) -> None:
        nonlocal last
        now = Printed(training.logs(job, rank=rank, lines=min(lines, _MOST_LINES_LIVE)))
        if now != last:
            last = now
            shown.update(now)

    _until_it_ends(training, job, renew)
    return None


def _printer(training: TrainingManager, job: str, rank: int | None) -> Callable[[bool], None]:
    new = training.new_lines(job, rank=rank)

    def tell(last: bool) -> None:
        for line in new.read(last=last):
            print(line, flush=True)

    return tell


def _until_it_ends(training: TrainingManager, job: str, look: Callable[[bool], Any]) -> None:
    """Look twice a second, and once more when the job has ended."""
    try:
        while training.job(job).active:
            training.tend(job)
            look(False)
            time.sleep(_LOOK_SECONDS)
        look(True)
    except KeyboardInterrupt:
        print(f"no longer followed: {job} goes on")
