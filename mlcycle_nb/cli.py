"""The ``mlcycle`` command: what makes sense in a terminal, with exit codes for scripts.

0: done, or the verdict is good. 1: the answer is no (broken trail, failing doctor). 2: the call was refused.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlcycle_nb import __version__
from mlcycle_nb.deployment.export import command as export_command
from mlcycle_nb.errors import InvalidInput, MLCycleError, NotFound, did_you_mean
from mlcycle_nb.files import disk_trouble_told
from mlcycle_nb.monitoring import command as monitoring_command
from mlcycle_nb.outcomes import Outcome
from mlcycle_nb.settings import load_settings
from mlcycle_nb.training import command
from mlcycle_nb.training.script import split_arguments
from mlcycle_nb.workspace import Workspace, locate

if TYPE_CHECKING:
    from mlcycle_nb.deployment.records import Rollout

_MAKES_A_WORKSPACE = frozenset({"up", "doctor"})
_TRAIN_EPILOG = "mlcycle train MODEL --script FILE [options] -- ARGUMENTS trains a script; so does --module PKG.MOD"
_ROLLOUT_VERBS = {
    "promote": "send all requests to the new version now",
    "abort": "bring all requests back to the stable version",
    "pause": "keep the present weights",
    "resume": "go on with a paused rollout",
}
_ENDS_AS = {"promote": ("completed",), "abort": ("aborted",), "resume": ("completed", "compared")}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        known = [str(c) for action in self._actions for c in (action.choices or ())]
        given = re.search(r"invalid choice: '([^']*)'", message)
        near = did_you_mean(given[1], known) if given else ""
        raise InvalidInput(message, where=self.prog, remedy=f"{near}{self.prog} --help")


def build_parser(*, script: bool = False) -> argparse.ArgumentParser:
    """Return the command's parser; with `script`, `train` takes a model and a script instead of a verb."""
    parser = _Parser(prog="mlcycle", description="The whole life of a model; see also the magics in a notebook.")
    parser.add_argument("--version", action="version", version=f"mlcycle-nb {__version__}")
    parser.add_argument("--home", type=Path, help="the workspace folder (default: $MLCYCLE_HOME or ./.mlcycle)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    verbs = parser.add_subparsers(dest="verb", required=True, parser_class=_Parser)
    verbs.add_parser("status", help="everything alive").set_defaults(run=_status)
    verbs.add_parser("doctor", help="examine the installation").set_defaults(run=_doctor)
    verbs.add_parser("up", help="start the supervisor").set_defaults(run=_up)
    verbs.add_parser("down", help="stop what the workspace started, and only that").set_defaults(run=_down)
    audit = verbs.add_parser("audit", help="verify or export the audit trail")
    audit.add_argument("what", choices=["verify", "export", "trust"])
    audit.add_argument("value", nargs="?", help="export: file to write; trust: a colleague's public key")
    audit.set_defaults(run=_audit)
    models = verbs.add_parser("models", help="models, versions and aliases")
    models.set_defaults(run=_models)
    _add_model_verbs(verbs)
    if script:
        scripted = verbs.add_parser("train", help="train a script")
        command.add_options(scripted)
        scripted.set_defaults(run=_train_script)
    else:
        _add_train(verbs)
    validate = verbs.add_parser("validate", help="judge a version by its gates; exit code 1 unless it passes")
    validate.add_argument("reference", help="NAME/VERSION or NAME@ALIAS")
    validate.add_argument("--gates", required=True, help="gates file (YAML)")
    validate.add_argument("--data", required=True, type=Path, help="csv, parquet or npz file")
    validate.add_argument("--label", default="label", help="label column of a table")
    validate.add_argument("--group", action="append", default=[], help="grouping column of a table; may be repeated")
    validate.set_defaults(run=_validate)
    exporting = verbs.add_parser("export", help="write the plan of a rollout for a cluster")
    export_command.add_options(exporting)
    exporting.set_defaults(run=_export)
    for name, text in _ROLLOUT_VERBS.items():
        verb = verbs.add_parser(name, help=f"{text}; works while the kernel is busy or gone")
        verb.add_argument(
            "rollout", nargs="?", help="rollout id, ENVIRONMENT/MODEL or model; the one that runs by default"
        )
        verb.add_argument("--env", default="", help="environment, when the model is rolled out in several")
        verb.add_argument("--reason", default="", help="why; recorded in the audit trail")
        if name in _ENDS_AS:
            verb.add_argument(
                "--wait", action="store_true", help="until it has ended; exit code 1 when it ended otherwise"
            )
        verb.set_defaults(run=_rollout_verb)
    rollback = verbs.add_parser("rollback", help="return to an earlier version; exit code 1 when that fails")
    rollback.add_argument("model")
    rollback.add_argument("--env", default="production", help="environment (default production)")
    rollback.add_argument(
        "--to", type=int, metavar="VERSION", help="an earlier stable version (default the one before)"
    )
    rollback.add_argument("--reason", default="", help="why; recorded in the audit trail")
    rollback.set_defaults(run=_rollback)
    retire = verbs.add_parser("retire", help="follow, verify or cancel the retirement of a version")
    retire.add_argument("what", choices=["status", "verify", "cancel"])
    retire.add_argument("reference", help="NAME/VERSION, or the retirement's id")
    retire.add_argument("--env", help="where, when it retires in several environments")
    retire.add_argument("--reason", default="", help="cancel: why")
    retire.set_defaults(run=_retire)
    monitoring_command.add_verbs(verbs)
    return parser


def _add_train(verbs: Any) -> None:
    text = "list training jobs, show what one printed, stop one, join one from a host"
    train = verbs.add_parser("train", epilog=_TRAIN_EPILOG, help=text)
    train.add_argument("what", choices=["list", "logs", "stop", "join"])
    train.add_argument("job", nargs="?", help="job id, or a model's name for its newest job")
    train.add_argument("--rank", type=int, help="logs: one rank only")
    train.add_argument("--lines", type=int, default=200, help="logs: how many lines at most (default 200)")
    train.add_argument("--follow", action="store_true", help="logs: go on until the job ends")
    train.add_argument("--reason", default="", help="stop: why; recorded in the audit trail")
    train.add_argument("--rendezvous", default="", metavar="HOST:PORT", help="join: where the job meets; compared")
    train.add_argument("--node-rank", type=int, metavar="R", help="join: from 1; the first that is free by default")
    train.add_argument("--address", default="", help="join: of this host; the one it reaches the rendezvous from")
    train.set_defaults(run=_train)
    reproduce = verbs.add_parser("reproduce", help="run a run again and compare; exit code 1 unless all is equal")
    reproduce.add_argument("reference", metavar="RUN", help="id or name of a run, or a training job")
    reproduce.add_argument("--strict", action="store_true", help="fail when installed packages differ")
    reproduce.set_defaults(run=_reproduce)
    environment = verbs.add_parser("environment", help="isolated environments: list, show, lock, rebuild, delete")
    environment.add_argument("what", choices=["list", "show", "lock", "rebuild", "delete"])
    environment.add_argument("name", nargs="?")
    environment.add_argument("--reason", default="", help="delete: why; recorded in the audit trail")
    environment.set_defaults(run=_environment)


def _add_model_verbs(verbs: Any) -> None:
    from mlcycle_nb.development.model_verbs import VERBS

    model = verbs.add_parser("model", help="one model: card, history, owner, alias, delete; exit code 1: card differs")
    model.add_argument("what", choices=list(VERBS))
    model.add_argument("model", help="NAME, NAME/VERSION or NAME@ALIAS")
    model.add_argument("words", nargs="*", help="alias, unalias: the alias; owner, reviewer: people")
    model.add_argument("--at", help="history, card: a time such as 2026-01-31T12:00 (UTC) or '2d ago'")
    model.add_argument("--since", help="history: list only changes from then on")
    model.add_argument("--until", help="history: up to then")
    model.add_argument("--to", metavar="FILE", help="card: write it, .md or .html")
    model.add_argument("--check", metavar="FILE", help="card: compare a card's file with what was recorded")
    model.add_argument("--say", nargs=2, metavar=("TITLE", "TEXT"), help="card: set a section of free text")
    model.add_argument("--licence", "--license", metavar="SPDX", help="card: such as Apache-2.0")
    model.add_argument("--publish", action="store_true", help="card: keep it with the run that made the version")
    model.add_argument("--force", action="store_true", help="although somebody else owns the model; needs --reason")
    model.add_argument("--reason", default="", help="why; recorded in the audit trail")
    model.set_defaults(run=_model)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    try:
        given = list(sys.argv[1:] if arguments is None else arguments)
        scripted = command.names_a_script(given)
        ours, theirs = split_arguments(given) if scripted else (given, [])
        args = build_parser(script=scripted).parse_args(ours)
        args.script_arguments = theirs
        with disk_trouble_told():
            if args.verb == "train" and not scripted and args.what == "join":
                return _join(args)
            if args.verb not in _MAKES_A_WORKSPACE:
                _require_workspace(locate(args.home))
            with Workspace.open(args.home) as workspace:
                run: Callable[[Workspace, argparse.Namespace], int] = args.run
                return run(workspace, args)
    except MLCycleError as refused:
        print(refused, file=sys.stderr)
        return 2


def _require_workspace(home: Path) -> None:
    # A typing error in --home, or another working directory, must not look like an empty workspace.
    if not home.exists() and not load_settings(home.parent / "mlcycle.toml").workspace.database_url:
        raise NotFound("there is no workspace", value=str(home), remedy="give --home, or make one: mlcycle up")


def _show(value: Any, args: argparse.Namespace) -> None:
    print(json.dumps(value.to_dict(), default=str) if args.json else repr(value))


def _status(workspace: Workspace, args: argparse.Namespace) -> int:
    _show(workspace.status(), args)
    return 0


def _doctor(workspace: Workspace, args: argparse.Namespace) -> int:
    diagnosis = workspace.doctor()
    _show(diagnosis, args)
    return 0 if diagnosis.outcome == Outcome.PASSED else 1


def _up(workspace: Workspace, args: argparse.Namespace) -> int:
    workspace.context.ensure_supervisor()
    _show(workspace.status(), args)
    return 0


def _down(workspace: Workspace, args: argparse.Namespace) -> int:
    stopped = workspace.down()
    print(json.dumps(stopped) if args.json else f"stopped {len(stopped)}: {', '.join(stopped) or 'nothing ran'}")
    return 0


def _audit(workspace: Workspace, args: argparse.Namespace) -> int:
    if args.what == "verify":
        verdict = workspace.verify_audit()
        _show(verdict, args)
        return 0 if verdict.intact else 1
    if not args.value:
        raise InvalidInput("a value is missing", where=f"mlcycle audit {args.what}", remedy="mlcycle audit --help")
    if args.what == "trust":
        from mlcycle_nb.store.keys import trust

        print(f"trusted: {trust(workspace.context.workspace_id, args.value)}")
        return 0
    from mlcycle_nb.store.audit import export

    Path(args.value).write_text(json.dumps(export(workspace.store), indent=1))
    print(f"exported to {args.value}")
    return 0


def _models(workspace: Workspace, args: argparse.Namespace) -> int:
    development = workspace.development
    rows = [
        {"model": version.reference, "aliases": list(version.aliases), "package": version.package_digest}
        for model in development.models()
        for version in development.versions(model)
    ]
    if args.json:
        print(json.dumps(rows))
    else:
        for row in rows:
            print(row["model"], ",".join(row["aliases"]), row["package"][:19])
    return 0


def _join(args: argparse.Namespace) -> int:
    from mlcycle_nb.training.join import join

    if args.job is None:
        raise InvalidInput("a job is missing", where="mlcycle train join", remedy="%%train --nodes prints the command")
    home = locate(args.home)
    return join(home, args.job, rendezvous=args.rendezvous, node_rank=args.node_rank, address=args.address)


def _train_script(workspace: Workspace, args: argparse.Namespace) -> int:
    return command.train_script(workspace.training, args, args.script_arguments)


def _model(workspace: Workspace, args: argparse.Namespace) -> int:
    from mlcycle_nb.development.card.check import CardCheck
    from mlcycle_nb.development.model_verbs import perform

    args.verb = args.what  # the command's own verb is `model`
    told = perform(workspace.development, args)
    if args.json and hasattr(told, "to_dict"):
        print(json.dumps(told.to_dict(), default=str))
    else:
        print(told if isinstance(told, str) else repr(told))
    return 1 if isinstance(told, CardCheck) and not told.passed else 0


def _train(workspace: Workspace, args: argparse.Namespace) -> int:
    training = workspace.training
    if args.what == "list":
        jobs = training.overview(args.job)
        print(
            json.dumps([{"job": job.id, "phase": job.phase, "steps": job.steps} for job in jobs]) if args.json else jobs
        )
        return 0
    if args.job is None:
        raise InvalidInput("a job is missing", where=f"mlcycle train {args.what}", remedy="mlcycle train list")
    if args.what == "logs":
        if args.follow:
            from mlcycle_nb.training.log_view import follow_logs

            follow_logs(training, args.job, rank=args.rank, lines=args.lines)
        else:
            print(training.logs(args.job, rank=args.rank, lines=args.lines))
        return 0
    stopping = training.stop(args.job, reason=args.reason)
    print(f"{stopping.id} was asked to take a checkpoint and end")
    return 0


def _reproduce(workspace: Workspace, args: argparse.Namespace) -> int:
    report = workspace.training.reproduce(args.reference, strict=args.strict).wait()
    _show(report, args)
    return 0 if report.reproduced else 1


def _environment(workspace: Workspace, args: argparse.Namespace) -> int:
    environments = workspace.development.environments
    if args.what == "list":
        known = environments.all()
        rows = [{"environment": e.id, "phase": e.phase, "lock": e.lock_digest, "kernel": e.kernel} for e in known]
        print(json.dumps(rows) if args.json else "\n".join(map(repr, known)) or "no environments yet")
        return 0
    if args.name is None:
        raise InvalidInput("a name is missing", where=f"mlcycle environment {args.what}")
    if args.what == "lock":
        print(environments.lock(args.name), end="")
        return 0
    if args.what == "delete":
        environments.delete(args.name, reason=args.reason)
        print(f"environment {args.name} is deleted")
        return 0
    record = environments.rebuild(args.name).wait() if args.what == "rebuild" else environments.get(args.name)
    print(record)
    return 1 if record.failure else 0


def _validate(workspace: Workspace, args: argparse.Namespace) -> int:
    from mlcycle_nb.validation.tables import read_file

    data = read_file(args.data, label=args.label, groups=args.group)
    report = workspace.validation.validate_model(args.reference, args.gates, data)
    _show(report, args)
    return 0 if report.passed else 1


def _export(workspace: Workspace, args: argparse.Namespace) -> int:
    plan = export_command.run(workspace.deployment, args)
    if args.json:
        print(json.dumps(plan.to_dict()))
    else:
        print(plan.text if plan.folder is None else repr(plan), end="" if plan.folder is None else "\n")
    return 0


def _rollout_verb(workspace: Workspace, args: argparse.Namespace) -> int:
    change = getattr(workspace.deployment, args.verb)
    handle = change(args.rollout, environment=args.env, reason=args.reason)
    waits = getattr(args, "wait", False)
    record = handle.wait() if waits else handle.record
    _show_rollout(record, args)
    good = waits and record.phase in _ENDS_AS[args.verb] and record.verdict in ("", "passed")
    return 0 if good or not waits else 1


def _rollback(workspace: Workspace, args: argparse.Namespace) -> int:
    record = workspace.deployment.rollback_deployment(args.model, args.env, to=args.to, reason=args.reason).wait()
    _show_rollout(record, args)
    # A rollout that still ran was aborted instead, which brings its stable version back as well.
    return 0 if record.phase == "completed" or (record.phase == "aborted" and record.strategy != "rollback") else 1


def _show_rollout(record: Rollout, args: argparse.Namespace) -> None:
    if args.json:
        print(json.dumps({"rollout": record.id, "phase": record.phase, "reason": record.reason}))
    else:
        print(f"rollout {record.id} of {record.reference}: {record.place}")


def _retire(workspace: Workspace, args: argparse.Namespace) -> int:
    service = workspace.retirement
    if args.what == "verify":
        verification = service.verify(args.reference, environment=args.env)
        _show(verification, args)
        return 0 if verification.passed else 1
    if args.what == "cancel":
        service.cancel(args.reference, reason=args.reason, environment=args.env)
        service.settle(args.reference, environment=args.env)
    _show(service.status(args.reference, environment=args.env), args)
    return 0
