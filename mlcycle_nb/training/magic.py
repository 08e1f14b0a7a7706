"""``%%train`` and ``%train``: parse, call, return."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from IPython.core.magic import cell_magic, line_magic, magics_class

from mlcycle_nb.errors import InvalidInput
from mlcycle_nb.notebook.arguments import argument, magic_arguments, output_options, parse, wait_options
from mlcycle_nb.notebook.magics import StageMagics

if TYPE_CHECKING:
    from argparse import Namespace


@magics_class
class TrainingMagics(StageMagics):
    """The training stage's magics."""

    @magic_arguments("%%train")
    @argument("model", help="name of the model that the cell trains")
    @argument("--processes", type=int, default=1, help="worker processes (default 1)")
    @argument("--epochs", type=int, default=1, help="passes over the data (default 1)")
    @argument("--param", action="append", default=[], metavar="NAME=VALUE", help="a value for `params`; repeatable")
    @argument("--seed", type=int, default=0, help="seed of everything random (default 0)")
    @argument("--device", default="auto", help="auto, cpu or cuda")
    @argument("--mixed-precision", default="no", help="no, bf16 or fp16")
    @argument("--gradient-accumulation", type=int, default=1, help="batches for one optimizer step")
    @argument("--checkpoint-every", default="30s", help="steps (200) or time (30s), besides one after each epoch")
    @argument("--keep-last", type=int, default=2, help="newest checkpoints that stay")
    @argument("--keep-best", type=int, default=1, help="best checkpoints that stay")
    @argument("--restarts", type=int, default=5, help="crashes in a row that are recovered from")
    @argument("--register", action="store_true", help="package and register the model when it has been trained")
    @wait_options
    @output_options
    @cell_magic("train")
    def train_cell(self, line: str, cell: str) -> Any:
        """Train a model in worker processes outside the kernel.

        The cell may use whatever the notebook defines, and besides: fit(model, optimizer, train_loader, val_loader,
        loss=...), or accelerator, params, epochs(), batches(loader), log(...), checkpoint(...), save_model(...) for a
        loop of its own. Running the same cell again attaches to the running job.
        """
        from mlcycle_nb.training.submission import parse_params

        args = parse(self.train_cell, line)
        handle = self.workspace.training.train_model(
            args.model,
            self._source(cell),
            self._namespace(),
            processes=args.processes,
            epochs=args.epochs,
            params=parse_params(args.param),
            seed=args.seed,
            device=args.device,
            mixed_precision=args.mixed_precision,
            gradient_accumulation=args.gradient_accumulation,
            checkpoint_every=args.checkpoint_every,
            keep_last=args.keep_last,
            keep_best=args.keep_best,
            max_restarts=args.restarts,
            register=args.register,
        )
        if handle.attached:
            print(f"attached to running job {handle.id}")
        return self._follow(handle, args)

    @magic_arguments("%train")
    @argument("verb", nargs="?", default="list", help="list, attach, logs, stop or register (%%train trains a cell)")
    @argument("job", nargs="?", help="job id, or a model's name for its newest job")
    @argument("--rank", type=int, help="with logs: one rank only")
    @argument("--reason", default="", help="with stop: why")
    @wait_options
    @output_options
    @line_magic
    def train(self, line: str) -> Any:
        """List training jobs, attach to one, read its output, stop it, or register what it trained."""
        args = parse(self.train, line)
        training = self.workspace.training
        if args.verb == "list":
            from mlcycle_nb.training.listing import JobList

            return self.deliver(JobList(training.jobs(args.job)), args)
        verbs = {"attach": self._attach, "logs": self._logs, "stop": self._stop, "register": self._register}
        if args.verb not in verbs:
            raise InvalidInput(
                "unknown verb",
                value=args.verb,
                where="%train",
                remedy="use list, attach, logs, stop or register; %%train (two signs) trains the cell below it",
            )
        if args.job is None:
            raise InvalidInput(f"{args.verb} needs a job", where="%train", remedy="%train list shows them")
        return verbs[args.verb](args)

    # -- verbs -----------------------------------------------------------------------------------------------

    def _attach(self, args: Namespace) -> Any:
        return self._follow(self.workspace.training.attach(args.job), args)

    def _logs(self, args: Namespace) -> Any:
        from mlcycle_nb.training.listing import Text

        return self.deliver(Text(self.workspace.training.logs(args.job, rank=args.rank)), args)

    def _stop(self, args: Namespace) -> Any:
        training = self.workspace.training
        training.stop(args.job, reason=args.reason)
        return self._follow(training.attach(args.job), args)

    def _register(self, args: Namespace) -> Any:
        return self.deliver(self.workspace.training.register(args.job), args)

    # -- parts -----------------------------------------------------------------------------------------------

    def _follow(self, handle: Any, args: Namespace) -> Any:
        shown = self.follow(handle, args)
        if self.should_wait(args):
            from mlcycle_nb.training.handle import raise_if_failed

            raise_if_failed(handle.record)
        return shown

    def _source(self, cell: str) -> str:
        """Return the cell as Python whose line numbers count the magic's own line."""
        assert self.shell is not None
        if not cell.strip():
            return ""
        return "\n" + str(self.shell.transform_cell(cell))

    def _namespace(self) -> dict[str, Any]:
        assert self.shell is not None
        return dict(self.shell.user_ns)
