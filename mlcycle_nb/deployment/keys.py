"""API keys of consumers: made here, shown once, kept only in one private file for each environment."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlcycle_nb.errors import IntegrityError
from mlcycle_nb.files import write_atomically


class ConsumerKeys:
    """The key file of one environment.

    Parameters
    ----------
    folder : Path
        The gateway's private folder.
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / "keys.json"
        self._lock = folder / "keys.lock"

    def read(self) -> dict[str, str]:
        """Return consumer name -> key."""
        try:
            stored = json.loads(self.file.read_text())
        except FileNotFoundError:
            return {}
        except ValueError:
            raise IntegrityError(
                "the file of API keys cannot be read",
                where=str(self.file),
                remedy="remove it, then revoke and add each consumer",
            ) from None
        return {str(name): str(key) for name, key in stored.items()}

    def make(self, name: str) -> str:
        """Make a new key for `name`, in place of any it had, and return it."""
        key = secrets.token_urlsafe(32)
        with self._locked():
            self._write({**self.read(), name: key})
        return key

    def forget(self, name: str) -> None:
        """Remove the key of `name`."""
        with self._locked():
            self._write({other: key for other, key in self.read().items() if other != name})

    def _write(self, keys: dict[str, str]) -> None:
        write_atomically(self.file, json.dumps(keys, indent=1, sort_keys=True), mode=0o600)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def key_digest(key: str) -> str:
    """Return a few characters that tell keys apart and give nothing away."""
    return hashlib.sha256(key.encode()).hexdigest()[:12]
