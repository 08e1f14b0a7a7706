"""``%lifecycle`` and ``%approve``: the whole life of a model, from a notebook."""

from __future__ import annotations

from typing import Any

from IPython.core.magic import line_magic, magics_class

from mlcycle_nb.errors import InvalidInput
from mlcycle_nb.notebook.arguments import argument, magic_arguments, output_options, parse
from mlcycle_nb.notebook.magics import StageMagics


@magics_class
class LifecycleMagics(StageMagics):
    """Magics of the life cycle."""

    @magic_arguments()
    @argument("verb", nargs="?", default="list", choices=["create", "status", "advance", "history", "list"])
    @argument("name", nargs="?", help="of the lifecycle; the model's name is a good one")
    @argument("--model", help="with `create`: the model, when it has another name")
    @argument("--env", dest="environment", default="production", help="with `create`: where it leads")
    @argument("--purpose", default="", help="with `create`: what the model is for")
    @argument("--to", metavar="STAGE", help="with `advance`: the stage; the next one by default")
    @argument("--version", type=int, help="with `advance` to validation: the version; the newest by default")
    @argument("--force", action="store_true", help="go on against a gate that has not passed; needs --reason")
    @argument("--reason", default="", help="why, kept in the audit trail")
    @output_options
    @line_magic
    def lifecycle(self, line: str) -> Any:
        """Create a lifecycle, show it, move it to a stage, or tell what happened to it."""
        from mlcycle_nb.lifecycle.panel import LifecyclePanel

        args = parse(self.lifecycle, line)
        service = self.workspace.lifecycle
        if args.verb == "list":
            return self.deliver(Lifecycles(service.get_lifecycle_status(r.id) for r in service.lifecycles()), args)
        if args.name is None:
            raise InvalidInput("a name is missing", where=f"%lifecycle {args.verb}", remedy="%lifecycle --help")
        if args.verb == "create":
            service.create_model_lifecycle(
                args.name, model=args.model, environment=args.environment, purpose=args.purpose
            )
        elif args.verb == "advance":
            service.progress_to_stage(args.name, args.to, version=args.version, force=args.force, reason=args.reason)
        elif args.verb == "history":
            return self.deliver(service.history(args.name), args)
        else:
            service.get_lifecycle_status(args.name)  # refuse here, and not when the panel is drawn
        return self.deliver(LifecyclePanel(service, args.name), args)

    @magic_arguments()
    @argument("model", help="NAME/VERSION or NAME@ALIAS")
    @argument("--stage", metavar="ENV", default="production", help="the environment it may go to")
    @argument("--withdraw", action="store_true", help="take the approval back; needs --reason")
    @argument("--reason", default="", help="why, kept in the audit trail")
    @output_options
    @line_magic
    def approve(self, line: str) -> Any:
        """Approve a validated model version for an environment, or take the approval back."""
        args = parse(self.approve, line)
        approvals = self.workspace.lifecycle.approvals
        if args.withdraw:
            taken = approvals.withdraw(args.model, args.stage, reason=args.reason)
            return self.deliver(f"{len(taken)} approval{'s' * (len(taken) != 1)} taken back", args)
        return self.deliver(approvals.approve(args.model, args.stage, reason=args.reason), args)


class Lifecycles(list[Any]):
    """The lifecycles of a workspace, a line each."""

    def __repr__(self) -> str:
        return "\n".join(status.summary() for status in self) or "no lifecycles yet"
