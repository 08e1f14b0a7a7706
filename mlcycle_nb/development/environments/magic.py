"""``%environment``: parse, call, return."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from IPython.core.magic import line_magic, magics_class

from mlcycle_nb.errors import InvalidInput
from mlcycle_nb.notebook.arguments import argument, magic_arguments, output_options, parse, wait_options
from mlcycle_nb.notebook.html import Printed, Text
from mlcycle_nb.notebook.magics import StageMagics

if TYPE_CHECKING:
    from argparse import Namespace

_VERBS = ("list", "create", "show", "lock", "log", "rebuild", "delete")


@magics_class
class EnvironmentMagics(StageMagics):
    """The magic of isolated environments."""

    @magic_arguments()
    @argument("verb", nargs="?", default="list", choices=_VERBS)
    @argument("name", nargs="?", help="name of the environment")
    @argument("--package", nargs="+", action="extend", default=[], metavar="REQUIREMENT", help="such as numpy==2.1")
    @argument("--requirements", metavar="FILE", help="a file of requirements, one a line")
    @argument("--from-lock", metavar="FILE", help="a lock, or what pip freeze printed")
    @argument("--inherit", action="store_true", help="what is installed here can be imported there too")
    @argument("--find-links", action="append", default=[], metavar="DIR", help="a folder of wheels; repeatable")
    @argument("--no-index", action="store_true", help="use nothing but --find-links")
    @argument("--out", metavar="FILE", help="with lock: the file to write")
    @argument("--reason", default="", help="with delete: why, kept in the audit trail")
    @wait_options
    @output_options
    @line_magic
    def environment(self, line: str) -> Any:
        """Make a virtual environment with a kernel of its own, look at it, lock it, build it again, delete it.

        ``%environment create old --package numpy==1.26`` makes one; ``%%train MODEL --environment old`` trains in it.
        """
        args = parse(self.environment, line)
        environments = self.workspace.development.environments
        if args.verb == "list":
            from mlcycle_nb.development.environments.handle import EnvironmentList

            return self.deliver(EnvironmentList(environments.all()), args)
        if args.name is None:
            raise InvalidInput("a name is missing", where=f"%environment {args.verb}", remedy="%environment --help")
        return getattr(self, f"_{args.verb}")(args)

    # -- verbs -------------------------------------------------------------------------------------------------

    def _create(self, args: Namespace) -> Any:
        handle = self.workspace.development.environments.create(
            args.name,
            args.package,
            requirements=args.requirements,
            from_lock=args.from_lock,
            inherit=args.inherit,
            find_links=args.find_links,
            no_index=args.no_index,
        )
        return self._follow(handle, args)

    def _show(self, args: Namespace) -> Any:
        return self.follow(self.workspace.development.environments.attach(args.name), args)

    def _rebuild(self, args: Namespace) -> Any:
        return self._follow(self.workspace.development.environments.rebuild(args.name), args)

    def _lock(self, args: Namespace) -> Any:
        text = str(self.workspace.development.environments.lock(args.name))
        if args.out is None:
            return self.deliver(Text(text), args)
        path = Path(args.out).expanduser()
        if path.is_dir() or not path.parent.is_dir():
            raise InvalidInput("not a file that can be written", value=args.out, where="%environment lock --out")
        path.write_text(text)
        return self.deliver(path, args)

    def _log(self, args: Namespace) -> Any:
        return self.deliver(Printed(self.workspace.development.environments.log(args.name)), args)

    def _delete(self, args: Namespace) -> Any:
        self.workspace.development.environments.delete(args.name, reason=args.reason)
        return self.deliver(f"environment {args.name} is deleted", args)

    def _follow(self, handle: Any, args: Namespace) -> Any:
        shown = self.follow(handle, args)
        if self.should_wait(args):
            from mlcycle_nb.development.environments.handle import raise_if_failed

            raise_if_failed(handle.record)
        return shown
