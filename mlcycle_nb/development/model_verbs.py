"""What ``%model VERB`` and ``mlcycle model VERB`` do, one small function a verb."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mlcycle_nb.development.card.texts import LICENCE
from mlcycle_nb.errors import InvalidInput
from mlcycle_nb.references import ModelReference

if TYPE_CHECKING:
    from mlcycle_nb.development.service import ModelDevelopmentManager


def perform(development: ModelDevelopmentManager, args: Namespace) -> Any:
    """Do what was asked and return what is shown.

    Parameters
    ----------
    args : Namespace
        ``verb``, ``model``, ``words`` and the options of ``%model``.

    Raises
    ------
    InvalidInput
        When something that the verb needs is missing, or given without need.
    """
    if args.verb == "list":
        from mlcycle_nb.development.panel import ModelPanel

        return ModelPanel(development, args.model)
    if args.model is None:
        raise InvalidInput("a model is missing", where=f"%model {args.verb}", remedy="%model --help")
    most = {"alias": 1, "unalias": 1, "owner": None, "reviewer": None}.get(args.verb, 0)
    if most is not None and len(args.words) > most:
        raise InvalidInput("that is one word too many", value=args.words[most], where=f"%model {args.verb}")
    return VERBS[args.verb](development, args)


def _show(development: ModelDevelopmentManager, args: Namespace) -> Any:
    return development.get_version(args.model)


def _alias(development: ModelDevelopmentManager, args: Namespace) -> Any:
    version = development.get_version(args.model) if args.verb == "alias" and args.words else None
    if not args.words:
        raise InvalidInput("an alias is missing", where=f"%model {args.verb}", remedy="%model alias digits/7 champion")
    if version is None:
        development.remove_alias(ModelReference.parse(args.model).name, args.words[0], reason=args.reason)
        return f"{args.model} has no alias {args.words[0]} any more"
    return development.set_alias(version.name, args.words[0], version.version, reason=args.reason)


def _history(development: ModelDevelopmentManager, args: Namespace) -> Any:
    return development.history(ModelReference.parse(args.model).name, args.at, since=args.since, until=args.until)


def _people(development: ModelDevelopmentManager, args: Namespace) -> Any:
    name = ModelReference.parse(args.model).name
    if not args.words:
        return development.owners(name)
    kind = "owners" if args.verb == "owner" else "reviewers"
    if kind == "owners":
        return development.set_owners(name, args.words, force=args.force, reason=args.reason)
    return development.set_owners(name, reviewers=args.words, force=args.force, reason=args.reason)


def _delete(development: ModelDevelopmentManager, args: Namespace) -> Any:
    gone = development.delete_version(args.model, force=args.force, reason=args.reason)
    return f"{gone.about} {gone.told()}; its package stays in the package store"


def _card(development: ModelDevelopmentManager, args: Namespace) -> Any:
    if args.check:
        return development.check_card(args.model, args.check)
    said = [tuple(args.say)] if args.say else []
    said += [(LICENCE, args.licence)] if args.licence is not None else []
    if said and args.at is not None:
        raise InvalidInput("what is said is said now", value=args.at, where="--at", remedy="leave --at away")
    for title, text in said:
        development.describe(args.model, title, text)
    if args.publish:
        card, place = development.publish_card(args.model)
        return f"model card of {card.reference} is kept in {place} ({card.digest[:19]})"
    card = development.model_card(args.model, args.at)
    if args.to:
        return f"model card of {card.reference} written to {card.save(args.to)}"
    return card


VERBS: dict[str, Callable[[ModelDevelopmentManager, Namespace], Any]] = {
    "show": _show,
    "alias": _alias,
    "unalias": _alias,
    "history": _history,
    "owner": _people,
    "reviewer": _people,
    "card": _card,
    "delete": _delete,
}
VERB_NAMES = ("list", *VERBS)
