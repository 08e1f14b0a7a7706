"""The handle, the panel and the magic of running a run again."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from IPython.core.magic import line_magic, magics_class

from mlcycle_nb.development.reproduce.report import Reproduction
from mlcycle_nb.notebook.arguments import argument, magic_arguments, output_options, parse, wait_options
from mlcycle_nb.notebook.handle import Handle
from mlcycle_nb.notebook.html import heading, paragraph
from mlcycle_nb.notebook.magics import StageMagics
from mlcycle_nb.notebook.panel import Panel

if TYPE_CHECKING:
    from mlcycle_nb.training.service import TrainingManager


class ReproductionHandle(Handle[Reproduction]):
    """A run that is run again: its record is the report, which is ``running`` until it can be judged."""

    def __init__(
        self,
        name: str,
        read: Callable[[], Reproduction],
        *,
        step: Callable[[], str] = str,
        sustain: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(
            name,
            read=read,
            done=lambda report: report.verdict != "running",
            panel=lambda: ReproductionPanel(name, read, step),
            sustain=sustain,
        )


class ReproductionPanel(Panel[Reproduction]):
    """What came out, or how far it is."""

    def __init__(self, name: str, read: Callable[[], Reproduction], step: Callable[[], str]) -> None:
        super().__init__()
        self._name, self._read, self._step = name, read, step

    def title(self) -> str:
        return f"running {self._name} again"

    def snapshot(self) -> Reproduction:
        return self._read()

    def finished(self, state: Reproduction) -> bool:
        return state.verdict != "running"

    def text(self, state: Reproduction) -> str:
        return repr(state) if self.finished(state) else f"{self.title()}: {self._step()}"

    def html(self, state: Reproduction) -> str:
        if self.finished(state):
            return state._repr_html_()
        return heading(self.title(), "running") + paragraph(self._step())


def begin(training: TrainingManager, reference: str, *, strict: bool = False) -> ReproductionHandle:
    """Run a run or a training job again; see `TrainingManager.reproduce`."""
    reproductions = training.reproductions
    job = reproductions.find(reference)
    if job is None:
        report = training.development.reproduce(reference, strict=strict)
        return ReproductionHandle(reference, lambda: report)
    begun = reproductions.begin(job, strict=strict)
    if isinstance(begun, Reproduction):
        return ReproductionHandle(reference, lambda: begun)
    again = begun.id

    def step() -> str:
        progress = training.progress(again).read()
        return f"job {again} is {training.job(again).phase}, at step {progress.step}"

    return ReproductionHandle(
        reference,
        lambda: reproductions.report(training.job(again)),
        step=step,
        sustain=lambda: training.tend(again),
    )


@magics_class
class ReproduceMagics(StageMagics):
    """The magic that runs a run again."""

    @magic_arguments()
    @argument("run", help="id, first characters of the id, or name of a run; or a training job")
    @argument("--strict", action="store_true", help="refuse when the installed packages differ from the recorded ones")
    @wait_options
    @output_options
    @line_magic
    def reproduce(self, line: str) -> Any:
        """Run a run again from what was recorded of it, in its recorded environment, and compare bit for bit.

        A training job runs again from its own copy of the cell and the data, as a new job. A run that the notebook
        itself made runs again from the recorded cells, in a fresh process with a workspace that is thrown away. The
        verdict is reproduced, differs or cannot, and stays with the new run.
        """
        args = parse(self.reproduce, line)
        return self.follow(self.workspace.training.reproduce(args.run, strict=args.strict), args)
