"""``%monitor``, ``%alerts``, ``%silence``, ``%maintenance`` and ``%label``."""

from __future__ import annotations

from typing import Any

from IPython.core.magic import line_magic, magics_class

from mlcycle_nb.errors import InvalidInput
from mlcycle_nb.notebook.arguments import argument, magic_arguments, output_options, parse
from mlcycle_nb.notebook.magics import StageMagics
from mlcycle_nb.references import parse_duration


@magics_class
class MonitoringMagics(StageMagics):
    """Magics of the monitoring stage."""

    @magic_arguments("%monitor")
    @argument("model", help="name of a deployed model; all its versions are watched")
    @argument("--env", default="production", help="environment")
    @argument("--window", type=int, help="served rows in a window; each full one gets a verdict (default 100)")
    @argument("--detector", action="append", metavar="NAME", help="detector plug-in, may be repeated; default auto")
    @argument("--categorical", action="append", metavar="FEATURE", help="take this feature for categories")
    @argument("--channel", action="append", metavar="NAME", help="where alerts go, may be repeated")
    @argument("--confirm", type=int, metavar="N", help="drifted windows in a row before an alert fires (default 1)")
    @argument("--since", default="now", help="now, beginning, or a duration such as 15m")
    @argument("--replay", metavar="RECORDED", help="only say what it would have found in 24h, or in a recording")
    @argument("--repeat", default="4h", metavar="DURATION", help="a firing alert is told again after this")
    @argument("--group-by", default="kind", metavar="WHAT", help="alerts that share messages: of one kind, or service")
    @argument("--group", default="5m", metavar="DURATION", help="least time between two messages about one group")
    @argument(
        "--on-alert",
        action="extend",
        nargs="+",
        default=[],
        metavar="KIND=ACTION",
        help="what a firing alert does, once: pause, rollback or retrain; such as accuracy=rollback drift=retrain",
    )
    @argument("--wait-windows", type=int, metavar="N", help="block until N windows have been judged")
    @argument("--timeout", default="10m", help="with --wait-windows: how long at most")
    @argument("--show", action="store_true", help="only show the monitor that there is")
    @argument("--stop", action="store_true", help="end the watching")
    @output_options
    @line_magic
    def monitor(self, line: str) -> Any:
        """Watch a deployed model for drift: one verdict for each full window of served rows."""
        args = parse(self.monitor, line)
        monitoring = self.workspace.monitoring
        if args.wait_windows is not None and args.wait_windows < 1:
            raise InvalidInput("--wait-windows must be at least 1", value=args.wait_windows, where="%monitor")
        if args.replay is not None:
            clash = _first_given(args, ("stop", "show", "wait_windows", "channel"))
            if clash or args.since != "now":
                raise InvalidInput(f"--replay goes without --{clash or 'since'}", where="%monitor")
            found = monitoring.replay(
                args.model,
                args.replay,
                environment=args.env,
                window=args.window,
                detectors=args.detector,
                categorical=args.categorical,
                confirm_windows=args.confirm,
            )
            return self.deliver(found, args)
        if args.stop:
            monitoring.stop_monitoring(args.model, environment=args.env)
            return self.deliver(monitoring.panel(args.model, environment=args.env), args)
        if args.show:
            handle = monitoring.monitor(args.model, environment=args.env)
        else:
            handle = monitoring.start_monitoring(
                args.model,
                environment=args.env,
                window=100 if args.window is None else args.window,
                detectors=args.detector or "auto",
                categorical=args.categorical or (),
                channels=args.channel,
                confirm_windows=1 if args.confirm is None else args.confirm,
                since=args.since,
                repeat=args.repeat,
                group_by=args.group_by,
                group=args.group,
                on_alert=args.on_alert,
            )
        if args.wait_windows is not None:
            handle.wait_windows(args.wait_windows, parse_duration(args.timeout, what="--timeout").total_seconds())
        return self.deliver(handle, args)

    @magic_arguments("%alerts")
    @argument("verb", nargs="?", default="list", choices=["list", "ack", "resolve", "actions"])
    @argument("alert", nargs="?", help="with ack and resolve: which one")
    @argument("--model", help="only alerts of this model")
    @argument("--env", help="only alerts of this environment")
    @argument("--all", action="store_true", help="also those that are over")
    @argument("--reason", default="", help="with ack and resolve: why")
    @output_options
    @line_magic
    def alerts(self, line: str) -> Any:
        """List alerts and what they did, take one on, or say that its trouble is over."""
        from mlcycle_nb.monitoring.listings import AlertActions, Alerts

        args = parse(self.alerts, line)
        monitoring = self.workspace.monitoring
        if args.verb == "list":
            found = monitoring.alerts(args.model, environment=args.env, open_only=not args.all)
            return self.deliver(Alerts(found), args)
        if args.verb == "actions":
            taken = monitoring.alert_actions(args.model, environment=args.env or "production")
            return self.deliver(AlertActions(taken), args)
        if args.alert is None:
            known = ", ".join(one.id for one in monitoring.alerts(open_only=True)) or "none is open"
            raise InvalidInput("which alert is missing", where=f"%alerts {args.verb}", remedy=f"open: {known}")
        act = monitoring.acknowledge if args.verb == "ack" else monitoring.resolve
        return self.deliver(Alerts([act(args.alert, reason=args.reason)]), args)

    @magic_arguments("%silence")
    @argument("model", nargs="?", help="name of the model; without it, the silences in force are listed")
    @argument("--env", default="production", help="environment")
    @argument("--for", dest="duration", metavar="DURATION", help="how long, such as 2h")
    @argument("--kind", default="", help="only this kind of alert, such as data_drift")
    @argument("--reason", default="", help="why nobody is to be told")
    @argument("--end", metavar="ID", help="end this silence now")
    @output_options
    @line_magic
    def silence(self, line: str) -> Any:
        """Keep a model's alerts untold for a while; they are recorded all the same."""
        from mlcycle_nb.monitoring.listings import Silences

        args = parse(self.silence, line)
        monitoring = self.workspace.monitoring
        if args.end:
            return self.deliver(Silences([monitoring.end_silence(args.end)]), args)
        if args.model is None:
            return self.deliver(Silences(monitoring.silences()), args)
        if args.duration is None:
            raise InvalidInput("--for DURATION is missing", where="%silence", remedy="write such as --for 2h")
        made = monitoring.silence(
            args.model, environment=args.env, duration=args.duration, kind=args.kind, reason=args.reason
        )
        return self.deliver(Silences([made]), args)

    @magic_arguments("%maintenance")
    @argument("model", nargs="?", default="", help="name of the model; without it, all of the environment")
    @argument("--env", default="production", help="environment")
    @argument("--at", metavar="TIME", help="begin: 2027-01-31T22:00 for once, 02:00 with --every; without it, list all")
    @argument("--for", dest="duration", metavar="DURATION", help="how long, such as 2h")
    @argument("--every", default="", metavar="DAYS", help="sun, mon,thu, day, weekday, weekend, or 1. of the month")
    @argument("--zone", default="UTC", metavar="ZONE", help="time zone of --at, such as Europe/Berlin")
    @argument("--kind", default="", help="only this kind of alert, such as data_drift")
    @argument("--reason", default="", help="what is being done")
    @argument("--end", metavar="ID", help="end this one for good")
    @output_options
    @line_magic
    def maintenance(self, line: str) -> Any:
        """Plan when alerts are neither told nor acted on, once or again and again; they are recorded all the same."""
        from mlcycle_nb.monitoring.command import maintain

        args = parse(self.maintenance, line)
        return self.deliver(maintain(self.workspace, args, where="%maintenance"), args)

    @magic_arguments("%label")
    @argument("model", help="name of the model")
    @argument("--from", dest="file", metavar="FILE", help="CSV with prediction_id,label and, if needed, row and at")
    @argument("--env", default="production", help="environment")
    @output_options
    @line_magic
    def label(self, line: str) -> Any:
        """Record labels that came late, and show how good each version was."""
        from mlcycle_nb.monitoring.listings import Performances

        args = parse(self.label, line)
        if args.file is None:
            known = self.workspace.monitoring.performance(args.model, environment=args.env)
            return self.deliver(Performances(known), args)
        found = self.workspace.monitoring.record_labels(args.model, args.file, environment=args.env)
        return self.deliver(Performances(found), args)


def _first_given(args: Any, names: tuple[str, ...]) -> str:
    """Return the option of these that was given, as it is written; the empty text when none was."""
    return next((name.replace("_", "-") for name in names if getattr(args, name)), "")
