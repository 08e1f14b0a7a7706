"""What an archive of a version holds, gathered from the package store and the workspace database."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from mlcycle_nb.context import Context
from mlcycle_nb.retirement import evidence
from mlcycle_nb.retirement.archive import PACKAGE_FOLDER, Member
from mlcycle_nb.retirement.handover import document
from mlcycle_nb.retirement.records import Retirement
from mlcycle_nb.store.record import encode

if TYPE_CHECKING:
    from mlcycle_nb.packages import Package


def collect(context: Context, record: Retirement, package: Package, lineage: Mapping[str, Any]) -> list[Member]:
    """Return the members of the archive: package, data references, verdicts, deployments, monitoring, audit, texts."""
    known = evidence.documents(context.store, record.model)
    verdicts = [one for one in known.get("validation", []) if one.get("model_version") == record.model_version]
    deployments = {kind: known.get(kind, []) for kind in ("service", "revision", "rollout")}
    monitoring = {
        "monitors": known.get("monitor", []),
        "alerts": known.get("alert", []),
        "measurements": evidence.measurements(context.store, record.environment, record.model),
    }
    return [
        *package_members(package),
        Member.of("data-references.json", _json(data_references(package, lineage))),
        Member.of("validations.json", _json(verdicts)),
        Member.of("deployments.json", _json(deployments)),
        Member.of("monitoring.json", _json(monitoring)),
        Member.of("audit.json", _json(evidence.audit_extract(context.store, record.model))),
        Member.of("environment.txt", evidence.environment_lock()),
        Member.of("retirement.json", encode(record)),
        Member.of("model-card.md", model_card(record, package, verdicts)),
        Member.of("handover.md", document(record, known, lineage)),
    ]


def package_members(package: Package) -> list[Member]:
    """Return every file of a package with its recorded hash; reading a damaged one raises IntegrityError."""
    from mlcycle_nb.packages.manifest import MANIFEST_NAME, SIGNATURE_NAME

    manifest = package.manifest.to_bytes()
    members = [
        Member(f"{PACKAGE_FOLDER}/{name}", entry.sha256, entry.size_bytes, partial(package.read, name))
        for name, entry in package.manifest.files.items()
    ]
    members.append(Member.of(f"{PACKAGE_FOLDER}/{MANIFEST_NAME}", manifest))
    signature = package.signature_file()
    if signature is not None:
        members.append(Member.of(f"{PACKAGE_FOLDER}/{SIGNATURE_NAME}", signature))
    return members


def data_references(package: Package, lineage: Mapping[str, Any]) -> dict[str, Any]:
    """Return where the data came from, by digest; data itself is not copied."""
    from mlcycle_nb.packages.golden import GOLDEN_NAME
    from mlcycle_nb.packages.reference import REFERENCE_NAME

    files = package.manifest.files
    windows = {name: files[name].sha256 for name in (REFERENCE_NAME, GOLDEN_NAME) if name in files}
    return {"lineage": dict(lineage), "in_package": windows, "features": list(package.feature_names)}


def model_card(record: Retirement, package: Package, verdicts: list[dict[str, Any]]) -> str:
    """Return the model card as Markdown: what it was, how it was judged, why and when it ended."""
    inputs = ", ".join(f"{t.name} {t.datatype} {list(t.shape)}" for t in package.signature.inputs)
    outputs = ", ".join(f"{t.name} {t.datatype} {list(t.shape)}" for t in package.signature.outputs)
    size = sum(entry.size_bytes for entry in package.manifest.files.values())
    lines = [
        f"# {record.reference}",
        "",
        f"- task: {package.task}",
        f"- format: {package.format}, {size:,} bytes",
        f"- package: {package.digest}",
        f"- inputs: {inputs}",
        f"- outputs: {outputs}",
        f"- features: {len(package.feature_names)}",
        f"- classes: {', '.join(package.class_names) or 'none'}",
        "",
        "## Verdicts",
        "",
        *([f"- {one['id']}: {one.get('outcome')} on {one.get('rows')} rows" for one in verdicts] or ["- none"]),
        "",
        "## End of life",
        "",
        f"- environment: {record.environment}",
        f"- replacement: {record.replacement or 'none'}",
        f"- reason: {' '.join(record.reason.split())}",
        f"- requested by: {record.requested_by}",
    ]
    return "\n".join(lines) + "\n"


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, indent=1, ensure_ascii=True, default=str) + "\n"
