"""Validation data: features, labels, groups and training rows, checked once and kept by content."""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlcycle_nb.errors import IntegrityError, InvalidInput, NotFound
from mlcycle_nb.files import private_folder, write_atomically

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.generic]

BYTES_LIMIT = 2 * 1024**3
_EXAMPLES = 3


@dataclass(frozen=True, slots=True, eq=False)
class ValidationData:
    """Rows that a model has not learned from, with what is known to be true about them.

    Make it from arrays or data frames; what cannot be judged by is refused with its place.

    Parameters
    ----------
    features : array_like or DataFrame, shape (n, ...)
    labels : array_like, shape (n,)
        Class indices or class names; numbers for regression.
    groups : mapping, optional
        Name of a grouping (such as ``sex``) to one value a row, for the fairness checks.
    train_features : array_like, optional
        The rows the model learned from, for the overlap check and for the scale of noise.
    feature_names : tuple of str, optional
        Taken from a data frame's columns when not given.
    """

    features: Array
    labels: Array
    groups: dict[str, Array] = field(default_factory=dict)
    train_features: Array | None = None
    feature_names: tuple[str, ...] = ()

    def __init__(
        self,
        features: Any,
        labels: Any,
        groups: Mapping[str, Any] | None = None,
        train_features: Any = None,
        feature_names: tuple[str, ...] = (),
    ) -> None:
        rows, columns = _rows(features, "features")
        names = tuple(feature_names) or columns
        truth = _labels(labels, len(rows))
        _refuse_leak(rows, truth, names)
        train = None
        if train_features is not None:
            train, _ = _rows(train_features, "train_features")
            if train.shape[1:] != rows.shape[1:]:
                raise InvalidInput(
                    f"train_features rows have shape {list(train.shape[1:])}, features rows {list(rows.shape[1:])}"
                )
        checked = {str(name): _group(str(name), values, len(rows)) for name, values in (groups or {}).items()}
        object.__setattr__(self, "features", rows)
        object.__setattr__(self, "labels", truth)
        object.__setattr__(self, "groups", checked)
        object.__setattr__(self, "train_features", train)
        object.__setattr__(self, "feature_names", names)

    def __len__(self) -> int:
        return len(self.features)

    def __repr__(self) -> str:
        groups = f", groups {', '.join(self.groups)}" if self.groups else ""
        train = "" if self.train_features is None else f", {len(self.train_features):,} training rows"
        return f"ValidationData({len(self):,} rows of {list(self.features.shape[1:])}{groups}{train})"

    @property
    def digest(self) -> str:
        """``sha256:`` and the hash of names, types, shapes and bytes of all arrays."""
        digest = hashlib.sha256(json.dumps([list(self.feature_names)]).encode())
        for name, array in sorted(self._arrays().items()):
            digest.update(f"{name}|{array.dtype.str}|{array.shape}|".encode())
            digest.update(array.tobytes())
        return "sha256:" + digest.hexdigest()

    def _arrays(self) -> dict[str, Array]:
        arrays = {"features": self.features, "labels": self.labels}
        arrays |= {f"group:{name}": values for name, values in self.groups.items()}
        if self.train_features is not None:
            arrays["train_features"] = self.train_features
        return arrays

    def to_bytes(self) -> bytes:
        """Return the data as an npz archive without pickles."""
        import numpy as np

        sink = io.BytesIO()
        names = np.array(self.feature_names, dtype=str) if self.feature_names else np.zeros(0, dtype="U1")
        np.savez_compressed(sink, allow_pickle=False, **self._arrays(), feature_names=names)
        return sink.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes, *, where: str) -> ValidationData:
        """Read an npz archive with the members ``features``, ``labels`` and, where there are, the others."""
        arrays = read_npz(content, where=where)
        for wanted in ("features", "labels"):
            if wanted not in arrays:
                raise InvalidInput(f"the archive has no array {wanted}", value=", ".join(arrays), where=where)
        names = arrays.get("feature_names")
        return cls(
            arrays["features"],
            arrays["labels"],
            {name.removeprefix("group:"): values for name, values in arrays.items() if name.startswith("group:")},
            arrays.get("train_features"),
            () if names is None else tuple(str(name) for name in names),
        )


