"""Magics of deployment: ``%deploy``, ``%promote``, ``%abort``, ``%pause``, ``%resume``, ``%rollback`` and more."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from IPython.core.magic import line_magic, magics_class

from mlcycle_nb.deployment.export.command import PLACES
from mlcycle_nb.errors import InvalidInput, MLCycleError
from mlcycle_nb.notebook.arguments import argument, magic_arguments, output_options, parse, wait_options
from mlcycle_nb.notebook.magics import StageMagics
from mlcycle_nb.references import ModelReference, check_name

if TYPE_CHECKING:
    from argparse import Namespace

# By name: the records would load the database engine, and %load_ext has to feel instant.
_FLAGS = {
    "canary": "canary",
    "blue_green": "blue-green",
    "rolling": "rolling",
    "all_at_once": "all-at-once",
    "shadow": "shadow",
}


_POLICY = (
    *("steps", "interval", "min_requests", "mirror", "deadline", "warm", "duration", "compare"),
    *("max_disagreement", "max_error_increase", "max_slowdown", "max_shift", "max_accuracy_loss"),
)

_PLACES = tuple(option[2:] for option, _ in PLACES)


def _places(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say where a cluster finds things."""
    for option, text in reversed(PLACES):
        function = argument(option, help=f"with --export: {text}")(function)
    return function


