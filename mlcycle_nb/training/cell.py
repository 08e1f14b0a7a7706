"""What a training cell needs: its syntax, and the names it takes from the notebook."""

from __future__ import annotations

import ast
import builtins
import hashlib
import re
import symtable
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from mlcycle_nb.errors import InvalidInput, did_you_mean

PROVIDED = frozenset(
    {
        "EarlyStopping",
        "accelerator",
        "batches",
        "checkpoint",
        "display",
        "epochs",
        "fit",
        "log",
        "params",
        "save_model",
    }
)
"""Names that the worker defines for the cell."""

_INTERACTIVE = {
    "input": "give the value with --param NAME=VALUE and read params.NAME",
    "breakpoint": "print what you want to know; %train logs shows it",
}
"""Builtins that need somebody at the keyboard, and what to do instead."""

_SHELL_CALL = re.compile(r"get_ipython\(\)\.(\w+)\((['\"])(.*?)(?<!\\)\2(?:, *(['\"])(.*?)(?<!\\)\4)?")

MODULE_NAMES = frozenset({"__name__", "__builtins__", "__doc__"})


@dataclass(frozen=True, slots=True)
class Cell:
    """A training cell that compiles.

    Attributes
    ----------
    source : str
        Python text, after IPython's own transformation.
    free : dict of str to int
        Names that the cell takes from the notebook, with the line of their first use.
    bound : dict of str to int
        Names that the cell itself defines at its top level, with the line of their first definition.
    """

    source: str
    free: dict[str, int]
    bound: dict[str, int] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """SHA-256 of the syntax tree: the same for the same code, whatever its comments and spacing."""
        return hashlib.sha256(ast.dump(ast.parse(self.source)).encode()).hexdigest()


def read_cell(source: str) -> Cell:
    """Compile a cell and find the names it needs.

    Raises
    ------
    InvalidInput
        When the cell is empty or is not Python; the message shows the line.
    """
    try:
        tree = ast.parse(source, filename="<cell>")
        compile(tree, "<cell>", "exec")
    except (SyntaxError, ValueError) as failure:
        raise _syntax_error(source, failure) from None
    body = [node for node in tree.body if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))]
    if not body:
        raise InvalidInput(
            "the training cell is empty",
            where="cell line 2",
            remedy="write what the workers shall run below %%train, such as fit(model, optimizer, loader, loss=...)",
        )
    _refuse_star_import(source, tree)
    return Cell(source, _free_names(source, tree), _bound_names(tree))


def resolve(cell: Cell, namespace: Mapping[str, Any]) -> dict[str, Any]:
    """Return the objects that `cell` takes from the notebook's `namespace`.

    Raises
    ------
    InvalidInput
        Naming every missing name with its line, and what may have been meant.
    """
    taken: dict[str, Any] = {}
    missing: list[str] = []
    for name, line in sorted(cell.free.items(), key=lambda item: item[1]):
        if name == "get_ipython":
            raise InvalidInput(
                "a training cell cannot use magics or shell commands",
                where=_place(cell.source, line),
                remedy="the cell runs in worker processes without IPython; run the command in a cell above",
            )
        is_plain = name not in namespace or _is_shells_own(name, namespace[name])
        if is_plain and name in _INTERACTIVE:
            raise InvalidInput(
                f"a training cell cannot use {name}(): nobody sits in front of the worker processes",
                where=_place(cell.source, line),
                remedy=f"{_INTERACTIVE[name]}; no job was made",
            )
        if not is_plain:
            taken[name] = namespace[name]
        elif not hasattr(builtins, name) and name not in MODULE_NAMES:
            known = [*namespace, *cell.bound, *PROVIDED, *dir(builtins)]
            hint = did_you_mean(name, (other for other in known if not other.startswith("_") and other != name))
            if name in cell.bound:
                hint = f"defined below, on line {cell.bound[name]}"
            missing.append(f"{name!r} (line {line}{', ' + hint.strip() if hint else ''})")
    if missing:
        raise InvalidInput(
            f"the training cell uses {'a name' if len(missing) == 1 else 'names'} that the notebook does not have: "
            + ", ".join(missing),
            remedy="define it in a cell above, or in the training cell; no job was made",
        )
    return taken