def save(data: ValidationData, folder: Path) -> str:
    """Keep `data` in `folder` under its digest; return the digest."""
    private_folder(folder)
    digest = data.digest
    path = folder / f"{digest.replace(':', '-')}.npz"
    if not path.exists():
        write_atomically(path, data.to_bytes())
    return digest


def load(digest: str, folder: Path) -> ValidationData:
    """Return the data of this digest; every byte of it is checked."""
    path = folder / f"{digest.replace(':', '-')}.npz"
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise NotFound("there is no validation data of this digest", value=digest, where=str(folder)) from None
    try:
        data = ValidationData.from_bytes(content, where=str(path))
    except InvalidInput as failure:
        raise IntegrityError(f"the validation data is damaged: {failure.problem}", where=str(path)) from failure
    if data.digest != digest:
        raise IntegrityError(f"the file holds data of digest {data.digest}", value=digest, where=str(path))
    return data


def read_npz(content: bytes, *, where: str) -> dict[str, Array]:
    """Return the arrays of an npz archive: no pickles, no paths, nothing larger than it says or than 2 GiB."""
    import numpy as np

    arrays: dict[str, Array] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if sum(member.file_size for member in archive.infolist()) > BYTES_LIMIT:
                raise InvalidInput("the archive unpacks to over 2 GiB", where=where)
            for member in archive.infolist():
                name = member.filename.removesuffix(".npy")
                if name == member.filename or "/" in name or "\\" in name or ".." in name or name in arrays:
                    raise InvalidInput("the archive has a member that is no array", value=member.filename, where=where)
                with archive.open(member) as stream:
                    arrays[name] = np.lib.format.read_array(stream, allow_pickle=False)  # type: ignore[no-untyped-call]
    except InvalidInput:
        raise
    except ValueError as failure:
        problem = "object arrays are not allowed" if "Object arrays" in str(failure) else f"cannot be read: {failure}"
        raise InvalidInput(problem, where=where) from None
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError, MemoryError) as failure:
        raise InvalidInput(f"the archive is cut short or damaged: {failure}", where=where) from None
    return arrays


def read_bytes_once(path: Path, *, limit: int = BYTES_LIMIT) -> bytes:
    """Return the bytes of a regular file, refusing one that changes while it is read."""
    import stat

    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as failure:
        raise InvalidInput(f"cannot be opened: {failure.strerror}", value=str(path)) from None
    before = os.fstat(descriptor)
    if not stat.S_ISREG(before.st_mode):
        os.close(descriptor)
        raise InvalidInput("is not a regular file", value=str(path))
    with os.fdopen(descriptor, "rb") as stream:
        if before.st_size > limit:
            raise InvalidInput(f"has {before.st_size} bytes, over {limit}", value=str(path))
        content = stream.read(limit + 1)
        after = os.fstat(stream.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns) or len(content) != after.st_size:
        raise InvalidInput(
            "the file changed while it was read", value=str(path), remedy="try again when it is complete"
        )
    if not content:
        raise InvalidInput("the file is empty", value=str(path))
    return content


def _rows(data: Any, what: str) -> tuple[Array, tuple[str, ...]]:
    import numpy as np

    columns = getattr(data, "columns", None)
    names = tuple(str(name) for name in columns) if columns is not None and hasattr(data, "to_numpy") else ()
    array = _plain(data, what)
    if array.ndim < 2:
        raise InvalidInput(f"{what} must have rows and columns", value=f"shape {list(array.shape)}")
    if len(array) < 2:
        raise InvalidInput(f"{what} has too few rows to judge by", value=len(array))
    if array.dtype.kind not in "fiub":
        raise InvalidInput(f"{what} must be numbers", value=str(array.dtype), remedy=_first_text(array))
    if array.dtype.kind == "f":
        finite = np.isfinite(array.reshape(len(array), -1))
        if not finite.all():
            raise InvalidInput(_not_finite(what, finite, names), remedy="drop or impute those rows, and say so")
    dtype = np.int64 if array.dtype.kind in "iu" else np.float32
    with np.errstate(over="ignore"):  # what does not fit becomes infinite, and is refused below
        converted = np.ascontiguousarray(array, dtype=dtype)
    if dtype == np.float32 and not np.isfinite(converted).all():
        raise InvalidInput(f"{what} holds numbers too large for 32 bits")
    return converted, names


