"""Whether running the notebook again gives what a run used, and if not, because of which cell."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from mlcycle_nb.development.lineage.cell_log import Execution
from mlcycle_nb.development.lineage.document import Document
from mlcycle_nb.development.lineage.effects import effects, names_used
from mlcycle_nb.development.lineage.values import OUTSIDE, Names, Value

REASONS_SHOWN = 5


@dataclass(frozen=True, slots=True)
class _History:
    """What ran, and what the notebook would run from top to bottom."""

    ran: Sequence[Execution]  # before the running cell
    again: Sequence[Execution]  # each cell once, above the running cell
    deleted: frozenset[str]
    below: frozenset[str] = frozenset()
    order: Mapping[str, int] = field(default_factory=dict)

    def later(self, execution: Execution) -> Execution | None:
        """Return the last execution of the same cell after this one."""
        same = [other for other in self.ran if other.number > execution.number and _key(other) == _key(execution)]
        return same[-1] if same else None

    def present(self, execution: Execution) -> Execution | None:
        """Return the cell as it would run again."""
        return next((other for other in self.again if _key(other) == _key(execution)), None)


def why_not(
    executions: Sequence[Execution],
    *,
    needs: Iterable[str] = (),
    deleted: Iterable[str] = (),
    document: Document | None = None,
    to_python: Callable[[str], str] = str,
) -> list[str]:
    """Return why running the notebook's cells again, in order and as they are now, would not give the same.

    Parameters
    ----------
    executions : sequence of Execution
        What ran in this kernel; the running cell last.
    needs : iterable of str
        Names that the running cell uses besides those in its text.
    deleted : iterable of str
        Cells that are in the notebook no more.
    document : Document, optional
        The saved notebook; without it the order of the cells is that in which they first, or last, ran.
    to_python : callable
        Turns a cell of the document into Python.

    Returns
    -------
    list of str
        One reason for each name; empty when the same would come out.
    """
    if not executions:
        return []
    *ran, running = executions
    used = sorted(names_used(running.code) | set(needs))
    actual = _after(ran)
    shortest: list[str] | None = None
    for history in _histories(ran, running, frozenset(deleted), document, to_python):
        again = _after(history.again)
        reasons = []
        for name in used:
            reason = _difference(name, actual.seen(name), again.seen(name), history)
            if reason and reason not in reasons:
                reasons.append(reason)
        if not reasons:
            return []
        if shortest is None or len(reasons) < len(shortest):
            shortest = reasons
    return (shortest or [])[:REASONS_SHOWN]


def _after(executions: Iterable[Execution]) -> Names:
    names = Names()
    for execution in executions:
        names.run(execution)
    return names


def _key(execution: Execution) -> str:
    # Without an id an execution is a cell of its own: the history is the program.
    return execution.cell or f"In [{execution.number}]"


def _histories(
    ran: Sequence[Execution],
    running: Execution,
    deleted: frozenset[str],
    document: Document | None,
    to_python: Callable[[str], str],
) -> list[_History]:
    newest = {_key(execution): execution for execution in ran if _key(execution) != _key(running)}
    if document is not None:
        order = document.order
        unknown = [e for e in newest.values() if e.cell not in order and e.cell not in deleted]
        gone = {_key(e) for e in unknown if e.cell and e.at is not None and e.at < document.saved_at}
        # what ran before the cells were followed has no ids; it came first, as the cell that loads the extension does
        first_of_all = [e for e in unknown if e.at is None]
        unsaved = [e for e in unknown if _key(e) not in gone and e.at is not None]
        if not unsaved and running.cell in order:
            place = order[running.cell]
            again = first_of_all + [
                _as_saved(newest[cell], document, to_python)
                for cell in sorted(newest.keys() & order.keys(), key=order.__getitem__)
                if order[cell] < place and cell not in deleted
            ]
            below = frozenset(cell for cell, at in order.items() if at > place)
            return [_History(ran, again, deleted | gone, below, order)]
    kept = [execution for key, execution in newest.items() if key not in deleted]
    first = {key: number for number, key in reversed(list(enumerate(map(_key, ran))))}
    return [
        _History(ran, sorted(kept, key=lambda e: e.number), deleted),
        _History(ran, sorted(kept, key=lambda e: first[_key(e)]), deleted),
    ]


def _as_saved(execution: Execution, document: Document, to_python: Callable[[str], str]) -> Execution:
    """Return the cell with the text that the notebook was saved with after it ran."""
    saved = document.sources[execution.cell]
    if saved == execution.source or execution.at is None or document.saved_at <= execution.at:
        return execution
    return replace(execution, source=saved, code=to_python(saved), changed=None, failed=False)


# -- in words ------------------------------------------------------------------------------------------------


def _difference(name: str, had: Value, would: Value, history: _History) -> str:
    """Return the reason why `name` would be another value, or empty text when it would be the same."""
    if had.digest == would.digest:
        return ""
    if had.made_by is None:
        by = would.made_by
        where = "" if by is None else f" by the cell of In [{by.number}]"
        return f"`{name}` was not defined when this ran; from top to bottom it would be{where}"
    if would.statement == had.statement and would.made_by is not None and _key(would.made_by) == _key(had.made_by):
        return _inner_difference(name, had, would, history)
    return f"`{name}` {_outer_difference(name, had, would, history)}"


def _inner_difference(name: str, had: Value, would: Value, history: _History) -> str:
    """Follow the inputs: the statement is the same, so one of them is not."""
    made_by = had.made_by
    assert made_by is not None
    others = dict(would.inputs)
    for other, value in had.inputs:
        wanted = others.get(other, OUTSIDE)
        if value.digest == wanted.digest:
            continue
        if other == name:
            repeated = _made_again(value, had)
            if repeated:
                return (
                    f"`{name}` was changed from its earlier value by In [{repeated}] and again by "
                    f"In [{made_by.number}], the same cell: run once it gives another value"
                )
            return _difference(other, value, wanted, history)
        reason = _difference(other, value, wanted, history)
        return reason if other == name else f"`{name}` was made by In [{made_by.number}] from `{other}`: {reason}"
    return f"`{name}` (In [{made_by.number}]) uses names that it would not use from top to bottom"


def _made_again(value: Value, had: Value) -> int | None:
    earlier, later = value.made_by, had.made_by
    if earlier is None or later is None or value.statement != had.statement or _key(earlier) != _key(later):
        return None
    return earlier.number


def _outer_difference(name: str, had: Value, would: Value, history: _History) -> str:
    made_by = had.made_by
    assert made_by is not None
    said = f"was defined by In [{made_by.number}]"
    key = _key(made_by)
    if key in history.deleted:
        return f"{said}, whose cell was deleted since"
    present, later = history.present(made_by), history.later(made_by)
    if present is not None and present.code != made_by.code:
        if later is not None:
            return f"{said}, whose cell was edited since and run again as In [{later.number}]"
        return f"{said}, whose cell was edited since and not run again"
    if key in history.below:
        return f"{said}, whose cell stands below this one in the notebook"
    other = would.made_by
    if other is None:
        return f"{said}, which from top to bottom would run only after it is used"
    repeated = [e for e in history.ran if _key(e) == key and e.number < made_by.number]
    if repeated and _key(other) == key:
        return f"{said}, a cell that ran before as In [{repeated[-1].number}]: from top to bottom it runs once"
    if _key(other) == key:
        return f"{said}; the same cell defines it in another place now"
    return f"{said}, {_out_of_order(made_by, other, name, history)}"


def _out_of_order(made_by: Execution, other: Execution, name: str, history: _History) -> str:
    last = max((e.number for e in history.ran if _key(e) == _key(other)), default=other.number)
    placed = "stands above it" if history.order else "came first"
    if last > made_by.number:
        return (
            f"which was run before In [{last}]; from top to bottom the cell of In [{last}] has defined it again "
            "before it is used"
        )
    verb = "defines" if any(name in effect.binds for effect in effects(other.code)) else "changes"
    return f"which was run after In [{last}] although its cell {placed}: from top to bottom In [{last}] {verb} it last"