def _syntax_error(source: str, failure: SyntaxError | ValueError) -> InvalidInput:
    if isinstance(failure, SyntaxError) and failure.lineno is not None:
        place = _place(source, failure.lineno)
        if "await" in failure.msg or "'async" in failure.msg or "asynchronous" in failure.msg:
            remedy = "the worker's main thread has no event loop; call asyncio.run(main()); no job was made"
            return InvalidInput("a training cell cannot await at its top level", where=place, remedy=remedy)
        return InvalidInput(
            f"the training cell is not valid Python: {failure.msg}", where=place, remedy="no job was made"
        )
    return InvalidInput(f"the training cell is not valid Python: {failure}", remedy="no job was made")


def _is_shells_own(name: str, value: object) -> bool:
    """Return whether IPython put `value` there in place of the builtin: it would carry the whole shell along."""
    # Its `open` calls itself a builtin; what it refers to gives it away.
    homes = (getattr(value, "__globals__", {}).get("__name__", ""), type(value).__module__)
    return hasattr(builtins, name) and any(home.partition(".")[0] in {"IPython", "ipykernel"} for home in homes)


def _bound_names(tree: ast.Module) -> dict[str, int]:
    """Return what the cell's top level assigns, imports and defines, with the first line of each."""
    found: dict[str, int] = {}

    def note(name: str, line: int) -> None:
        found[name] = min(line, found.get(name, line))

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                note(child.name, child.lineno)
                continue
            if isinstance(child, ast.Lambda | ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
                continue
            if isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
                note(child.id, child.lineno)
            elif isinstance(child, ast.Import | ast.ImportFrom):
                for alias in child.names:
                    note(alias.asname or alias.name.partition(".")[0], child.lineno)
            visit(child)

    visit(tree)
    return found


def as_typed(text: str) -> str:
    """Return a line as it was typed, where IPython has made a call of a magic or shell command."""
    call = _SHELL_CALL.search(text)
    if call is None:
        return text
    kind, first, second = call[1], call[3], call[5] or ""
    signs = {"system": "!", "getoutput": "!", "run_line_magic": "%", "run_cell_magic": "%%"}
    if kind not in signs:
        return text
    return text[: call.start()] + f"{signs[kind]}{first} {second}".rstrip()


def _place(source: str, line: int) -> str:
    lines = source.splitlines()
    text = as_typed(lines[line - 1].strip()) if 0 < line <= len(lines) else ""
    return f"cell line {line}: {text}" if text else f"cell line {line}"


def _refuse_star_import(source: str, tree: ast.Module) -> None:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
            raise InvalidInput(
                "a training cell cannot import *, because its names could not be checked before launch",
                where=_place(source, node.lineno),
                remedy="import the names it uses",
            )


def _free_names(source: str, tree: ast.Module) -> dict[str, int]:
    """Find what the cell reads from outside: in order at the top, at any time inside functions."""
    table = symtable.symtable(source, "<cell>", "exec")
    bound = {
        symbol.get_name()
        for symbol in table.get_symbols()
        if symbol.is_assigned() or symbol.is_imported() or symbol.is_namespace()
    }
    deferred: set[str] = set()
    _collect_deferred(table, deferred, bound)
    flow = _Flow()
    flow.run(tree.body)
    needed = (flow.reads | (deferred - bound)) - PROVIDED - MODULE_NAMES
    lines: dict[str, int] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in needed:
            lines[node.id] = min(node.lineno, lines.get(node.id, node.lineno))
    return {name: lines.get(name, 1) for name in needed}


def _collect_deferred(table: symtable.SymbolTable, deferred: set[str], bound: set[str]) -> None:
    for child in table.get_children():
        for symbol in child.get_symbols():
            if symbol.is_global():
                if symbol.is_assigned():  # `global x` in a function of the cell binds it
                    bound.add(symbol.get_name())
                elif symbol.is_referenced():
                    deferred.add(symbol.get_name())
        _collect_deferred(child, deferred, bound)


class _Flow(ast.NodeVisitor):
    """Reads of top-level names that may happen before the cell itself has bound them."""

    def __init__(self) -> None:
        self.reads: set[str] = set()
        self.bound: set[str] = set()

    def run(self, body: Collection[ast.stmt]) -> None:
        for statement in body:
            self.visit(statement)

    def _branches(self, *bodies: Collection[ast.stmt]) -> None:
        before, ends = set(self.bound), []
        for body in bodies:
            self.bound = set(before)
            self.run(body)
            ends.append(self.bound)
        self.bound = set.intersection(*ends)

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load):
            if node.id not in self.bound:
                self.reads.add(node.id)
        elif isinstance(node.ctx, ast.Store):
            self.bound.add(node.id)
        else:
            self.bound.discard(node.id)

    def visit_Assign(self, node: ast.Assign) -> None:
        self.visit(node.value)
        for target in node.targets:
            self.visit(target)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.visit(node.value)
        if isinstance(node.target, ast.Name) and node.target.id not in self.bound:
            self.reads.add(node.target.id)
        self.visit(node.target)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self.visit(node.annotation)
        if node.value is not None:
            self.visit(node.value)
            self.visit(node.target)

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self.visit(node.value)
        self.visit(node.target)

    def visit_If(self, node: ast.If) -> None:
        self.visit(node.test)
        self._branches(node.body, node.orelse)

    def visit_For(self, node: ast.For) -> None:
        self.visit(node.iter)
        before = set(self.bound)
        self.visit(node.target)
        self.run(node.body)
        self.bound = before
        self.run(node.orelse)

    def visit_While(self, node: ast.While) -> None:
        self.visit(node.test)
        before = set(self.bound)
        self.run(node.body)
        self.bound = before
        self.run(node.orelse)

    def visit_Try(self, node: ast.Try) -> None:
        before = set(self.bound)
        self.run([*node.body, *node.orelse])
        ends = [self.bound]
        for handler in node.handlers:
            self.bound = set(before)
            if handler.type is not None:
                self.visit(handler.type)
            if handler.name:
                self.bound.add(handler.name)
            self.run(handler.body)
            if handler.name:
                self.bound.discard(handler.name)
            ends.append(self.bound)
        self.bound = set.intersection(*ends)
        self.run(node.finalbody)

    def visit_Match(self, node: ast.Match) -> None:
        self.visit(node.subject)
        before, ends = set(self.bound), []
        for case in node.cases:
            self.bound = set(before)
            for part in ast.walk(case.pattern):
                captured = getattr(part, "name", None) or getattr(part, "rest", None)
                if captured:
                    self.bound.add(captured)
            if case.guard is not None:
                self.visit(case.guard)
            self.run(case.body)
            ends.append(self.bound)
        self.bound = set.intersection(before, *ends)

    def visit_With(self, node: ast.With) -> None:
        for item in node.items:
            self.visit(item.context_expr)
            if item.optional_vars is not None:
                self.visit(item.optional_vars)
        self.run(node.body)

    def visit_Import(self, node: ast.Import) -> None:
        self.bound.update(alias.asname or alias.name.partition(".")[0] for alias in node.names)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        self.bound.update(alias.asname or alias.name for alias in node.names)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        # The body runs when it is called: symtable has its names. Decorators, defaults and annotations run now.
        for now in (*node.decorator_list, *node.args.defaults, *node.args.kw_defaults):
            if now is not None:
                self.visit(now)
        for argument in ast.walk(node.args):
            if isinstance(argument, ast.arg) and argument.annotation is not None:
                self.visit(argument.annotation)
        if node.returns is not None:
            self.visit(node.returns)
        self.bound.add(node.name)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Lambda(self, node: ast.Lambda) -> None:
        for default in (*node.args.defaults, *node.args.kw_defaults):
            if default is not None:
                self.visit(default)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for now in (*node.decorator_list, *node.bases, *(keyword.value for keyword in node.keywords)):
            self.visit(now)
        outer = set(self.bound)
        self.run(node.body)
        self.bound = outer | {node.name}

    def _comprehension(self, generators: list[ast.comprehension], *results: ast.expr) -> None:
        outer = set(self.bound)
        for generator in generators:
            self.visit(generator.iter)
            self.visit(generator.target)
            for condition in generator.ifs:
                self.visit(condition)
        for result in results:
            self.visit(result)
        self.bound = outer

    def visit_ListComp(self, node: ast.ListComp) -> None:
        self._comprehension(node.generators, node.elt)

    def visit_SetComp(self, node: ast.SetComp) -> None:
        self._comprehension(node.generators, node.elt)

    def visit_GeneratorExp(self, node: ast.GeneratorExp) -> None:
        self._comprehension(node.generators, node.elt)

    def visit_DictComp(self, node: ast.DictComp) -> None:
        self._comprehension(node.generators, node.key, node.value)
