"""``mlcycle alerts``, ``mlcycle maintenance`` and ``mlcycle replay``: monitoring from a terminal, such as by cron.

The workspace (`mlcycle_nb.workspace.Workspace`) stands above this module, so it has no type here.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from mlcycle_nb.errors import InvalidInput

if TYPE_CHECKING:
    from mlcycle_nb.monitoring.listings import MaintenanceWindows


def add_verbs(verbs: Any) -> None:
    """Add the verbs to the command's."""
    alerts = verbs.add_parser("alerts", help="open alerts; exit code 1 when one fires")
    alerts.set_defaults(run=_alerts)
    maintenance = verbs.add_parser("maintenance", help="plan, list or end times at which nobody is told of alerts")
    _add_maintenance_options(maintenance)
    maintenance.set_defaults(run=_maintenance)
    replay = verbs.add_parser("replay", help="judge recorded traffic; exit code 1 when an alert would have fired")
    _add_replay_options(replay)
    replay.set_defaults(run=_replay)


def _add_maintenance_options(parser: ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", default="", help="name of the model; without it, all of the environment")
    parser.add_argument("--env", default="production", help="environment (default production)")
    parser.add_argument("--at", metavar="TIME", help="begin: 2027-01-31T22:00 for once, 02:00 with --every; else list")
    parser.add_argument("--for", dest="duration", metavar="DURATION", help="how long, such as 2h")
    parser.add_argument("--every", default="", metavar="DAYS", help="sun, mon,thu, day, weekday, weekend, or 1.")
    parser.add_argument("--zone", default="UTC", metavar="ZONE", help="time zone of --at, such as Europe/Berlin")
    parser.add_argument("--kind", default="", help="only this kind of alert, such as data_drift")
    parser.add_argument("--reason", default="", help="what is being done")
    parser.add_argument("--end", metavar="ID", help="end this one for good")


def _add_replay_options(parser: ArgumentParser) -> None:
    parser.add_argument("model", help="name of the model")
    parser.add_argument("recorded", help="a time such as 24h, or a .parquet or .arrow file")
    parser.add_argument("--env", default="production", help="environment (default production)")
    parser.add_argument("--window", type=int, help="served rows in a window (default: the monitor's, or 100)")
    parser.add_argument("--detector", action="append", metavar="NAME", help="detector plug-in; may be repeated")
    parser.add_argument("--categorical", action="append", metavar="FEATURE", help="take this feature for categories")
    parser.add_argument("--confirm", type=int, metavar="N", help="drifted windows in a row before an alert fires")


def maintain(workspace: Any, args: Namespace, *, where: str) -> MaintenanceWindows:
    """Plan, list or end maintenance windows, as the options say; `where` names the magic or the command."""
    from mlcycle_nb.monitoring.listings import MaintenanceWindows

    monitoring, now = workspace.monitoring, workspace.clock.now()
    if args.end:
        return MaintenanceWindows([monitoring.end_maintenance(args.end)], now)
    if args.at is None and args.duration is None and not (args.every or args.reason or args.kind):
        return MaintenanceWindows(monitoring.maintenance(), now)
    if args.at is None or args.duration is None:
        missing = "--at TIME" if args.at is None else "--for DURATION"
        raise InvalidInput(f"{missing} is missing", where=where, remedy="write such as --at 02:00 --for 2h")
    made = monitoring.plan_maintenance(
        args.model,
        environment=args.env,
        start=args.at,
        duration=args.duration,
        every=args.every,
        zone=args.zone,
        kind=args.kind,
        reason=args.reason,
    )
    return MaintenanceWindows([made], now)


def _alerts(workspace: Any, args: Namespace) -> int:
    firing = [
        alert for alert in workspace.monitoring.alerts(open_only=True, limit=1_000_000) if alert.phase == "firing"
    ]
    print(json.dumps([alert.id for alert in firing]) if args.json else f"{len(firing)} firing")
    for alert in firing if not args.json else ():
        print(alert.id, alert)
    return 1 if firing else 0


def _maintenance(workspace: Any, args: Namespace) -> int:
    found = maintain(workspace, args, where="mlcycle maintenance")
    print(json.dumps([asdict(one) for one in found], default=str) if args.json else found)
    return 0


def _replay(workspace: Any, args: Namespace) -> int:
    found = workspace.monitoring.replay(
        args.model,
        args.recorded,
        environment=args.env,
        window=args.window,
        detectors=args.detector,
        categorical=args.categorical,
        confirm_windows=args.confirm,
    )
    fired = [alert for alert in found.alerts if alert.fired_at is not None]
    if args.json:
        told = {"rows": found.rows, "windows": len(found.windows), "waiting": found.waiting}
        alerts = [{"kind": a.kind, "fired_at": str(a.fired_at), "subjects": list(a.subjects)} for a in fired]
        print(json.dumps({**told, "alerts": alerts}))
    else:
        print(found)
    return 1 if fired else 0
