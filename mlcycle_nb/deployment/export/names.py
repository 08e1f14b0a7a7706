"""What Kubernetes accepts as names, images, addresses and durations."""

from __future__ import annotations

import hashlib
import re
from urllib.parse import urlsplit

from mlcycle_nb.errors import InvalidInput

NAME_LIMIT = 40
"""Suffixes such as ``-canary`` and the hashes of controllers have to fit into 63 characters as well."""
_LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_DOMAIN = r"(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*(?::[0-9]{1,5})?"
_PATH = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_IMAGE = re.compile(
    rf"(?:{_DOMAIN}/)?{_PATH}(?:/{_PATH})*(?::[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}})?(?:@sha256:[0-9a-f]{{64}})?"
)
_STORAGE = ("pvc", "s3", "gs", "https", "http", "oci", "hf", "hdfs")


def object_name(model: str, environment: str) -> str:
    """Return the name of a model's objects: ``digits-production``, and with a digest where that is no valid name.

    Kubernetes wants a name that begins with a letter and has no ``_``; two models never get one name.
    """
    plain = f"{model}-{environment}"
    if len(plain) <= NAME_LIMIT and _LABEL.fullmatch(plain):
        return plain
    digest = hashlib.sha256(plain.encode()).hexdigest()[:8]
    cleaned = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")
    if not cleaned[:1].isalpha():
        cleaned = f"m-{cleaned}"
    return f"{cleaned[: NAME_LIMIT - 9].rstrip('-')}-{digest}"


def check_namespace(text: str) -> str:
    """Return a namespace, or the empty text for whichever is current when the files are applied."""
    if text and (len(text) > 63 or not _NAMESPACE.fullmatch(text)):
        raise InvalidInput(
            "a namespace has 1 to 63 of a-z, 0-9 and '-', and no '-' at an end", value=text, where="--namespace"
        )
    return text


def check_image(text: str) -> str:
    """Return a container image's reference, such as ``registry.example/digits:v7``."""
    if len(text) > 500 or not _IMAGE.fullmatch(text):
        raise InvalidInput(
            "is not a container image", value=text, where="--image", remedy="such as registry.example/digits:v7"
        )
    return text


def check_prometheus(text: str) -> str:
    """Return the address of Prometheus, an ``http`` or ``https`` URL without password, query or fragment."""
    if "@" in text:  # before anything can fail that would repeat it
        raise InvalidInput(
            "an address with a password would lie in the files", where="--prometheus", remedy="use a secret"
        )
    try:
        parts = urlsplit(text)
        port_is_fine = parts.port is None or parts.port > 0
    except ValueError:
        parts, port_is_fine = urlsplit(""), False
    odd = not text.isascii() or not text.isprintable() or any(one in text for one in " \"'<>\\{}$")
    if odd or not port_is_fine or parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
        raise InvalidInput(
            "is not the address of a Prometheus",
            value=text,
            where="--prometheus",
            remedy="such as http://prometheus.istio-system:9090",
        )
    return text.rstrip("/")


def check_storage(text: str) -> str:
    """Return where KServe finds the model, a URI such as ``pvc://models/digits/7``."""
    scheme, found, rest = text.partition("://")
    fine = text.isascii() and text.isprintable() and not any(one in text for one in " \"'<>\\{}$@")
    if not found or scheme not in _STORAGE or not rest.strip("/") or not fine:
        raise InvalidInput(
            "is not a storage address that KServe reads",
            value=text.rpartition("@")[2],  # what stands before it may be a password
            where="--storage",
            remedy=f"such as pvc://models/digits/7; known schemes: {', '.join(_STORAGE)}",
        )
    return text


def whole_seconds(seconds: float) -> int:
    """Return seconds as controllers count them: whole ones, at least one, rounded up."""
    return max(1, int(-(-seconds // 1)))
