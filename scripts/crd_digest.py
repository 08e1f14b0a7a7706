"""Checks manifests against the schemas of a project's custom resources, and keeps a digest of what these demand.

    python scripts/crd_digest.py --project argo-rollouts --version v1.9.1 --manifests FOLDER [--out FILE] CRD.yaml ...

Every manifest in FOLDER of a kind that the CRD files define is validated against the whole schema, strictly: a field
that the schema does not have is an error. With ``--out``, the parts of the schema that the manifests use (types,
enumerations, required fields, patterns and bounds; no descriptions) are written as JSON, for tests to check manifests
against. Exit code 1 when a manifest does not fit.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

KEPT = ("enum", "required", "pattern", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems")
LOGICAL = ("anyOf", "oneOf", "allOf")
Schema = dict[str, Any]


def read_crds(paths: Iterable[Path]) -> dict[str, Schema]:
    """Return ``apiVersion/kind`` -> openAPIV3Schema of every served version."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    found: dict[str, Schema] = {}
    for path in paths:
        for document in yaml.load_all(path.read_text(), Loader=loader):
            if document and document.get("kind") == "CustomResourceDefinition":
                spec = document["spec"]
                for version in spec["versions"]:
                    key = f"{spec['group']}/{version['name']}/{spec['names']['kind']}"
                    if version.get("served", True):
                        found[key] = version["schema"]["openAPIV3Schema"]
    return found


def with_identity(schema: Schema) -> Schema:
    """Return a schema with what every object has, which a CRD may leave out."""
    plain = {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"}}
    return {**schema, "properties": {**plain, **schema.get("properties", {})}}


def strict(schema: Schema) -> Schema | bool:
    """Return a structural schema as JSON Schema in which fields that it does not name are errors."""
    if schema.get("x-kubernetes-preserve-unknown-fields") and "properties" not in schema:
        return True
    kept: Schema = {key: schema[key] for key in KEPT if key in schema}
    kept |= {key: schema[key] for key in LOGICAL if key in schema and not schema.get("x-kubernetes-int-or-string")}
    if schema.get("x-kubernetes-int-or-string"):
        kept["type"] = ["integer", "string"]
    elif "type" in schema:
        kept["type"] = [schema["type"], "null"] if schema.get("nullable") else schema["type"]
    if schema.get("format") == "int32":
        kept["minimum"] = max(kept.get("minimum", -(2**31)), -(2**31))
        kept["maximum"] = min(kept.get("maximum", 2**31 - 1), 2**31 - 1)
    if "items" in schema:
        kept["items"] = strict(schema["items"])
    extra = schema.get("additionalProperties")
    if isinstance(extra, dict):
        kept["additionalProperties"] = strict(extra)
    if "properties" in schema:
        kept["properties"] = {name: strict(inner) for name, inner in schema["properties"].items()}
        if extra is None and not schema.get("x-kubernetes-preserve-unknown-fields"):
            kept["additionalProperties"] = False
    return kept


def prune(schema: Schema | bool, values: list[Any]) -> Schema | bool:
    """Return what of a schema says anything about `values`."""
    if isinstance(schema, bool):
        return schema
    kept = dict(schema)
    objects = [value for value in values if isinstance(value, dict)]
    if "properties" in schema:
        used = {name for value in objects for name in value} | set(schema.get("required", ()))
        kept["properties"] = {
            name: prune(inner, [value[name] for value in objects if name in value])
            for name, inner in sorted(schema["properties"].items())
            if name in used
        }
    elif isinstance(schema.get("additionalProperties"), dict):
        inner = [item for value in objects for item in value.values()]
        kept["additionalProperties"] = prune(schema["additionalProperties"], inner)
    if "items" in schema:
        items = [item for value in values if isinstance(value, list) for item in value]
        kept["items"] = prune(schema["items"], items)
    for key in LOGICAL:
        # Alternatives over fields that no manifest has would only repeat the project's text.
        if key in kept and len(json.dumps(kept[key])) > 2000:
            del kept[key]
    return kept


def read_manifests(folder: Path) -> dict[str, list[tuple[str, Any]]]:
    """Return ``apiVersion/kind`` -> (place, manifest) of every document in a folder."""
    found: dict[str, list[tuple[str, Any]]] = {}
    for path in sorted(folder.rglob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            place = f"{path.name}: {document['kind']} {document['metadata']['name']}"
            found.setdefault(f"{document['apiVersion']}/{document['kind']}", []).append((place, document))
    return found


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--project", required=True)
    parser.add_argument("--version", required=True)
    parser.add_argument("--manifests", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("crds", type=Path, nargs="+")
    options = parser.parse_args()
    schemas, manifests = read_crds(options.crds), read_manifests(options.manifests)
    kinds: dict[str, Any] = {}
    faults = 0
    for key in sorted(schemas.keys() & manifests.keys()):
        whole = strict(with_identity(schemas[key]))
        for place, manifest in manifests[key]:
            for fault in Draft202012Validator(whole).iter_errors(manifest):
                faults += 1
                print(f"{place}: {'/'.join(map(str, fault.absolute_path))}: {fault.message[:300]}")
        kinds[key] = prune(whole, [manifest for _, manifest in manifests[key]])
        print(f"{key}: {len(manifests[key])} manifests checked against the whole schema")
    if options.out and not faults:
        digest = {"project": options.project, "version": options.version, "kinds": kinds}
        options.out.write_text(json.dumps(digest, indent=1, sort_keys=True) + "\n")
        print(f"{options.out}: {options.out.stat().st_size} bytes")
    return 1 if faults or not kinds else 0


if __name__ == "__main__":
    sys.exit(main())
