"""Base of every stage's magics: the workspace, delivery of results, and registration with one error form."""

from __future__ import annotations

import functools
from argparse import Namespace
from collections.abc import Callable, Iterable
from typing import Any

from IPython.core.magic import Magics, no_var_expand

from mlcycle_nb.errors import MLCycleError
from mlcycle_nb.files import disk_trouble_told
from mlcycle_nb.notebook.arguments import HelpShown, check_length
from mlcycle_nb.notebook.handle import Handle
from mlcycle_nb.notebook.live import is_live

_CALLING_CELL = 2
"""Frames between a magic's wrapper and the cell that calls it: `$name` is looked up there."""


class StageMagics(Magics):
    """Magics of one stage.

    Parameters
    ----------
    shell : InteractiveShell
        The running IPython.
    open_workspace : callable
        Returns the workspace, opening it on first use.
    """

    def __init__(self, shell: Any, open_workspace: Callable[[], Any]) -> None:
        super().__init__(shell)
        self._open_workspace = open_workspace

    @property
    def workspace(self) -> Any:
        """The open workspace (`mlcycle_nb.workspace.Workspace`, which stands above this module)."""
        return self._open_workspace()

    def deliver(self, result: Any, args: Namespace) -> Any:
        """Return what the magic shows: binds ``--into NAME`` and ``_``, and honours ``--quiet``."""
        assert self.shell is not None
        if type(result) is str:
            from mlcycle_nb.notebook.html import Text

            result = Text(result)
        into = getattr(args, "into", None)
        if into:
            self.shell.user_ns[into] = result
        if getattr(args, "quiet", False):
            self.shell.user_ns["_"] = result
            return None
        return result

    def follow(self, handle: Handle[Any], args: Namespace) -> Any:
        """Deliver long work: return at once, or block until it has ended, showing it meanwhile.

        A live front end sees the panel move while the cell waits; a headless run gets the final panel.
        """
        assert self.shell is not None
        if not self.should_wait(args):
            return self.deliver(handle, args)
        if getattr(args, "into", None):
            self.shell.user_ns[args.into] = handle  # bound before waiting: an interrupt must not lose it
        if is_live() and not getattr(args, "quiet", False):
            from IPython.display import display

            display(handle)
            handle.wait()
            self.shell.user_ns["_"] = handle
            return None
        handle.wait()
        return self.deliver(handle, args)

    def should_wait(self, args: Namespace) -> bool:
        """Return whether to block: as asked, else only when nobody watches live."""
        return not is_live() if args.wait is None else bool(args.wait)


def register(shell: Any, stages: Iterable[StageMagics]) -> list[tuple[str, str]]:
    """Register magics so that every error of ours is one line and is noted as rejected; return (kind, name) pairs."""
    added = []
    for stage in stages:
        for kind, table in stage.magics.items():
            for name, function in table.items():
                wrapped = _guarded(function, name, stage)
                shell.register_magic_function(wrapped, magic_kind=kind, magic_name=name)
                added.append((kind, name))
    return added


def _guarded(function: Callable[..., Any], name: str, stage: StageMagics) -> Callable[..., Any]:
    @no_var_expand
    @functools.wraps(function)
    def run(line: str, *cell: str) -> Any:
        try:
            check_length(line, magic=f"%{name}")
            if "$" in line or "{" in line:
                # IPython would do this before us, in a time that grows with the square of the line's length.
                line = stage.shell.var_expand(line, depth=_CALLING_CELL)
            with disk_trouble_told():
                return function(line, *cell)
        except HelpShown as shown:
            print(shown)
            return None
        except MLCycleError as refused:
            _note_rejection(stage, name, refused)
            raise

    return run


def _note_rejection(stage: StageMagics, name: str, refused: MLCycleError) -> None:
    """Leave one audit entry of a refused call; a workspace that cannot be written must not hide the refusal."""
    try:
        context = stage.workspace.context
        with context.store.transaction(actor=context.actor) as transaction:
            transaction.note("rejected", subject=f"magic:{name}", detail={"error": str(refused)[:300]})
    except MLCycleError:
        return
