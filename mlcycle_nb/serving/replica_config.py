"""The configuration file of one replica, as the supervisor writes it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlcycle_nb.errors import InvalidSettings, did_you_mean
from mlcycle_nb.files import read_small_file
from mlcycle_nb.references import check_name
from mlcycle_nb.serving.limits import Limits

SOCKET_PATH_BYTES = 100
_REQUIRED = ("package_path", "digest", "model", "version", "environment", "socket")
_OPTIONAL = ("prediction_log", "sample_rate", "threads", "trusted_keys", "limits")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaConfig:
    """What a replica is started with.

    Parameters
    ----------
    package_path : Path
        Folder of the package.
    digest : str
        Digest it must have.
    model, version, environment : str
        What it answers for.
    socket : Path
        Unix socket to listen on.
    prediction_log : Path, optional
        Folder under which predictions are logged; none when not given.
    sample_rate : float
        Share of the requests that is logged, chosen by prediction id, so that mirrored answers of two versions meet.
    threads : int
        Threads one prediction may use.
    trusted_keys : tuple of str
        Ed25519 public keys (hexadecimal) whose signature lets a python package be loaded.
    limits : Limits
        Bounds on requests.
    """

    package_path: Path
    digest: str
    model: str
    version: str
    environment: str
    socket: Path
    prediction_log: Path | None = None
    sample_rate: float = 1.0
    threads: int = 1
    trusted_keys: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)

    @classmethod
    def read(cls, path: Path) -> ReplicaConfig:
        """Read and check a configuration file."""
        try:
            form = json.loads(read_small_file(path))
        except ValueError as failure:
            raise InvalidSettings(f"is not JSON: {failure}", where=str(path)) from None
        if not isinstance(form, dict):
            raise InvalidSettings("must be an object", where=str(path))
        return cls.from_json(form, where=str(path))

    @classmethod
    def from_json(cls, form: dict[str, Any], *, where: str) -> ReplicaConfig:
        """Check every key and value."""
        known = (*_REQUIRED, *_OPTIONAL)
        for key in form:
            if key not in known:
                raise InvalidSettings("unknown replica key", value=key, where=where, remedy=did_you_mean(key, known))
        missing = [key for key in _REQUIRED if key not in form]
        if missing:
            raise InvalidSettings(f"replica key {missing[0]} is missing", where=where)
        socket = Path(form["socket"])
        if len(bytes(socket)) > SOCKET_PATH_BYTES:
            raise InvalidSettings(
                f"a socket path has at most {SOCKET_PATH_BYTES} bytes", value=str(socket), where=where,
                remedy="set MLCYCLE_HOME to a shorter folder",
            )  # fmt: skip
        rate = form.get("sample_rate", 1.0)
        if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 <= rate <= 1:
            raise InvalidSettings("sample_rate must be a number in [0, 1]", value=rate, where=where)
        threads = form.get("threads", 1)
        if type(threads) is not int or not 1 <= threads <= 64:
            raise InvalidSettings("threads must be a whole number in [1, 64]", value=threads, where=where)
        log = form.get("prediction_log")
        return cls(
            package_path=Path(form["package_path"]),
            digest=str(form["digest"]),
            model=check_name(str(form["model"]), "model"),
            version=str(int(form["version"])),
            environment=check_name(str(form["environment"]), "environment"),
            socket=socket,
            prediction_log=None if log is None else Path(log),
            sample_rate=float(rate),
            threads=threads,
            trusted_keys=tuple(str(key) for key in form.get("trusted_keys", ())),
            limits=Limits.from_json(form.get("limits", {})),
        )
