"""What two runs came from, beside each other: data, commit, packages, seeds and the text of their cells."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlcycle_nb.development.provenance import Provenance

LINES_SHOWN = 200
_ABSENT = "-"


@dataclass(frozen=True, slots=True)
class OriginComparison:
    """The origins of some runs; a run whose origin was not recorded, or is damaged, has None.

    Attributes
    ----------
    labels : tuple of str
        Names of the runs, in their order.
    origins : tuple of Provenance or None
    """

    labels: tuple[str, ...]
    origins: tuple[Provenance | None, ...]

    def rows(self) -> list[tuple[str, ...]]:
        """Return one line for each datum, seed and fact that is not the same in all: kind, name, value in each run."""
        facts = (
            self._differing("data", [None if o is None else o.data for o in self.origins], cut=19),
            self._differing("seed", [None if o is None else o.seeds for o in self.origins]),
            self._differing("code", [None if o is None else _code(o) for o in self.origins], cut=19),
        )
        return [row for rows in facts for row in rows]

    def packages(self) -> list[tuple[str, ...]]:
        """Return one line for each installed package whose version is not the same in all."""
        versions = [None if o is None else dict(one.partition("==")[::2] for one in o.packages) for o in self.origins]
        return self._differing("package", versions)

    def cell_diffs(self) -> list[tuple[str, str]]:
        """Return, for each run but the first, its label and the unified diff from the first one's cell."""
        found = []
        first = self.origins[0]
        for label, other in zip(self.labels[1:], self.origins[1:], strict=True):
            if first is not None and other is not None and first.cell != other.cell:
                found.append((label, unified(first.cell, other.cell, self.labels[0], label)))
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "origin": [list(row) for row in self.rows()],
            "packages": [list(row) for row in self.packages()],
            "cells": dict(self.cell_diffs()),
        }

    def _differing(
        self, kind: str, tables: Sequence[Mapping[str, Any] | None], cut: int | None = None
    ) -> list[tuple[str, ...]]:
        names = sorted({name for one in tables if one is not None for name in one})
        rows = []
        for name in names:
            values = ["not recorded" if one is None else str(one.get(name, _ABSENT))[:cut] for one in tables]
            full = {None if one is None else str(one.get(name, _ABSENT)) for one in tables}
            if len(full) > 1:
                rows.append((kind, name, *values))
        return rows


def unified(before: str, after: str, before_name: str, after_name: str) -> str:
    """Return a unified diff of two texts, cut to its first 200 lines."""
    lines = list(
        difflib.unified_diff(before.splitlines(), after.splitlines(), before_name, after_name, lineterm="", n=3)
    )
    if len(lines) > LINES_SHOWN:
        lines = [*lines[:LINES_SHOWN], f"... {len(lines) - LINES_SHOWN} more lines"]
    return "\n".join(lines)


def _code(origin: Provenance) -> dict[str, str]:
    return {
        "cell": origin.cell_digest or _ABSENT,
        "cells before": f"{len(origin.cells_before)} {origin.cells_before_digest[7:15]}".strip(),
        "commit": origin.git_commit[:12] or _ABSENT,
        "uncommitted changes": origin.git_diff_digest or _ABSENT,
        "python": origin.python or _ABSENT,
        "platform": origin.platform or _ABSENT,
    }
