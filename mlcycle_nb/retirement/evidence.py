"""What the workspace knows about a version, as plain documents: records, measurements, audit entries, libraries."""

from __future__ import annotations

import json
import platform
import sys
from importlib.metadata import distributions
from typing import Any

from sqlalchemy import select

from mlcycle_nb.store import Store, schema
from mlcycle_nb.store.audit import entries, verify
from mlcycle_nb.store.keys import public_bytes, signing_key

KINDS = ("model_version", "validation", "service", "revision", "rollout", "monitor", "alert")
"""What goes into an archive. Consumers do not: their records hold keys."""
MEASUREMENTS_KEPT = 1000


def documents(store: Store, model: str, kinds: tuple[str, ...] = KINDS) -> dict[str, list[dict[str, Any]]]:
    """Return the stored documents about a model by kind, oldest first."""
    columns = schema.records.c
    about = (columns.name == model) | columns.name.endswith(f"/{model}", autoescape=True)
    query = (
        select(columns.kind, columns.document)
        .where(columns.kind.in_(kinds), about)
        .order_by(columns.kind, columns.created_at, columns.id)
    )
    with store.engine.connect() as connection, connection.begin():
        rows = connection.execute(query).all()
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row.kind, []).append(json.loads(row.document))
    return found


def measurements(store: Store, environment: str, model: str) -> dict[str, Any]:
    """Return what monitoring measured on the service: counts by kind, and the newest rows."""
    rows = store.measurements(f"monitor:{environment}/{model}")
    counts: dict[str, int] = {}
    for row in rows:
        counts[row["kind"]] = counts.get(row["kind"], 0) + 1
    kept = [{**row, "time": row["time"].isoformat()} for row in rows[-MEASUREMENTS_KEPT:]]
    return {"counts": counts, "newest": kept}


def audit_extract(store: Store, model: str) -> dict[str, Any]:
    """Return the entries about a model, and the signed head of the whole trail that they are part of."""
    chosen, last = [], None
    for entry in entries(store):
        last = entry
        subject = json.loads(entry.body)["subject"]
        if model in subject.replace(":", "/").split("/"):
            chosen.append(_entry(entry))
    verdict = verify(store)
    return {
        "workspace": store.workspace_id,
        "public_key": public_bytes(signing_key(store.workspace_id)).hex(),
        "head": None if last is None else _entry(last),
        "intact": verdict.intact,
        "problem": verdict.problem,
        "entries": chosen,
    }


def environment_lock() -> str:
    """Return the interpreter and every installed distribution, one ``name==version`` a line."""
    found = {f"{d.metadata['Name']}=={d.version}" for d in distributions() if d.metadata["Name"]}
    head = f"# Python {platform.python_version()} on {sys.platform} {platform.machine()}"
    return "\n".join([head, *sorted(found, key=str.lower)]) + "\n"


def _entry(entry: Any) -> dict[str, Any]:
    return {name: getattr(entry, name) for name in ("sequence", "body", "hash", "key_id", "signature")}
