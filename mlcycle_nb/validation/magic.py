"""``%validate``: gates for a model version, from a notebook."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from IPython.core.magic import line_magic, magics_class

from mlcycle_nb.errors import InvalidInput, NotFound, did_you_mean
from mlcycle_nb.notebook.arguments import argument, magic_arguments, output_options, parse, wait_options
from mlcycle_nb.notebook.magics import StageMagics

if TYPE_CHECKING:
    from argparse import Namespace

    from mlcycle_nb.validation.data import ValidationData


@magics_class
class ValidationMagics(StageMagics):
    """Magics of the validation stage."""

    @magic_arguments()
    @argument("model", help="model version: NAME/VERSION or NAME@ALIAS")
    @argument("--gates", metavar="FILE", help="gates file (YAML)")
    @argument(
        "--data",
        metavar="NAME|FILE",
        help="a ValidationData, a data frame or (X, y) by name; or a csv, parquet or npz file",
    )
    @argument("--label", metavar="COLUMN", default="label", help="label column of a table")
    @argument(
        "--group", metavar="COLUMN", action="append", default=[], help="grouping column of a table; may be repeated"
    )
    @argument("--train", metavar="NAME|FILE", help="training rows, for the overlap check and the scale of noise")
    @argument("--seed", type=int, default=0, help="seed of resampling and noise")
    @argument("--report-html", metavar="FILE", help="also write the report as one HTML page (implies --wait)")
    @wait_options
    @output_options
    @line_magic
    def validate(self, line: str) -> Any:
        """Validate a model version by its gates; without --gates and --data show its newest verdict."""
        args = parse(self.validate, line)
        service = self.workspace.validation
        if args.gates is None and args.data is None:
            return self.deliver(self._newest(args.model), args)
        for option in ("gates", "data"):
            if getattr(args, option) is None:
                raise InvalidInput(f"needs --{option}", where="%validate", remedy="%validate --help")
        data = self._data(args)
        if args.report_html is None and not self.should_wait(args):
            return self.deliver(service.start_validation(args.model, args.gates, data, seed=args.seed), args)
        report = service.validate_model(args.model, args.gates, data, seed=args.seed)
        if args.report_html is not None:
            report.save(args.report_html)
        return self.deliver(report, args)

    def _newest(self, model: str) -> Any:
        report = self.workspace.validation.latest_verdict(model)
        if report is None:
            raise NotFound(
                "there is no verdict yet", value=model, remedy=f"%validate {model} --gates gates.yaml --data NAME"
            )
        return report

    def _data(self, args: Namespace) -> ValidationData:
        from mlcycle_nb.validation.tables import read_file

        if self._named(args.data) is not None:
            return self._from_notebook(args)
        path = self._path(args.data, "--data")
        train = None if args.train is None else self._path(args.train, "--train")
        return read_file(path, label=args.label, groups=args.group, train=train)

    def _from_notebook(self, args: Namespace) -> ValidationData:
        from mlcycle_nb.validation.data import ValidationData
        from mlcycle_nb.validation.tables import from_frame, read_table

        value = self._named(args.data)
        train = None
        if args.train is not None:
            train = self._named(args.train)
            if train is None:
                train = read_table(self._path(args.train, "--train"))
        if isinstance(value, ValidationData):
            if train is not None:
                return ValidationData(value.features, value.labels, value.groups, train, value.feature_names)
            return value
        if hasattr(value, "columns"):
            return from_frame(value, label=args.label, groups=args.group, train=train, where=args.data)
        if isinstance(value, tuple) and len(value) == 2:
            return ValidationData(value[0], value[1], train_features=train)
        raise InvalidInput(
            "is no validation data",
            value=f"{args.data}: {type(value).__name__}",
            remedy="give a ValidationData, a data frame with a label column, or a tuple (features, labels)",
        )

    def _named(self, name: str) -> Any:
        assert self.shell is not None
        return self.shell.user_ns.get(name) if name.isidentifier() else None

    def _path(self, text: str, option: str) -> Path:
        assert self.shell is not None
        path = Path(text).expanduser()
        if not path.exists():
            names = [name for name in self.shell.user_ns if not name.startswith("_")]
            near = did_you_mean(text, names)
            raise InvalidInput("is neither a name in this notebook nor a file", value=text, where=option, remedy=near)
        return path
