"""Completion of our magics' flags, of models, versions and aliases, and of runs."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Any

from IPython.core.completer import CompletionContext, SimpleCompletion, context_matcher

from mlcycle_nb.errors import MLCycleError

_MAGIC = re.compile(r"^\s*(%%?)([a-z_]+)\s")
_TAKES_REFERENCE = frozenset({"validate", "deploy", "retire", "approve", "model", "lifecycle", "monitor", "rollback"})
_TAKES_RUN = frozenset({"compare", "comment", "comments", "runs"})
_TAKES_VERB = frozenset({"model", "runs"})
_TRAIN_VERBS = ("attach", "list", "logs", "register", "resume", "stop")
_MOST_JOBS = 50
_MOST_RUNS = 50


def completer(shell: Any, open_workspace: Callable[[], Any]) -> Any:
    """Return a matcher for ``Completer.custom_matchers``."""

    @context_matcher()
    def match(context: CompletionContext) -> Any:
        line = context.full_text.split("\n")[context.cursor_line]  # splitlines() drops an empty last line
        found = _MAGIC.match(line)
        if found is None:
            return {"completions": []}
        kind = "cell" if found[1] == "%%" else "line"
        function = shell.magics_manager.magics[kind].get(found[2])
        parser = getattr(function, "parser", None)
        if parser is None:
            return {"completions": []}
        token = context.token
        if token.startswith("-"):
            words = sorted({o for action in parser._actions for o in action.option_strings if o.startswith("--")})
        elif found[1] == "%" and found[2] == "train":
            words = _training_words(line[found.end() :], open_workspace)
        elif found[2] in _TAKES_VERB and " " not in line[found.end() : context.cursor_position].lstrip():
            words = next((list(action.choices) for action in parser._actions if action.dest == "verb"), [])
        elif found[2] in _TAKES_RUN:
            references = [] if found[2] == "runs" else _references(open_workspace)
            words = [*references, *_runs(open_workspace)]
        elif found[2] in _TAKES_REFERENCE:
            words = _references(open_workspace)
        else:
            return {"completions": []}
        # Without `suppress` IPython's own guesses come first, and without the fragment they are appended wrongly.
        return {
            "completions": [SimpleCompletion(text=word) for word in words if word.startswith(token)],
            "suppress": True,
            "matched_fragment": token,
        }

    return match


def _training_words(line: str, open_workspace: Callable[[], Any]) -> list[str]:
    """Return the verbs for the first word, and job ids after one of them."""
    first, space, _ = line.lstrip().partition(" ")
    if not space:
        return list(_TRAIN_VERBS)
    if first not in _TRAIN_VERBS:
        return []
    try:
        return [job.id for job in open_workspace().training.jobs()[:_MOST_JOBS]]
    except MLCycleError:
        return []


def _references(open_workspace: Callable[[], Any]) -> list[str]:
    try:
        development = open_workspace().development
        found = []
        for model in development.models():
            found.append(model)
            for version in development.versions(model):
                found.append(f"{model}/{version.version}")
                found += [f"{model}@{alias}" for alias in version.aliases]
    except MLCycleError:
        return []  # completion must stay silent when the workspace cannot be read
    return found


def _runs(open_workspace: Callable[[], Any]) -> list[str]:
    """Return ids and names of the newest runs, once this kernel has asked MLflow for anything: it takes seconds."""
    if "mlflow" not in sys.modules:
        return []
    try:
        runs = open_workspace().development.runs(limit=_MOST_RUNS)
    except MLCycleError:
        return []
    return [run.id[:8] for run in runs] + sorted({run.name for run in runs})
