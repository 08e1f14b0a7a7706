"""Signs a package's digest with the workspace's Ed25519 key, and tells whether a trusted key signed it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mlcycle_nb.errors import Refused

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_CONTEXT = b"mlcycle-package-v1\x00"


def public_key_hex(key: Ed25519PrivateKey) -> str:
    """Return the public half, as a replica is told it."""
    return key.public_key().public_bytes_raw().hex()


def sign_digest(key: Ed25519PrivateKey, digest: str) -> bytes:
    """Return the content of a package's signature file."""
    form = {
        "algorithm": "ed25519",
        "public_key": public_key_hex(key),
        "signature": key.sign(_CONTEXT + digest.encode()).hex(),
    }
    return json.dumps(form, sort_keys=True).encode()


def check_signature(content: bytes | None, digest: str, trusted_keys: Sequence[str], *, where: str) -> None:
    """Raise Refused unless one of `trusted_keys` (public keys, hexadecimal) signed `digest`."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    remedy = "build the package again in this workspace"
    if content is None:
        raise Refused("this package runs code and nobody signed it", where=where, remedy=remedy)
    try:
        form = json.loads(content)
        public_key, signature = form["public_key"], bytes.fromhex(form["signature"])
    except (ValueError, KeyError, TypeError):
        raise Refused("the signature of this package cannot be read", where=where, remedy=remedy) from None
    if public_key not in trusted_keys:
        raise Refused("this package runs code and another workspace signed it", where=where, remedy=remedy)
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key)).verify(signature, _CONTEXT + digest.encode())
    except (InvalidSignature, ValueError):
        raise Refused("the signature does not fit this package", where=where, remedy=remedy) from None
