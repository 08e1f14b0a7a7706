"""Options of magics: IPython's argument decorators, read strictly and refused in one clear line."""

from __future__ import annotations

import argparse
import keyword
import re
import shlex
import unicodedata
from collections.abc import Callable
from typing import Any

from IPython.core.error import UsageError
from IPython.core.magic_arguments import argument, magic_arguments

from mlcycle_nb.errors import InvalidInput, did_you_mean

__all__ = [
    "HelpShown",
    "argument",
    "check_length",
    "magic_arguments",
    "output_options",
    "parse",
    "split",
    "wait_options",
]

MAX_LINE_BYTES = 65_536
_INVISIBLE = frozenset({"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp", "Zs"})
# What IPython leaves of an expansion that failed; JSON begins with a quote and has a colon.
_UNRESOLVED = re.compile(r"\$[A-Za-z_]\w*|\{[A-Za-z_(][^{}:]*\}")


class HelpShown(Exception):
    """``--help`` was asked for; carries the text and ends the magic without an error."""


def output_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--into NAME`` and ``--quiet``, which mean the same for every magic."""
    function = argument("--quiet", action="store_true", help="do not show the result")(function)
    return argument("--into", metavar="NAME", help="also bind the result to NAME")(function)


def wait_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--wait`` and ``--no-wait``; without either, wait only when nobody watches live."""
    function = argument("--no-wait", dest="wait", action="store_false", default=None, help="return at once")(function)
    return argument("--wait", dest="wait", action="store_true", default=None, help="block until it has ended")(function)


def check_length(line: str, *, magic: str = "magic") -> None:
    """Refuse a line over 64 KiB."""
    if len(line) > MAX_LINE_BYTES:
        raise InvalidInput(f"the line has {len(line)} characters, over 64 KiB", where=magic)


def split(line: str, *, magic: str = "magic") -> list[str]:
    """Split a magic line as a shell would, refusing what cannot be meant.

    Raises
    ------
    InvalidInput
        For a line over 64 KiB, invisible characters, an unclosed quote, or a variable that IPython could not expand.
    """
    check_length(line, magic=magic)
    for position, character in enumerate(line):
        if unicodedata.category(character) in _INVISIBLE and character not in " \t\n":
            raise InvalidInput(
                f"the line contains U+{ord(character):04X} at {position}", where=magic, remedy="type it again by hand"
            )
    try:
        tokens = shlex.split(line)
    except ValueError:
        column = _unclosed_quote(line)
        raise InvalidInput(f"unclosed quote at column {column}", value=line, where=magic) from None
    unresolved = _UNRESOLVED.search(line)
    if unresolved:
        raise InvalidInput(
            f"variable not defined: {unresolved[0]}", where=magic, remedy="define it in a cell above, then run again"
        )
    return tokens


def parse(function: Any, line: str) -> argparse.Namespace:
    """Read the arguments of a magic.

    Parameters
    ----------
    function : method
        The magic, decorated with ``magic_arguments`` and ``argument``.
    line : str
        What follows the magic's name.

    Raises
    ------
    InvalidInput
        With the option, the value and the nearest known option.
    HelpShown
        When ``--help`` or ``-h`` is among the arguments.
    """
    parser: argparse.ArgumentParser = function.parser
    name = parser.prog if parser.prog.startswith("%") else f"%{parser.prog}"
    tokens = split(line, magic=name)
    if "--help" in tokens or "-h" in tokens:
        raise HelpShown(parser.format_help().replace("::\n\n", "usage:\n", 1))
    options = [text for action in parser._actions for text in action.option_strings]
    for token in tokens:
        option = token.split("=", 1)[0]
        if option.startswith("--") and len(option) > 2 and option not in options:
            known = ", ".join(sorted(o for o in options if o.startswith("--")))
            remedy = f"{did_you_mean(option, options)}known: {known}"
            raise InvalidInput(f"unknown option {option}", where=name, remedy=remedy)
    try:
        arguments = parser.parse_args(tokens)
    except (UsageError, argparse.ArgumentError, argparse.ArgumentTypeError) as refused:
        raise InvalidInput(_with_suggestion(str(refused), parser), where=name, remedy=f"{name} --help") from None
    into = getattr(arguments, "into", None)
    if into is not None and (not into.isidentifier() or keyword.iskeyword(into)):
        raise InvalidInput("not a name for a variable", value=into, where=f"{name} --into")
    return arguments


def _with_suggestion(message: str, parser: argparse.ArgumentParser) -> str:
    choice = re.search(r"invalid choice: '([^']*)'", message)
    if choice:
        known = [str(c) for action in parser._actions for c in (action.choices or ())]
        near = did_you_mean(choice[1], known)
        return f"{message}; {near}".rstrip("; ") if near else message
    return message


def _unclosed_quote(line: str) -> int:
    """Return the column, from 1, of the quote that is never closed."""
    open_quote, column, escaped = "", 0, False
    for position, character in enumerate(line, 1):
        if escaped:
            escaped = False
        elif character == "\\" and open_quote != "'":
            escaped = True
        elif open_quote:
            if character == open_quote:
                open_quote = ""
        elif character in "'\"":
            open_quote, column = character, position
    return column if open_quote else len(line)
