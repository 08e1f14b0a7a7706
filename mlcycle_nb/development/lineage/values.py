"""Values by their making: which statements, run over which other values, gave a name what it holds.

No statement is run. Two histories that give a name the same value here gave it the same object, as far as the code
says; chance and the outside world are not code.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

from mlcycle_nb.development.lineage.cell_log import Execution
from mlcycle_nb.development.lineage.effects import Effect, effects


@dataclass(frozen=True, slots=True)
class Value:
    """What one statement gave a name.

    Attributes
    ----------
    statement : str
        Digest of the statement; empty for what no cell defines, such as builtins.
    inputs : tuple
        Names that it read, with the values they had.
    later : frozenset of str
        Names that it reads when it is called.
    """

    statement: str
    made_by: Execution | None = None
    inputs: tuple[tuple[str, Value], ...] = ()
    later: frozenset[str] = frozenset()
    digest: str = ""


OUTSIDE = Value("", digest="outside")


@dataclass
class Names:
    """The values of all names at one moment of a history."""

    values: dict[str, Value] = field(default_factory=dict)

    def run(self, execution: Execution) -> None:
        """Take over what an execution does to the names."""
        changed = execution.changed
        explained: set[str] = set()
        steps = effects(execution.code)
        for effect in steps:
            self._apply(effect, execution, changed)
            explained |= effect.binds | effect.touches | effect.drops
        for name in sorted((changed or frozenset()) - explained):
            # bound by what its text does not say, such as %run or exec
            whole = _digest(effect.digest for effect in steps)
            self.values[name] = self._value(Effect(digest=whole), name, execution)

    def seen(self, name: str) -> Value:
        """Return the value of a name for code that uses it now: functions with what they would read if called."""
        value = self.values.get(name, OUTSIDE)
        called = [(other, self.values[other]) for other in sorted(self._called(name))]
        if not called:
            return value
        inputs = (*value.inputs, *called)
        return Value(value.statement, value.made_by, inputs, digest=_of(value.statement, name, inputs))

    def _called(self, name: str) -> set[str]:
        """Return the names that calling `name` may read now, in functions that it calls too."""
        found: set[str] = set()
        waiting = [name]
        while waiting:
            value = self.values.get(waiting.pop())
            fresh = set() if value is None else (value.later & self.values.keys()) - found - {name}
            found |= fresh
            waiting += fresh
        return found

    # -- parts -------------------------------------------------------------------------------------------------

    def _apply(self, effect: Effect, execution: Execution, changed: frozenset[str] | None) -> None:
        made = {}
        for name in effect.binds:
            if execution.failed and changed is not None and name not in changed:
                continue  # the cell raised before it came here
            made[name] = self._value(effect, name, execution)
        for name in effect.touches:
            if name in self.values:
                made[name] = self._value(effect, name, execution)
        for name in effect.drops:
            self.values.pop(name, None)
        self.values |= made

    def _value(self, effect: Effect, name: str, execution: Execution) -> Value:
        read = effect.reads | (effect.touches & {name})
        inputs = tuple((other, self.seen(other)) for other in sorted(read))
        return Value(effect.digest, execution, inputs, effect.later, _of(effect.digest, name, inputs))


def _of(statement: str, name: str, inputs: Iterable[tuple[str, Value]]) -> str:
    return _digest([statement, name, *(part for other, value in inputs for part in (other, value.digest))])


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
