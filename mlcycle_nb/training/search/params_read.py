"""Which names a training cell reads from ``params``, as far as its text tells."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

from mlcycle_nb.errors import InvalidInput, did_you_mean


def params_read(source: str) -> tuple[frozenset[str], bool]:
    """Return the names that a cell reads from ``params``, and whether that is all it can read.

    A cell that passes ``params`` on, iterates over it, or computes a name may read any.
    """
    tree = ast.parse(source)
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    names: set[str] = set()
    certain = True
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id == "params":
            found = _read_here(node, parents)
            if found is None:
                certain = False
            else:
                names.add(found)
    return frozenset(names), certain


def refuse_unread(source: str, names: Iterable[str], taken: Mapping[str, Any]) -> None:
    """Refuse a search over a name that the cell never reads: all its trials would be the same.

    Parameters
    ----------
    source : str
        The cell.
    names : iterable of str
        Of the search space.
    taken : mapping
        What the cell takes from the notebook: a module of the user's may read ``mlcycle_nb.training.params`` itself.

    Raises
    ------
    InvalidInput
        Naming it, and what the cell does read.
    """
    read, certain = params_read(source)
    if not certain or _others_read(source, taken):
        return
    for name in names:
        if name not in read:
            listed = f"it reads {', '.join(sorted(read))}" if read else "it reads nothing from params"
            raise InvalidInput(
                f"the training cell never reads params.{name}, so a search over it would find nothing",
                value=name,
                where="--search",
                remedy=f"{did_you_mean(name, read)}{listed}",
            )


def _others_read(source: str, taken: Mapping[str, Any]) -> bool:
    """Return whether a module that the cell uses has anything of `mlcycle_nb.training`, or is not known yet."""
    modules = {value.__name__ if isinstance(value, ModuleType) else type(value).__module__ for value in taken.values()}
    modules |= {str(value.__module__) for value in taken.values() if getattr(value, "__module__", None)}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules.add(node.module or ".")
    return any(_knows_params(name) for name in modules - {"__main__", "builtins"})


def _knows_params(name: str) -> bool:
    if name.partition(".")[0] in sys.stdlib_module_names:
        return False
    module = sys.modules.get(name)
    if module is None:
        return True
    if name.partition(".")[0] == "mlcycle_nb":
        return True
    from mlcycle_nb import training

    values = list(vars(module).values())
    return any(value is training or str(getattr(value, "__module__", "")).startswith("mlcycle_nb") for value in values)


def _read_here(node: ast.Name, parents: dict[ast.AST, ast.AST]) -> str | None:
    parent = parents.get(node)
    if isinstance(parent, ast.Attribute) and parent.value is node:
        if parent.attr in {"get", "__getitem__", "__contains__"}:
            call = parents.get(parent)
            return _text(call.args[0]) if isinstance(call, ast.Call) and call.func is parent and call.args else None
        return None if parent.attr in {"items", "keys", "values"} else parent.attr
    if isinstance(parent, ast.Subscript) and parent.value is node:
        return _text(parent.slice)
    if isinstance(parent, ast.Compare) and len(parent.ops) == 1 and isinstance(parent.ops[0], ast.In | ast.NotIn):
        return _text(parent.left) if node in parent.comparators else None
    return None


def _text(node: ast.expr) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None
