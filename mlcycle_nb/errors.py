"""Every error that mlcycle_nb raises on purpose, as one tree.

MLCycleError
├── InvalidInput (ValueError)            a value that was given is wrong
│   ├── InvalidName                      a name breaks the name grammar
│   └── InvalidSettings                  a key or value in mlcycle.toml, the environment or an option
├── NotFound (LookupError)               something that was named does not exist
│   └── UnknownPlugin                    a plug-in name that nothing provides
├── Conflict (RuntimeError)              somebody else changed or holds it
├── Refused (RuntimeError)               a gate, an approval or a rule says no
├── IntegrityError (RuntimeError)        bytes differ from what was recorded
├── MissingDependency (ImportError)      an optional package is not installed
├── EngineError (RuntimeError)           a program or server that we drive failed
├── JobFailed (RuntimeError)             the user's own code failed in a job
├── StoreError (RuntimeError)            the workspace database cannot be used
└── WaitTimeout (TimeoutError)           a wait ended before its condition held
"""

from __future__ import annotations

import difflib
import os
import sys
import unicodedata
from collections.abc import Iterable
from typing import Any, ClassVar

VALUE_LIMIT = 80
"""Characters of a refused value that are shown."""


class _Unset:
    def __repr__(self) -> str:
        return "<unset>"


UNSET = _Unset()


def inert(text: str) -> str:
    """Return `text` with control, format and separator characters shown as code points.

    So it can neither move the cursor or colour a terminal, nor reverse or break the line it is printed in.
    """
    return text if text.isascii() and text.isprintable() else "".join(map(_inert_character, text))


def _inert_character(character: str) -> str:
    category = unicodedata.category(character)
    if category[0] == "C" or category in {"Zl", "Zp"} or (category == "Zs" and character != " "):
        return f"<U+{ord(character):04X}>"
    return character


def show_value(value: object) -> str:
    """Return `value` as inert, bounded, one-line text."""
    if isinstance(value, _Shown):
        return value.text
    try:
        text = value if isinstance(value, str) else repr(value)
    except Exception as failure:  # a foreign __repr__ may raise anything; the error being built matters more
        text = f"<{type(value).__name__}: its repr failed with {type(failure).__name__}>"
    body = inert(text[:VALUE_LIMIT]) + ("…" if len(text) > VALUE_LIMIT else "")
    return f"'{body}'" if isinstance(value, str) else body


def did_you_mean(value: str, known: Iterable[str]) -> str:
    """Return ``"did you mean 'x'? "`` for the nearest of `known`, or the empty string."""
    near = difflib.get_close_matches(value, list(known), n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}? " if near else ""


class MLCycleError(Exception):
    """Base of all errors of this package; renders as one line and, in a notebook, without our stack.

    Parameters
    ----------
    problem : str
        What is wrong, in words of the user's domain.
    value : object, optional
        The value that was refused; shown escaped and cut to 80 characters.
    where : str
        Place: ``gates.yaml line 4, gates[2].min`` or ``--steps``.
    remedy : str
        What to do next.
    """

    code: ClassVar[str] = "MLC-000"

    def __init__(self, problem: str, *, value: object = UNSET, where: str = "", remedy: str = "") -> None:
        self.problem = problem
        self.value = value
        self.where = where
        self.remedy = remedy.strip()
        super().__init__(problem)

    def __str__(self) -> str:
        line = f"{self.code}: {self.problem}"
        if not isinstance(self.value, _Unset):
            line += f" (got {show_value(self.value)})"
        if self.where:
            line += f" - {self.where}"
        if self.remedy:
            line += f" - {self.remedy}"
        return inert(" ".join(line.split()))

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.problem, show_value(self.value), self.where, self.remedy))

    def to_dict(self) -> dict[str, str]:
        """Return the error as RFC 9457 members: ``code``, ``title``, ``detail``."""
        return {"code": self.code, "title": type(self).__name__, "detail": str(self)}

    def _render_traceback_(self) -> list[str]:
        # IPython calls this instead of printing a stack; MLCYCLE_FULL_TRACEBACKS=1 shows the whole chain.
        if os.environ.get("MLCYCLE_FULL_TRACEBACKS") == "1":
            import traceback

            return traceback.format_exception(*sys.exc_info())
        return [f"{type(self).__name__}: {self}"]


def _rebuild(kind: type[MLCycleError], problem: str, value: str, where: str, remedy: str) -> MLCycleError:
    error = kind(problem, where=where, remedy=remedy)
    if value != "<unset>":
        error.value = _Shown(value)
    return error


class _Shown:
    """A value already made inert, so that a second rendering does not quote it again."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


class InvalidInput(MLCycleError, ValueError):
    """A value that was given is wrong."""

    code = "MLC-100"


class InvalidName(InvalidInput):
    """A name breaks the name grammar."""

    code = "MLC-101"


class InvalidSettings(InvalidInput):
    """A key or value of the settings is unknown or out of range."""

    code = "MLC-102"


class NotFound(MLCycleError, LookupError):
    """Something that was named does not exist."""

    code = "MLC-200"


class UnknownPlugin(NotFound):
    """No plug-in has this name."""

    code = "MLC-201"


class Conflict(MLCycleError, RuntimeError):
    """Somebody else changed it, or holds it."""

    code = "MLC-300"


class Refused(MLCycleError, RuntimeError):
    """A gate, an approval or a rule says no."""

    code = "MLC-400"


class IntegrityError(MLCycleError, RuntimeError):
    """Bytes differ from what was recorded."""

    code = "MLC-500"


class MissingDependency(MLCycleError, ImportError):
    """An optional package is not installed."""

    code = "MLC-600"


class EngineError(MLCycleError, RuntimeError):
    """A program or server that mlcycle_nb drives has failed."""

    code = "MLC-700"


class JobFailed(MLCycleError, RuntimeError):
    """The user's own code failed in a job outside the kernel.

    Parameters
    ----------
    traceback : str
        Of the user's code in the job, shown above the line in a notebook.
    """

    code = "MLC-710"

    def __init__(
        self, problem: str, *, value: object = UNSET, where: str = "", remedy: str = "", traceback: str = ""
    ) -> None:
        self.traceback = traceback
        super().__init__(problem, value=value, where=where, remedy=remedy)

    def _render_traceback_(self) -> list[str]:
        return [*(inert(line) for line in self.traceback.splitlines()), *super()._render_traceback_()]


class StoreError(MLCycleError, RuntimeError):
    """The workspace database cannot be used."""

    code = "MLC-800"


class WaitTimeout(MLCycleError, TimeoutError):
    """A wait ended before its condition held; what was waited for goes on."""

    code = "MLC-900"
