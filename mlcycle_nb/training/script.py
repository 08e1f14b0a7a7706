"""A script or module that is trained instead of a cell: found, read and checked before a job is made."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import tokenize
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Literal

from mlcycle_nb.errors import InvalidInput, NotFound, did_you_mean

MAX_SCRIPT_BYTES = 8_388_608
_ARGUMENT_BYTES = 131_072  # of one argument, Linux's own limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """A Python program that workers run as ``__main__``.

    Attributes
    ----------
    kind : {"script", "module"}
    name : str
        The path as it was given, or the module's dotted name.
    path : str
        Absolute path of the file.
    source : str
        Its text when it was submitted; this is what runs, however often it is started again.
    argv : tuple of str
        What follows the program's name in ``sys.argv``.
    """

    kind: Literal["script", "module"]
    name: str
    path: str
    source: str
    argv: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """SHA-256 of the text."""
        return hashlib.sha256(self.source.encode()).hexdigest()

    @property
    def call_digest(self) -> str:
        """SHA-256 of what is run with which arguments, apart from the text."""
        return hashlib.sha256(json.dumps([self.kind, self.path, *self.argv]).encode()).hexdigest()


def find_script(
    script: str | Path | None = None,
    module: str | None = None,
    arguments: Sequence[str] = (),
    *,
    cwd: Path | None = None,
) -> Script:
    """Read the script or the module, of which exactly one is given.

    Raises
    ------
    InvalidInput
        When both or neither are given, the file is no Python, or an argument cannot be passed to a program.
    NotFound
        When there is no such file or module; with the nearest name there is.
    """
    if (script is None) == (module is None):
        raise InvalidInput("give either a script or a module", remedy="--script train.py, or --module package.train")
    argv = tuple(_checked_argument(argument) for argument in arguments)
    if script is not None:
        path = _find_file(str(script), cwd or Path.cwd())
        return Script(kind="script", name=str(script), path=str(path), source=_read(path), argv=argv)
    assert module is not None
    path = _find_module(module)
    return Script(kind="module", name=module, path=str(path), source=_read(path), argv=argv)


def split_arguments(tokens: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split at the first ``--``: what is before is ours, what follows is the script's."""
    if "--" not in tokens:
        return list(tokens), []
    place = list(tokens).index("--")
    return list(tokens[:place]), list(tokens[place + 1 :])


def _find_file(given: str, cwd: Path) -> Path:
    if not given.strip():
        raise InvalidInput("the script's path is empty", where="--script")
    path = (cwd / Path(given).expanduser()).absolute()
    if path.suffix == ".ipynb":
        raise InvalidInput(
            "a notebook is not a script",
            value=given,
            where="--script",
            remedy="use %%train in the notebook, or make a script: jupyter nbconvert --to script",
        )
    if path.is_dir():
        raise InvalidInput("a folder is not a script", value=given, where="--script", remedy="name a .py file")
    if not path.is_file():
        beside = [other.name for other in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise NotFound(
            "there is no such script",
            value=given,
            where=f"--script, looked for in {path.parent}",
            remedy=did_you_mean(path.name, beside),
        )
    return path


def _find_module(name: str) -> Path:
    if name.endswith(".py") or "/" in name:
        raise InvalidInput("a module has a dotted name", value=name, where="--module", remedy=f"use --script {name}")
    if not all(part.isidentifier() for part in name.split(".")):
        raise InvalidInput("not a module's name", value=name, where="--module", remedy="write --module package.train")
    found = _spec(name)
    if found is not None and found.submodule_search_locations is not None:
        found = _spec(f"{name}.__main__") or _no_main(name)
    if found is None:
        raise NotFound(
            "there is no such module",
            value=name,
            where="--module",
            remedy="install it, or run where it can be imported",
        )
    if found.origin is None or not found.origin.endswith(".py"):
        raise InvalidInput("the module has no Python source", value=name, where="--module")
    return Path(found.origin).absolute()


def _spec(name: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(name)
    except ModuleNotFoundError:
        return None
    except (ImportError, ValueError, AttributeError) as failure:
        raise InvalidInput(
            f"the module's package cannot be imported: {failure}", value=name, where="--module"
        ) from None


def _no_main(name: str) -> ModuleSpec:
    raise InvalidInput(
        "the package cannot be run, it has no __main__",
        value=name,
        where="--module",
        remedy=f"try --module {name}.train",
    )


def _read(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as failure:
        raise InvalidInput(
            f"the script cannot be read: {failure.strerror}", value=str(path), where="--script"
        ) from None
    if len(content) > MAX_SCRIPT_BYTES:
        raise InvalidInput(f"the script has {len(content)} bytes, over 8 MiB", value=str(path), where="--script")
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(content).readline)
        source = content.decode(encoding)
        source = source.replace("\r\n", "\n").replace("\r", "\n")
        compile(source, str(path), "exec", dont_inherit=True)
    except SyntaxError as failure:
        line = f":{failure.lineno}: {(failure.text or '').strip()}".rstrip(": ") if failure.lineno else ""
        raise InvalidInput(
            f"the script is not valid Python: {failure.msg}", where=f"{path.name}{line}", remedy="no job was made"
        ) from None
    except (UnicodeDecodeError, ValueError) as failure:
        raise InvalidInput(
            f"the script is not valid Python: {failure}", where=path.name, remedy="no job was made"
        ) from None
    if not source.strip():
        raise InvalidInput("the script is empty", value=str(path), where="--script")
    return source


def _checked_argument(argument: object) -> str:
    if not isinstance(argument, str):
        raise InvalidInput("a script's arguments are texts", value=argument, remedy="write str(...)")
    if "\0" in argument or len(argument.encode(errors="surrogateescape")) > _ARGUMENT_BYTES:
        raise InvalidInput("this cannot be an argument of a program", value=argument)
    return argument
