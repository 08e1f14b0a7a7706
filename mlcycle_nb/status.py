"""Everything that is alive in a workspace, in one look."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from mlcycle_nb.context import Context
from mlcycle_nb.notebook.html import badge, heading, table, text_table
from mlcycle_nb.store import schema
from mlcycle_nb.supervisor.start import find_supervisor

_HEADERS = ("kind", "id", "phase", "error")


@dataclass(frozen=True, slots=True)
class WorkspaceStatus:
    """Active records, living processes and the supervisor."""

    home: str
    supervisor_pid: int | None
    records: tuple[tuple[str, str, str, str], ...]  # kind, id, phase, last error
    processes: tuple[str, ...]

    def __repr__(self) -> str:
        supervisor = "not running" if self.supervisor_pid is None else f"pid {self.supervisor_pid}"
        lines = [f"workspace {self.home}", f"supervisor: {supervisor}", f"processes: {len(self.processes)}"]
        if self.records:
            lines.append(text_table(_HEADERS, self.records))
        else:
            lines.append("nothing is active")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "home": self.home,
            "supervisor_pid": self.supervisor_pid,
            "records": [dict(zip(_HEADERS, row, strict=True)) for row in self.records],
            "processes": list(self.processes),
        }

    def _repr_html_(self) -> str:
        rows = [(kind, id, badge(phase), error) for kind, id, phase, error in self.records]
        title = heading(f"workspace {self.home}", "running" if self.supervisor_pid else "stopped")
        return title + table(_HEADERS, rows) + f"<div>{len(self.processes)} processes</div>"


def read_status(context: Context) -> WorkspaceStatus:
    """Read the status of a workspace."""
    columns, seen = schema.records.c, schema.observations.c
    query = (
        select(columns.kind, columns.id, columns.phase, seen.document)
        .outerjoin(schema.observations, (seen.kind == columns.kind) & (seen.id == columns.id))
        .where(columns.active)
        .order_by(columns.kind, columns.id)
    )
    with context.store.engine.connect() as connection, connection.begin():
        rows = connection.execute(query).all()
    records = tuple(
        (row.kind, row.id, row.phase, json.loads(row.document).get("error", "") if row.document else "") for row in rows
    )
    supervisor = find_supervisor(context.home)
    return WorkspaceStatus(
        str(context.home), supervisor.pid if supervisor else None, records, tuple(context.processes.names())
    )
