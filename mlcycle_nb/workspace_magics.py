"""``%mlcycle`` and ``%audit``: the workspace as a whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from IPython.core.magic import line_magic, magics_class

from mlcycle_nb.errors import InvalidInput, Refused
from mlcycle_nb.notebook.arguments import argument, magic_arguments, output_options, parse
from mlcycle_nb.notebook.magics import StageMagics
from mlcycle_nb.references import parse_duration


@magics_class
class WorkspaceMagics(StageMagics):
    """The workspace's own magics."""

    @magic_arguments("%mlcycle")
    @argument("verb", nargs="?", default="status", choices=["status", "doctor", "down", "clock"])
    @argument(
        "--advance", metavar="DURATION", help="with `clock`: let this much time pass (workspace.clock = 'offset')"
    )
    @output_options
    @line_magic
    def mlcycle(self, line: str) -> Any:
        """Show what is alive, examine the installation, or stop all that this workspace started."""
        args = parse(self.mlcycle, line)
        if args.verb == "status":
            return self.deliver(self.workspace.status(), args)
        if args.verb == "doctor":
            return self.deliver(self.workspace.doctor(), args)
        if args.verb == "down":
            return self.deliver(Stopped(self.workspace.down()), args)
        return self.deliver(self._advance(args.advance), args)

    def _advance(self, duration: str | None) -> str:
        clock = self.workspace.clock
        if duration is None:
            return str(clock.now())
        if not hasattr(clock, "offset_seconds"):
            raise Refused(
                "this workspace runs on the machine's clock",
                remedy="rehearse in a workspace of its own: set MLCYCLE_CLOCK=offset before you open it",
            )
        length = parse_duration(duration, what="--advance")
        context = self.workspace.context
        with context.store.transaction(actor=context.actor) as transaction:
            transaction.note("clock.advanced", subject="workspace:clock", detail={"by": duration})
        clock.advance(length)
        return f"the workspace's clock went forward by {duration}"

    @magic_arguments("%audit")
    @argument("verb", nargs="?", default="verify", choices=["verify", "show", "export"])
    @argument("--subject", help="with `show`: only entries about this subject, such as rollout:...")
    @argument("--last", type=int, default=20, help="with `show`: how many entries")
    @argument("--to", metavar="FILE", help="with `export`: the file to write")
    @output_options
    @line_magic
    def audit(self, line: str) -> Any:
        """Verify, show or export the audit trail."""
        from mlcycle_nb.store.audit import events, export

        args = parse(self.audit, line)
        store = self.workspace.store
        if args.verb == "verify":
            return self.deliver(self.workspace.verify_audit(), args)
        if args.verb == "show":
            return self.deliver(Events(events(store, subject=args.subject, limit=args.last)), args)
        if not args.to:
            raise InvalidInput("--to FILE is missing", where="%audit export")
        target = Path(args.to)
        target.write_text(json.dumps(export(store), indent=1))
        return self.deliver(f"exported to {target}", args)


class Stopped(list[str]):
    """Names of the processes that were stopped."""

    def __repr__(self) -> str:
        return f"stopped {len(self)} processes" + (f": {', '.join(self)}" if self else "")


class Events(list[dict[str, Any]]):
    """Audit entries as a table."""

    def _rows(self) -> list[tuple[str, ...]]:
        return [(str(e["sequence"]), e["time"][:19], e["actor"], e["event"], e["subject"], e["reason"]) for e in self]

    def __repr__(self) -> str:
        from mlcycle_nb.notebook.html import text_table

        return text_table(("#", "time", "actor", "event", "subject", "reason"), self._rows())

    def _repr_html_(self) -> str:
        from mlcycle_nb.notebook.html import table

        return table(("#", "time", "actor", "event", "subject", "reason"), self._rows())
