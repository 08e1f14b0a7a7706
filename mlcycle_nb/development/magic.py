"""``%experiment``, ``%runs``, ``%compare``, ``%comment`` and ``%model``: development, from a notebook."""

from __future__ import annotations

from typing import Any

from IPython.core.magic import line_magic, magics_class

from mlcycle_nb.development.model_verbs import VERB_NAMES, perform
from mlcycle_nb.errors import InvalidInput
from mlcycle_nb.notebook.arguments import argument, magic_arguments, output_options, parse
from mlcycle_nb.notebook.magics import StageMagics


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
    @argument("verb", nargs="?", default="list", choices=["list", "delete"], help="delete: a run that nobody refers to")
    @argument("run", nargs="?", help="with `delete`: id, the first characters of it, or name")
    @argument("--experiment", metavar="NAME", help="only runs of this experiment")
    @argument("--where", metavar="CONDITIONS", help='such as "metrics.val_accuracy > 0.9 and params.lr = 0.1"')
    @argument("--sort", metavar="FIELD", help="such as metrics.val_accuracy, the greatest first")
    @argument("--ascending", action="store_true", help="with --sort: the least first")
    @argument("--last", "--limit", dest="last", type=int, default=20, help="how many runs, newest or best first")
    @argument("--reason", default="", help="with `delete`: why, kept in the audit trail")
    @output_options
    @line_magic
    def runs(self, line: str) -> Any:
        """Show runs with their last metrics, filtered and sorted, or delete one.

        ``--into found`` and ``found.to_frame()`` give them as a pandas data frame.
        """
        from mlcycle_nb.development.panel import RunsPanel

        args = parse(self.runs, line)
        development = self.workspace.development
        if args.last < 1:
            raise InvalidInput("--last must be at least 1", value=args.last, where="%runs")
        if (args.verb == "delete") != (args.run is not None):
            raise InvalidInput("a run is named with delete, and only then", where="%runs", remedy="%runs delete RUN")
        if args.verb == "delete":
            gone = development.delete_run(args.run, reason=args.reason)
            return self.deliver(f"run {gone.facts['name']} ({gone.about[:8]}) {gone.told()}", args)
        panel = RunsPanel(
            development, args.experiment, args.last, where=args.where, sort=args.sort, ascending=args.ascending
        )
        panel.snapshot()  # refuse here, and not when the panel is drawn
        return self.deliver(panel, args)

    @magic_arguments()
    @argument("runs", nargs="+", metavar="RUN", help="ids, the first characters of ids, names, or NAME/VERSION")
    @output_options
    @line_magic
    def compare(self, line: str) -> Any:
        """Compare runs, or the runs that made versions: what differs, metrics with curves, data, packages, cells."""
        from mlcycle_nb.development.panel import ComparisonPanel

        args = parse(self.compare, line)
        panel = ComparisonPanel(self.workspace.development, args.runs)
        self.workspace.development.compare(args.runs)  # refuse here, and not when the panel is drawn
        return self.deliver(panel, args)

    @magic_arguments()
    @argument(
        "about", help="a run, NAME/VERSION or NAME@ALIAS; with --edit and --delete the comment, such as digits/3#1"
    )
    @argument("text", nargs="?", help="what you have to say, in quotes")
    @argument("--edit", metavar="TEXT", help="say your comment in other words")
    @argument("--delete", action="store_true", help="take the words of your comment away")
    @output_options
    @line_magic
    def comment(self, line: str) -> Any:
        """Comment on a run or a version; only the author of a comment changes or deletes it."""
        args = parse(self.comment, line)
        development = self.workspace.development
        if sum((args.text is not None, args.edit is not None, args.delete)) > 1:
            raise InvalidInput("a new text, --edit and --delete exclude each other", where="%comment")
        if args.delete:
            return self.deliver(development.delete_comment(args.about), args)
        if args.edit is not None:
            return self.deliver(development.edit_comment(args.about, args.edit), args)
        if args.text is None:
            raise InvalidInput("a text is missing", where="%comment", remedy='%comment digits/3 "text"')
        return self.deliver(development.comment(args.about, args.text), args)

    @magic_arguments()
    @argument("about", help="a run, NAME/VERSION, NAME@ALIAS, or NAME for all versions of a model")
    @output_options
    @line_magic
    def comments(self, line: str) -> Any:
        """Show who said what about a run, a version or a model, and when."""
        args = parse(self.comments, line)
        return self.deliver(self.workspace.development.comments(args.about), args)

    @magic_arguments()
    @argument("verb", nargs="?", default="list", choices=VERB_NAMES)
    @argument("model", nargs="?", help="NAME, NAME/VERSION or NAME@ALIAS")
    @argument("words", nargs="*", help="with `alias`, `unalias`: the alias; with `owner`, `reviewer`: people")
    @argument("--at", metavar="TIME", help="with `history`, `card`: 2026-01-31T12:00 (UTC), '2d ago', '... local'")
    @argument("--since", metavar="TIME", help="with `history`: list only changes from then on")
    @argument("--until", metavar="TIME", help="with `history`: up to then")
    @argument("--to", metavar="FILE", help="with `card`: write it, .md or .html")
    @argument("--check", metavar="FILE", help="with `card`: compare a card's file with what was recorded")
    @argument("--say", nargs=2, metavar=("TITLE", "TEXT"), help="with `card`: set a section, such as 'intended use'")
    @argument("--licence", "--license", metavar="SPDX", help="with `card`: such as Apache-2.0")
    @argument("--publish", action="store_true", help="with `card`: keep it with the run that made the version")
    @argument("--force", action="store_true", help="although somebody else owns the model; needs --reason")
    @argument("--reason", default="", help="why, kept in the audit trail")
    @output_options
    @line_magic
    def model(self, line: str) -> Any:
        """List models, show a version, move an alias, tell what a model was at a time, own it, describe it, delete it.

        ``%model alias digits/7 champion`` makes version 7 the champion; ``%model unalias digits champion`` takes the
        alias away; ``%model history digits --at 2026-01-31T12:00`` tells what each alias and each deployment was then;
        ``%model owner digits alice bob`` names owners; ``%model card digits/7`` shows the model card, ``--check FILE``
        compares one with the records; ``%model delete digits/3`` deletes what nobody refers to.
        """
        args = parse(self.model, line)
        return self.deliver(perform(self.workspace.development, args), args)
