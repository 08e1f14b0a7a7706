"""What each statement of a cell does to names: binds, reads, reads later, changes in place."""

from __future__ import annotations

import ast
import hashlib
import re
import shlex
import symtable
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

_AT_ONCE = frozenset({"listcomp", "setcomp", "dictcomp", "genexpr"})
_RUNS_ITS_BODY = frozenset({"time", "timeit", "prun", "capture"})
_MUTATORS = re.compile(
    r"add|append|backward|clear|cuda|discard|eval|extend|fill|fit|fit_transform|half|insert|load_state_dict"
    r"|manual_seed|manual_seed_all|partial_fit|pop|popitem|put|remove|resize|reverse|seed|setdefault|shuffle|sort"
    r"|step|to|train|update|write|zero_grad|(set|add|register|load|reset|init)_\w+|\w*[a-z]_"
    r"|__setitem__|__setattr__|__delitem__"
)
_MUTATING_CALL = re.compile(
    r"(.*_)?(add|append|apply|drop|extend|fill|finetune|fit|freeze|init|initiali[sz]e|insert|load|normali[sz]e|remove"
    r"|reset|seed|set|shuffle|sort|step|train|tune|unfreeze|update|warm)(_.*)?"
)
_INTO = re.compile(r"--into[ =]+([A-Za-z_]\w*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """One top-level statement.

    Attributes
    ----------
    digest : str
        Of its syntax: comments and spacing do not count.
    reads, later : frozenset of str
        Names it reads when it runs, and those that functions it defines read when they are called.
    touches : frozenset of str
        Names whose objects it may change in place.
    """

    digest: str
    binds: frozenset[str] = field(default=frozenset())
    reads: frozenset[str] = field(default=frozenset())
    later: frozenset[str] = field(default=frozenset())
    touches: frozenset[str] = field(default=frozenset())
    drops: frozenset[str] = field(default=frozenset())


@lru_cache(maxsize=4096)
def effects(code: str) -> tuple[Effect, ...]:
    """Return the effects of a cell's statements in order; of none when it is not Python."""
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError):
        return ()
    found: list[Effect] = []
    for statement in tree.body:
        inner = _body_of_magic(statement)
        found += (_effect(statement),) if inner is None else _of_magic(statement, inner)
    return tuple(found)


def names_used(code: str) -> frozenset[str]:
    """Return the names that a cell takes from elsewhere, at once or in its functions."""
    used: set[str] = set()
    bound: set[str] = set()
    for effect in effects(code):
        used |= effect.reads - bound
        bound |= effect.binds
    later = {name for effect in effects(code) for name in effect.later}
    return frozenset(used | (later - bound))


def imported_modules(code: str) -> frozenset[str]:
    """Return the top-level modules that a cell imports anywhere."""
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError):
        return frozenset()
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    for statement in tree.body:
        inner = _body_of_magic(statement)
        if inner:
            found |= imported_modules(inner[2])
    return frozenset(found)


# -- one statement -------------------------------------------------------------------------------------------


def _effect(statement: ast.stmt) -> Effect:
    _, later, binds = _scopes(statement)
    reads = _first_reads([statement], set())
    drops: set[str] = set()
    for node in _here(statement):
        if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
            reads.add(node.target.id)
        elif isinstance(node, ast.Delete):
            drops |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    touches = {name for node in _here(statement) for name in _touched(node)}
    return Effect(
        digest=hashlib.sha256(ast.dump(statement).encode()).hexdigest(),
        binds=frozenset(binds - drops),
        reads=frozenset(reads | touches),
        later=frozenset(later),
        touches=frozenset(touches - binds),
        drops=frozenset(drops),
    )


def _first_reads(statements: list[ast.stmt], bound: set[str]) -> set[str]:
    """Return the names that are read before the statements bind them; adds to `bound` what they do bind.

    A loop's body is taken to run, so that its variables do not seem to come from an earlier cell.
    """
    reads: set[str] = set()
    for statement in statements:
        if isinstance(statement, ast.For | ast.AsyncFor):
            reads |= _read_by(statement.iter) - bound
            bound |= {node.id for node in ast.walk(statement.target) if isinstance(node, ast.Name)}
            reads |= _first_reads(statement.body, bound) | _first_reads(statement.orelse, bound)
        elif isinstance(statement, ast.With | ast.AsyncWith):
            for item in statement.items:
                reads |= _read_by(item.context_expr) - bound
                if item.optional_vars is not None:
                    bound |= {node.id for node in ast.walk(item.optional_vars) if isinstance(node, ast.Name)}
            reads |= _first_reads(statement.body, bound)
        elif isinstance(statement, ast.If):
            reads |= _read_by(statement.test) - bound
            either, other = set(bound), set(bound)
            reads |= _first_reads(statement.body, either) | _first_reads(statement.orelse, other)
            bound |= either & other
        elif isinstance(statement, ast.While):
            reads |= _read_by(statement.test) - bound
            reads |= _first_reads([*statement.body, *statement.orelse], bound)
        elif isinstance(statement, ast.Try):
            reads |= _first_reads(statement.body, bound)
            for handler in statement.handlers:
                reads |= set() if handler.type is None else _read_by(handler.type) - bound
                reads |= _first_reads(handler.body, bound | ({handler.name} if handler.name else set()))
            reads |= _first_reads([*statement.orelse, *statement.finalbody], bound)
        else:
            found, _, binds = _scopes(statement)
            reads |= found - bound
            bound |= binds
    return reads