def _plain(data: Any, what: str) -> Array:
    import numpy as np

    if hasattr(data, "detach"):
        data = data.detach().cpu().numpy()
    array: Array = np.asarray(data.to_numpy() if hasattr(data, "to_numpy") else data)
    if array.dtype.kind == "O":
        kinds = sorted({type(value).__name__ for value in array.ravel()})
        if kinds == ["str"]:
            return array.astype(str)
        if kinds and set(kinds) <= {"int", "float", "bool"} and "bool" not in kinds:
            return array.astype(np.float64)
        where = next((int(i) for i, v in enumerate(array.ravel()) if type(v) is not type(array.ravel()[0])), 0)
        row = where // max(1, array.size // max(1, len(array)))
        raise InvalidInput(f"{what} mixes {', '.join(kinds[:4])}; first at row {row}", remedy="give one plain type")
    return array


def _not_finite(what: str, finite: NDArray[np.bool_], names: tuple[str, ...]) -> str:
    bad = (~finite).sum(axis=0)
    columns = [int(column) for column in bad.nonzero()[0]]
    shown = []
    for column in columns[:_EXAMPLES]:
        name = names[column] if column < len(names) else str(column)
        count = int(bad[column])
        shown.append(f"column {name}: {'all' if count == len(finite) else count} of {len(finite)} values")
    more = f" and {len(columns) - _EXAMPLES} more columns" if len(columns) > _EXAMPLES else ""
    return f"{what} has values that are not finite: {', '.join(shown)}{more}"


def _first_text(array: Array) -> str:
    return f"the first value is {array.ravel()[0]!r}"[:80] if array.size else ""


def _labels(labels: Any, rows: int) -> Array:
    import numpy as np

    array = _plain(labels, "labels")
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.shape != (rows,):
        raise InvalidInput(f"labels have shape {list(array.shape)} for {rows} rows")
    if array.dtype.kind == "b":
        array = array.astype(np.int64)
    if array.dtype.kind == "f":
        missing = int((~np.isfinite(array)).sum())
        if missing:
            raise InvalidInput(
                f"labels has {missing} values that are not finite", remedy="drop the rows without a label"
            )
    if array.dtype.kind not in "iufU":
        raise InvalidInput("labels must be numbers or text", value=str(array.dtype))
    distinct = np.unique(array)
    if len(distinct) < 2:
        raise InvalidInput(
            f"all {rows} labels are the same", value=distinct[0].item(), remedy="one class shows nothing"
        )
    return np.ascontiguousarray(array)


def _refuse_leak(rows: Array, labels: Array, names: tuple[str, ...]) -> None:
    if labels.dtype.kind == "U" or rows.ndim != 2:
        return
    for column in range(rows.shape[1]):
        if (rows[:, column] == labels.astype(rows.dtype)).all():
            name = names[column] if column < len(names) else str(column)
            raise InvalidInput(f"the label is also feature {column} ({name})", remedy="drop that column")


def _group(name: str, values: Any, rows: int) -> Array:
    import numpy as np

    array = _plain(values, f"group {name}")
    if array.shape != (rows,):
        raise InvalidInput(f"group {name} has shape {list(array.shape)} for {rows} rows")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        missing = int((~np.isfinite(array)).sum())
        raise InvalidInput(f"group {name} has {missing} missing values", remedy='name them, for example "unknown"')
    return np.ascontiguousarray(array.astype(str))
