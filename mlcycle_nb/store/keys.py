"""The workspace's signing key and the last anchor: both outside the workspace folder, readable by this user only."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from filelock import FileLock

from mlcycle_nb.errors import IntegrityError, InvalidInput
from mlcycle_nb.files import private_folder, write_atomically


def keys_folder() -> Path:
    """Return the folder of keys: ``$MLCYCLE_KEYS``, else ``~/.config/mlcycle/keys``."""
    configured = os.environ.get("MLCYCLE_KEYS")
    return private_folder(Path(configured) if configured else Path.home() / ".config" / "mlcycle" / "keys")


def signing_key(workspace_id: str) -> Ed25519PrivateKey:
    """Return the private key of a workspace, made on first use."""
    path = keys_folder() / f"{workspace_id}.pem"
    with FileLock(path.with_suffix(".lock"), mode=0o600):
        if not path.exists():
            fresh = Ed25519PrivateKey.generate()
            encoded = fresh.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            write_atomically(path, encoded)
    loaded = serialization.load_pem_private_key(path.read_bytes(), password=None)
    if not isinstance(loaded, Ed25519PrivateKey):
        raise IntegrityError("the workspace key is not an Ed25519 key", where=str(path))
    return loaded


def public_bytes(key: Ed25519PrivateKey | Ed25519PublicKey) -> bytes:
    """Return the 32 raw bytes of the public key."""
    public = key.public_key() if isinstance(key, Ed25519PrivateKey) else key
    return public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


def key_id(key: Ed25519PrivateKey | Ed25519PublicKey) -> str:
    """Return 32 hexadecimal characters that name a key."""
    return hashlib.sha256(public_bytes(key)).hexdigest()[:32]


def trusted_keys(workspace_id: str) -> dict[str, Ed25519PublicKey]:
    """Return the public keys whose signatures count: this user's, and those in ``<id>.trusted/*.pub`` (raw hex)."""
    own = signing_key(workspace_id).public_key()
    keys = {key_id(own): own}
    for file in sorted((keys_folder() / f"{workspace_id}.trusted").glob("*.pub")):
        other = _public_key(file.read_text(), str(file))
        keys[key_id(other)] = other
    return keys


def trust(workspace_id: str, public_hex: str) -> str:
    """Count signatures of a colleague's key in this workspace; return the key's id."""
    other = _public_key(public_hex, "trust")
    folder = private_folder(keys_folder() / f"{workspace_id}.trusted")
    write_atomically(folder / f"{key_id(other)}.pub", public_bytes(other).hex())
    return key_id(other)


def _public_key(public_hex: str, where: str) -> Ed25519PublicKey:
    try:
        return Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_hex))
    except ValueError:
        raise InvalidInput(
            "not an Ed25519 public key",
            value=public_hex,
            where=where,
            remedy="give its 32 bytes as 64 hexadecimal digits",
        ) from None


def verify_signature(key: Ed25519PublicKey, signature: str, message: bytes) -> bool:
    """Return whether `signature` (hexadecimal, in its one spelling) is this key's signature of `message`."""
    try:
        raw = bytes.fromhex(signature)
        key.verify(raw, message)
    except (InvalidSignature, ValueError):
        return False
    return raw.hex() == signature


@dataclass(frozen=True, slots=True)
class Anchor:
    """The newest audit entry that this user has seen committed."""

    sequence: int
    hash: str


class AnchorFile:
    """The last anchor of a workspace; it only ever moves forward."""

    def __init__(self, workspace_id: str) -> None:
        self.path = keys_folder() / f"{workspace_id}.anchor.json"
        self._lock = FileLock(self.path.with_suffix(".lock"), mode=0o600)

    def read(self) -> Anchor | None:
        """Return the last anchor, or None when this user never wrote to the workspace."""
        try:
            tree = json.loads(self.path.read_text())
            return Anchor(int(tree["sequence"]), str(tree["hash"]))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            raise IntegrityError(
                "the anchor of the audit trail is damaged",
                where=str(self.path),
                remedy="put its copy back; without it a shortened trail cannot be told from a whole one",
            ) from None

    def advance(self, anchor: Anchor) -> None:
        """Record `anchor` unless a later one is recorded already."""
        with self._lock:
            last = self.read()
            if last is None or anchor.sequence > last.sequence:
                # Not synced: after a power loss an older anchor is still true, only less sharp.
                content = json.dumps({"sequence": anchor.sequence, "hash": anchor.hash})
                write_atomically(self.path, content, durable=False)