def _rollout_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add what ``%promote``, ``%abort``, ``%pause`` and ``%resume`` share."""
    function = argument("--reason", default="", help="why; recorded in the audit trail")(function)
    function = argument("--env", default="", help="environment, when the model is rolled out in several")(function)
    return argument("rollout", nargs="?", help="rollout id or model; the one that runs when left out")(function)


@magics_class
class DeploymentMagics(StageMagics):
    """The deployment stage's magics."""

    @magic_arguments("%deploy")
    @argument("reference", nargs="*", metavar="REF", help="model version, such as digits/7 or digits@challenger")
    @argument("--env", default="dev", help="dev, staging or production (default dev)")
    @argument("--canary", action="store_true", help="send it a growing share of the requests (default in production)")
    @argument("--blue-green", action="store_true", help="start it beside the old one, switch at once, watch, keep both")
    @argument("--rolling", action="store_true", help="replace replica by replica")
    @argument("--all-at-once", action="store_true", help="switch when it is ready, judge nothing (default in dev)")
    @argument("--shadow", action="store_true", help="copy requests to it, compare its answers, serve none of them")
    @argument("--strategy", metavar="NAME", help="the same by name")
    @argument("--steps", help="canary weights in percent (default 5,25,50,100)")
    @argument("--interval", help="how long each step is held at least (default 60s)")
    @argument("--min-requests", type=int, help="requests of the new version at each step (default 100)")
    @argument("--deadline", help="how long an undecided step is held at most, then it goes back (default 1h)")
    @argument("--duration", help="how long a shadow compares at most (default 30m)")
    @argument("--compare", type=int, metavar="N", help="a shadow ends after so many compared requests")
    @argument("--replicas", type=int, help="replicas of the new version (default 2)")
    @argument("--mirror", metavar="PERCENT", help="requests that both versions answer, to compare them (default 20)")
    @argument("--max-disagreement", metavar="SHARE", help="tolerated share of differing answers (default 0.1)")
    @argument("--max-error-increase", metavar="SHARE", help="tolerated increase of the error rate (default 0.02)")
    @argument("--max-slowdown", metavar="SHARE", help="tolerated slow-down (default 0.1)")
    @argument("--max-shift", metavar="SHARE", help="tolerated increase of one kind of answer (default 0.15)")
    @argument("--max-accuracy-loss", metavar="SHARE", help="tolerated increase of wrong answers (default 0.05)")
    @argument("--require", default="", metavar="METRICS", help="must be shown to be good before all requests move")
    @argument("--optional", default="", metavar="METRICS", help="can send it back, need not be shown to be good")
    @argument("--watch", default="", metavar="METRICS", help="shown only; decides nothing")
    @argument("--warm", help="how long the old version is kept after the switch (default 5m)")
    @argument("--simulate", metavar="RECORDED", help="only say what a canary would have done on 24h, or on a recording")
    @argument("--runtime", default="", metavar="NAME", help="isolated environment of the replicas; see %%environment")
    @argument("--export", metavar="TARGET", help="only write the plan for a cluster: argo, flagger or kserve")
    @argument("--to", metavar="FOLDER", help="with --export: write the files there")
    @_places
    @argument("--force", action="store_true", help="past the gates of the environment; needs --reason")
    @argument("--reason", default="", help="why; recorded in the audit trail")
    @argument("--supersede", action="store_true", help="have a running rollout go back first")
    @wait_options
    @output_options
    @line_magic
    def deploy(self, line: str) -> Any:
        """Deploy a model version behind the gateway of an environment."""
        args = parse(self.deploy, line)
        strategy, policy = _strategy(args), {name: getattr(args, name) for name in _POLICY}
        policy |= {name: getattr(args, name) or () for name in ("require", "optional", "watch")}
        if args.export:
            return self._exported(args, strategy, policy)
        _refuse_lone(args)
        if args.simulate:
            if strategy not in (None, "canary"):
                raise InvalidInput("a canary is what is simulated", value=strategy, where="--simulate")
            return self.deliver(
                self.workspace.deployment.simulate(
                    self._reference(args.reference), args.env, args.simulate, replicas=args.replicas, **policy
                ),
                args,
            )
        handle = self.workspace.deployment.deploy_model(
            self._reference(args.reference),
            args.env,
            strategy,
            replicas=args.replicas,
            force=args.force,
            reason=args.reason,
            supersede=args.supersede,
            runtime=args.runtime,
            **policy,
        )
        return self.follow(handle, args)

    @magic_arguments("%promote")
    @_rollout_options
    @wait_options
    @output_options
    @line_magic
    def promote(self, line: str) -> Any:
        """Send all requests to the new version now; after a shadow that has passed, begin a canary."""
        return self._verb("promote", parse(self.promote, line))

    @magic_arguments("%abort")
    @_rollout_options
    @wait_options
    @output_options
    @line_magic
    def abort(self, line: str) -> Any:
        """Bring all requests back to the stable version."""
        return self._verb("abort", parse(self.abort, line))

    @magic_arguments("%pause")
    @_rollout_options
    @output_options
    @line_magic
    def pause(self, line: str) -> Any:
        """Keep the present weights until %resume."""
        args = parse(self.pause, line)
        return self.deliver(self._asked("pause", args), args)

    @magic_arguments("%resume")
    @_rollout_options
    @wait_options
    @output_options
    @line_magic
    def resume(self, line: str) -> Any:
        """Go on with a paused rollout."""
        return self._verb("resume", parse(self.resume, line))

    @magic_arguments("%rollback")
    @argument("model", nargs="?", help="model name; the only deployed one when left out")
    @argument("--env", default="production", help="environment (default production)")
    @argument("--to", type=int, metavar="VERSION", help="an earlier stable version (default the one before)")
    @argument("--reason", default="", help="why; recorded in the audit trail")
    @wait_options
    @output_options
    @line_magic
    def rollback(self, line: str) -> Any:
        """Bring an earlier stable version back."""
        args = parse(self.rollback, line)
        model = args.model or self._only_model(args.env)
        handle = self.workspace.deployment.rollback_deployment(model, args.env, to=args.to, reason=args.reason)
        return self.follow(handle, args)

    @magic_arguments("%disagreements")
    @argument("rollout", nargs="?", help="rollout id or model; the one that runs, or the last shadow, when left out")
    @argument("--env", default="", help="environment, when the model is rolled out in several")
    @output_options
    @line_magic
    def disagreements(self, line: str) -> Any:
        """Show the compared requests on which a rollout's two versions differ most."""
        args = parse(self.disagreements, line)
        return self.deliver(self.workspace.deployment.disagreements(args.rollout, environment=args.env), args)

    @magic_arguments("%consumer")
    @argument("verb", nargs="?", default="list", choices=["add", "list", "revoke"], help="add, list or revoke")
    @argument("name", nargs="?", help="consumer name")
    @argument("--env", default="production", help="environment (default production)")
    @output_options
    @line_magic
    def consumer(self, line: str) -> Any:
        """Make, list or revoke the keys of those who may ask for predictions; a key is shown once."""
        args = parse(self.consumer, line)
        deployment = self.workspace.deployment
        if args.verb == "list":
            return self.deliver(deployment.consumers(args.env), args)
        if not args.name:
            raise InvalidInput(f"%consumer {args.verb} needs a name", where="%consumer")
        if args.verb == "add":
            return self.deliver(deployment.add_consumer(args.name, args.env), args)
        deployment.revoke_consumer(args.name, args.env)
        return self.deliver(f"consumer {args.name} of {args.env} is revoked", args)

    # -- parts -----------------------------------------------------------------------------------------------

    def _verb(self, verb: str, args: Namespace) -> Any:
        return self.follow(self._asked(verb, args), args)

    def _exported(self, args: Namespace, strategy: str | None, policy: dict[str, Any]) -> Any:
        if args.simulate or args.supersede:
            other = "--simulate" if args.simulate else "--supersede"
            raise InvalidInput("--export deploys nothing here, so it goes without the other", value=other)
        plan = self.workspace.deployment.export_plan(
            self._reference(args.reference),
            args.export,
            args.env,
            strategy,
            to=args.to,
            replicas=args.replicas,
            force=args.force,
            reason=args.reason,
            **{name: getattr(args, name) or "" for name in _PLACES},
            **policy,
        )
        return self.deliver(plan, args)

    def _asked(self, verb: str, args: Namespace) -> Any:
        return getattr(self.workspace.deployment, verb)(args.rollout, environment=args.env, reason=args.reason)

    def _reference(self, words: list[str]) -> str:
        if len(words) == 2 and re.fullmatch(r"v?\d+", words[1]):
            words = [f"{words[0]}/{words[1].lstrip('v')}"]  # `%deploy digits v7` says the same
        if len(words) > 1:
            raise InvalidInput("too many words", value=" ".join(words), where="%deploy", remedy="write MODEL/VERSION")
        if not words:
            raise InvalidInput("%deploy needs MODEL/VERSION", where="%deploy", remedy=f"known: {self._known()}")
        return str(ModelReference.parse(words[0]))

    def _known(self) -> str:
        try:
            development = self.workspace.development
            found = [str(v.reference) for model in development.models() for v in development.versions(model)]
        except MLCycleError:
            found = []  # the refusal is about the missing name, not about the registry
        return ", ".join(found[:10]) or "none yet; %model register makes one"

    def _only_model(self, environment: str) -> str:
        models = [s.model for s in self.workspace.deployment.services() if s.environment == environment]
        if len(models) == 1:
            return check_name(models[0], "model name")
        known = ", ".join(models) or "none"
        raise InvalidInput("%rollback needs a model", where="%rollback", remedy=f"deployed in {environment}: {known}")


def _refuse_lone(args: Namespace) -> None:
    given = [f"--{name}" for name in ("to", *_PLACES) if getattr(args, name)]
    if given:
        raise InvalidInput("goes with --export", value=given[0], where="%deploy", remedy="--export argo, for instance")


def _strategy(args: Namespace) -> str | None:
    chosen = [strategy for flag, strategy in _FLAGS.items() if getattr(args, flag)]
    if args.strategy:
        chosen.append(args.strategy)
    if len(chosen) > 1:
        raise InvalidInput("choose one strategy", value=", ".join(chosen), where="%deploy")
    # --steps belong to a canary, so they choose it.
    return chosen[0] if chosen else ("canary" if args.steps else None)
