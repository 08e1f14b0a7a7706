"""The deletion certificate: what was deleted, on which proof, signed with the workspace's key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mlcycle_nb.context import Context
from mlcycle_nb.errors import IntegrityError, Refused
from mlcycle_nb.files import read_small_file, write_atomically
from mlcycle_nb.retirement.records import Retirement
from mlcycle_nb.store.keys import key_id, signing_key, trusted_keys, verify_signature
from mlcycle_nb.store.record import canonical_json, format_time


def issue(context: Context, record: Retirement, deleted: list[dict[str, object]]) -> Path:
    """Write the certificate beside the archive and return its path."""
    if record.archive is None or record.archive.verified_at is None or record.deleted_at is None:
        raise Refused("nothing was deleted on a proven archive, so nothing is certified", value=record.id)
    body = canonical_json(
        {
            "retirement": record.id,
            "version": record.reference,
            "environment": record.environment,
            "package": record.package_digest,
            "files": deleted,
            "deleted_at": format_time(record.deleted_at),
            "archive": {"sha256": record.archive.sha256, "size_bytes": record.archive.size_bytes},
            "archive_verified_at": format_time(record.archive.verified_at),
            "golden_rows_answered": record.archive.golden_rows,
            "workspace": context.workspace_id,
        }
    )
    key = signing_key(context.workspace_id)
    form = {"body": body, "key_id": key_id(key), "signature": key.sign(body.encode()).hex()}
    path = context.home / Path(record.archive.path).with_suffix(".certificate.json")
    write_atomically(path, json.dumps(form, indent=1, sort_keys=True) + "\n")
    return path


def check(context: Context, path: Path) -> dict[str, Any]:
    """Return what a certificate says when a trusted key signed it.

    Raises
    ------
    IntegrityError
        When it was changed, or signed by a key that is not trusted here.
    """
    try:
        form = json.loads(read_small_file(path))
        body, identifier, signature = str(form["body"]), str(form["key_id"]), str(form["signature"])
    except (ValueError, KeyError, TypeError):
        raise IntegrityError("the deletion certificate cannot be read", where=str(path)) from None
    key = trusted_keys(context.workspace_id).get(identifier)
    if key is None or not verify_signature(key, signature, body.encode()):
        raise IntegrityError("the deletion certificate is not signed by a trusted key", where=str(path))
    return dict(json.loads(body))
