"""``%retire``: plan, execute and follow the retirement of a model version from a notebook."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from IPython.core.magic import line_magic, magics_class

from mlcycle_nb.errors import InvalidInput
from mlcycle_nb.notebook.arguments import argument, magic_arguments, output_options, parse, wait_options
from mlcycle_nb.notebook.magics import StageMagics

VERBS = (
    "plan",
    "execute",
    "status",
    "ack",
    "waive",
    "note",
    "handover",
    "cancel",
    "archive",
    "verify",
    "restore",
    "list",
)


@magics_class
class RetirementMagics(StageMagics):
    """Magics of the retirement stage."""

    @magic_arguments("%retire")
    @argument("verb", choices=VERBS, help="what to do")
    @argument("model", nargs="?", help="model version: NAME/VERSION or NAME@ALIAS, or a retirement's id")
    @argument("--env", metavar="ENV", help="environment; production when planning")
    @argument("--replacement", metavar="REF", help="plan: the version that takes over its address")
    @argument("--over", metavar="DURATION", default="28d", help="plan: from the announcement to the last step")
    @argument("--steps", default="75,50,25,0", help="plan: percents that the version keeps, falling to 0")
    @argument("--grace", metavar="DURATION", default="7d", help="plan: from tombstone to deletion")
    @argument("--notify", metavar="CHANNEL", action="append", default=[], help="plan: alert channel; may be repeated")
    @argument("--reason", metavar="TEXT", default="", help="plan, waive, cancel, archive, restore: why")
    @argument("--consumer", metavar="NAME", help="ack, waive: who")
    @argument("--by", metavar="PERSON", default="", help="ack, waive: who says so; you by default")
    @argument("--text", metavar="TEXT", default="", help="ack, note: what is said")
    @argument("--field", metavar="FIELD", help="note: migration, contact, lessons or open_issues")
    @argument("--timeout", metavar="SECONDS", type=float, default=120.0, help="how long to wait at most")
    @wait_options
    @output_options
    @line_magic
    def retire(self, line: str) -> Any:
        """Retire a model version: plan, execute, follow, cancel, verify or restore.

        A retirement tells the callers of the version's own address, ramps that address to the replacement over
        weeks, answers 410 with the successor, archives the version, proves the archive, and only then removes it.
        --wait blocks until all that is due now was done; then it waits for a later time, or for people.
        """
        args = parse(self.retire, line)
        if args.verb == "list":
            return self.deliver(Retirements(self.workspace.retirement.retirements(args.model)), args)
        if args.model is None:
            raise InvalidInput(
                f"needs NAME/VERSION{self._known()}", where=f"%retire {args.verb}", remedy="%retire --help"
            )
        return self.deliver(getattr(self, f"_{args.verb}")(args), args)

    def _plan(self, args: Namespace) -> Any:
        service = self.workspace.retirement
        record = service.plan_retirement(
            args.model,
            environment=args.env or "production",
            replacement=args.replacement,
            over=args.over,
            steps=args.steps,
            reason=args.reason,
            notify=args.notify,
            grace=args.grace,
        )
        return service.status(record.id)

    def _execute(self, args: Namespace) -> Any:
        return self._followed(self.workspace.retirement.execute_retirement(args.model, environment=args.env), args)

    def _status(self, args: Namespace) -> Any:
        service = self.workspace.retirement
        return self._followed(service.handle(service.find(args.model, args.env).id), args)

    def _ack(self, args: Namespace) -> Any:
        record = self.workspace.retirement.acknowledge(
            args.model, self._consumer(args), environment=args.env, by=args.by, note=args.text
        )
        return self.workspace.retirement.status(record.id)

    def _waive(self, args: Namespace) -> Any:
        record = self.workspace.retirement.waive(
            args.model, self._consumer(args), environment=args.env, by=args.by, reason=args.reason
        )
        return self.workspace.retirement.status(record.id)

    def _note(self, args: Namespace) -> Any:
        if args.field is None:
            raise InvalidInput(
                "needs --field", where="%retire note", remedy="migration, contact, lessons or open_issues"
            )
        record = self.workspace.retirement.note(args.model, args.field, args.text, environment=args.env)
        return self.workspace.retirement.status(record.id)

    def _handover(self, args: Namespace) -> Any:
        return Document(self.workspace.retirement.handover(args.model, environment=args.env))

    def _cancel(self, args: Namespace) -> Any:
        handle = self.workspace.retirement.cancel(args.model, reason=args.reason, environment=args.env)
        return self._followed(handle, args)

    def _archive(self, args: Namespace) -> Any:
        return self.workspace.retirement.rearchive(args.model, reason=args.reason, environment=args.env)

    def _verify(self, args: Namespace) -> Any:
        return self.workspace.retirement.verify(args.model, environment=args.env)

    def _restore(self, args: Namespace) -> Any:
        handle = self.workspace.retirement.restore(args.model, reason=args.reason, environment=args.env)
        return self._followed(handle, args)

    def _followed(self, handle: Any, args: Namespace) -> Any:
        # Weeks pass before it ends: what is waited for is that all that is due now was done.
        if self.should_wait(args):
            self.workspace.retirement.settle(handle.id, timeout=args.timeout)
        return handle

    def _consumer(self, args: Namespace) -> str:
        if args.consumer is None:
            raise InvalidInput(
                "needs --consumer", where=f"%retire {args.verb}", remedy="%retire status shows who called"
            )
        return str(args.consumer)

    def _known(self) -> str:
        development = self.workspace.development
        known = [version.reference for model in development.models() for version in development.versions(model)]
        return f"; known: {', '.join(known[:10])}" if known else ""


class Document(str):
    """Markdown that a notebook renders."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)

    def _repr_markdown_(self) -> str:
        return str(self)


class Retirements(list[Any]):
    """Retirements as a table."""

    _HEADERS = ("id", "phase", "replacement", "keeps", "reason")

    def _rows(self) -> list[tuple[str, ...]]:
        return [(r.id, r.phase, r.replacement or "none", f"{r.share / 100:g} %", r.reason) for r in self]

    def __repr__(self) -> str:
        from mlcycle_nb.notebook.html import text_table

        return text_table(self._HEADERS, self._rows())

    def _repr_html_(self) -> str:
        from mlcycle_nb.notebook.html import table

        return table(self._HEADERS, self._rows())
