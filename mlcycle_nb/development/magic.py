"""``%experiment``, ``%runs``, ``%compare`` and ``%model``: development, from a notebook."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from IPython.core.magic import line_magic, magics_class

from mlcycle_nb.errors import InvalidInput
from mlcycle_nb.notebook.arguments import argument, magic_arguments, output_options, parse
from mlcycle_nb.notebook.magics import StageMagics
from mlcycle_nb.references import ModelReference

if TYPE_CHECKING:
    from argparse import Namespace

_VERBS = ("list", "show", "alias", "unalias", "history")


@magics_class
class DevelopmentMagics(StageMagics):
    """Magics of the development stage."""

    @magic_arguments()
    @argument("name", nargs="?", help="experiment to select; without it, all experiments are listed")
    @output_options
    @line_magic
    def experiment(self, line: str) -> Any:
        """Select the experiment for the runs that follow, making it when there is none."""
        args = parse(self.experiment, line)
        development = self.workspace.development
        if args.name is None:
            return self.deliver(development.experiments(), args)
        return self.deliver(development.create_experiment(args.name), args)

    @magic_arguments()
    @argument("--experiment", metavar="NAME", help="only runs of this experiment")
    @argument("--last", type=int, default=20, help="how many runs, newest first")
    @output_options
    @line_magic
    def runs(self, line: str) -> Any:
        """Show the newest runs with their last metrics."""
        from mlcycle_nb.development.panel import RunsPanel

        args = parse(self.runs, line)
        if args.last < 1:
            raise InvalidInput("--last must be at least 1", value=args.last, where="%runs")
        return self.deliver(RunsPanel(self.workspace.development, args.experiment, args.last), args)

    @magic_arguments()
    @argument("runs", nargs="+", metavar="RUN", help="ids, the first characters of ids, or names of runs")
    @output_options
    @line_magic
    def compare(self, line: str) -> Any:
        """Compare runs: the parameters that differ, the metrics, and their curves."""
        from mlcycle_nb.development.panel import ComparisonPanel

        args = parse(self.compare, line)
        panel = ComparisonPanel(self.workspace.development, args.runs)
        self.workspace.development.compare(args.runs)  # refuse here, and not when the panel is drawn
        return self.deliver(panel, args)

    @magic_arguments()
    @argument("verb", nargs="?", default="list", choices=_VERBS)
    @argument("model", nargs="?", help="NAME, NAME/VERSION or NAME@ALIAS")
    @argument("alias", nargs="?", help="with `alias` and `unalias`: the alias, such as champion")
    @argument("--at", metavar="TIME", help="with `history`: a time such as 2026-01-31T12:00 (UTC unless it says)")
    @argument("--reason", default="", help="why, kept in the audit trail")
    @output_options
    @line_magic
    def model(self, line: str) -> Any:
        """List models, show a version, move an alias, or tell what a model was at a time.

        ``%model alias digits/7 champion`` makes version 7 the champion; ``%model unalias digits champion`` takes the
        alias away; ``%model history digits --at 2026-01-31T12:00`` tells what each alias was then.
        """
        from mlcycle_nb.development.panel import ModelPanel

        args = parse(self.model, line)
        development = self.workspace.development
        if args.verb == "list":
            return self.deliver(ModelPanel(development, args.model), args)
        if args.model is None:
            raise InvalidInput("a model is missing", where=f"%model {args.verb}", remedy="%model --help")
        if args.verb == "show":
            return self.deliver(development.get_version(args.model), args)
        if args.verb == "history":
            at = None if args.at is None else _moment(args.at)
            return self.deliver(development.history(ModelReference.parse(args.model).name, at), args)
        return self.deliver(self._alias(args), args)

    def _alias(self, args: Namespace) -> Any:
        if args.alias is None:
            raise InvalidInput(
                "an alias is missing", where=f"%model {args.verb}", remedy="%model alias digits/7 champion"
            )
        development = self.workspace.development
        if args.verb == "unalias":
            development.remove_alias(ModelReference.parse(args.model).name, args.alias, reason=args.reason)
            return f"{args.model} has no alias {args.alias} any more"
        version = development.get_version(args.model)
        return development.set_alias(version.name, args.alias, version.version, reason=args.reason)


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidInput("--at is not a time", value=text, where="%model", remedy="2026-01-31T12:00") from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