def _read_by(expression: ast.expr) -> set[str]:
    return _scopes(ast.Expr(expression))[0]


def _scopes(statement: ast.stmt) -> tuple[set[str], set[str], set[str]]:
    try:
        table = symtable.symtable(ast.unparse(statement), "<cell>", "exec")
    except (SyntaxError, ValueError):  # such as `await` at the top, which only IPython allows
        names = [node for node in ast.walk(statement) if isinstance(node, ast.Name)]
        stored = {node.id for node in names if isinstance(node.ctx, ast.Store)}
        return {node.id for node in names} - stored, set(), stored
    reads = {symbol.get_name() for symbol in table.get_symbols() if symbol.is_referenced()}
    binds = {s.get_name() for s in table.get_symbols() if s.is_assigned() or s.is_imported() or s.is_namespace()}
    later: set[str] = set()
    for child in table.get_children():
        _nested(child, reads, later, deferred=False)
    return reads, later, binds


def _nested(table: symtable.SymbolTable, reads: set[str], later: set[str], *, deferred: bool) -> None:
    deferred = deferred or (table.get_type() == "function" and table.get_name() not in _AT_ONCE)
    found = {symbol.get_name() for symbol in table.get_symbols() if symbol.is_global() and symbol.is_referenced()}
    (later if deferred else reads).update(found)
    for child in table.get_children():
        _nested(child, reads, later, deferred=deferred)


def _here(statement: ast.stmt) -> Iterator[ast.AST]:
    """Yield the statements that run with this one: those in functions and classes run in scopes of their own."""
    yield statement
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return
    for child in ast.walk(statement):
        if isinstance(child, ast.stmt) and child is not statement:
            yield child


def _touched(node: ast.AST) -> Iterator[str]:
    targets: list[ast.expr] = []
    if isinstance(node, ast.Assign | ast.Delete):
        targets = list(node.targets)
    elif isinstance(node, ast.AugAssign | ast.AnnAssign):
        targets = [node.target]
    for target in targets:
        for part in ast.walk(target):
            if isinstance(part, ast.Attribute | ast.Subscript) and isinstance(part.ctx, ast.Store | ast.Del):
                yield from _root(part)
    if isinstance(node, ast.Expr):
        call = node.value.value if isinstance(node.value, ast.Await) else node.value
        if isinstance(call, ast.Call):
            yield from _touched_by_call(call)


def _touched_by_call(call: ast.Call) -> Iterator[str]:
    """Yield what a call whose result is thrown away was made to change, as far as its form tells."""
    in_place = any(k.arg == "inplace" and not _is_false(k.value) for k in call.keywords)
    arguments = [*call.args, *(keyword.value for keyword in call.keywords)]
    if isinstance(call.func, ast.Attribute):
        method = call.func.attr
        if in_place or _MUTATORS.fullmatch(method):
            yield from _root(call.func)
            if method == "shuffle":
                yield from (argument.id for argument in arguments if isinstance(argument, ast.Name))
    elif isinstance(call.func, ast.Name) and _MUTATING_CALL.fullmatch(call.func.id):
        yield from (argument.id for argument in arguments if isinstance(argument, ast.Name))


def _is_false(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value is False


def _root(node: ast.expr) -> Iterator[str]:
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Call):
        node = node.func if isinstance(node, ast.Call) else node.value
    if isinstance(node, ast.Name) and node.id != "get_ipython":
        yield node.id


# -- magics ----------------------------------------------------------------------------------------------------


def _body_of_magic(statement: ast.stmt) -> tuple[str, str, str] | None:
    """Return name, line and body of ``get_ipython().run_cell_magic(...)`` or ``run_line_magic(...)``, else None."""
    call = statement.value if isinstance(statement, ast.Expr) else None
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
        return None
    texts = [argument.value for argument in call.args if isinstance(argument, ast.Constant)]
    words = [text for text in texts if isinstance(text, str)]
    if call.func.attr == "run_cell_magic" and len(words) == 3:
        return words[0], words[1], words[2]
    if call.func.attr == "run_line_magic" and len(words) == 2:
        return words[0], words[1], words[1] if words[0] in _RUNS_ITS_BODY else ""
    return None


def _of_magic(statement: ast.stmt, magic: tuple[str, str, str]) -> tuple[Effect, ...]:
    name, line, body = magic
    digest = hashlib.sha256(ast.dump(statement).encode()).hexdigest()
    into = frozenset(_INTO.findall(line))
    if name in _RUNS_ITS_BODY:
        if name == "capture":
            into = frozenset(word for word in _words(line) if word.isidentifier())
        return (*effects(body), *((Effect(digest=digest, binds=into),) if into else ()))
    expanded = frozenset(re.findall(r"(?<!\$)\$([A-Za-z_]\w*)|\{([A-Za-z_]\w*)\}", line))
    reads = frozenset(name for pair in expanded for name in pair if name)
    return (Effect(digest=digest, binds=into, reads=reads | (names_used(body) if name == "train" else frozenset())),)


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError:
        return line.split()
