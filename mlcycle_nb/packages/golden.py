"""The golden batch: a few inputs and the original model's answers, kept as plain arrays."""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING, Any

from mlcycle_nb.errors import Refused
from mlcycle_nb.packages.manifest import GoldenTolerance

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Arrays = dict[str, NDArray[np.generic]]

GOLDEN_NAME = "golden.npz"
GOLDEN_ROWS = 32
MEMBER_BYTES = 64 * 1_048_576
_FIXED_TIME = (1980, 1, 1, 0, 0, 0)


def pack(inputs: Arrays, outputs: Arrays) -> bytes:
    """Return the batch as an npz whose bytes depend on the arrays only."""
    import numpy as np

    npy: Any = np.lib.format
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for side, arrays in (("in", inputs), ("out", outputs)):
            for name in sorted(arrays):
                member = io.BytesIO()
                npy.write_array(member, np.ascontiguousarray(arrays[name]), version=(1, 0), allow_pickle=False)
                archive.writestr(zipfile.ZipInfo(f"{side}.{name}.npy", _FIXED_TIME), member.getvalue())
    return buffer.getvalue()


def unpack(content: bytes, *, where: str) -> tuple[Arrays, Arrays]:
    """Read a batch back; anything but stored, plain arrays is refused."""
    sides: dict[str, Arrays] = {"in": {}, "out": {}}
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for member in archive.infolist():
                side, name = _member_name(member, where)
                sides[side][name] = _array(archive.read(member), member.filename, where)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError) as failure:
        if isinstance(failure, Refused):
            raise
        raise Refused(f"the golden batch is no sound npz archive: {failure}", where=where) from None
    if not sides["in"] or not sides["out"]:
        raise Refused("the golden batch has no inputs or no outputs", where=where)
    return sides["in"], sides["out"]


def _member_name(member: zipfile.ZipInfo, where: str) -> tuple[str, str]:
    if member.flag_bits & ~0x800:
        raise Refused(f"{member.filename} has zip flags 0x{member.flag_bits:x} (encrypted or patched)", where=where)
    if member.compress_type != zipfile.ZIP_STORED:
        raise Refused(f"{member.filename} is compressed; golden batches are stored plain", where=where)
    if member.file_size > MEMBER_BYTES:
        raise Refused(f"{member.filename} claims {member.file_size} bytes, over {MEMBER_BYTES}", where=where)
    side, dot, name = member.filename.removesuffix(".npy").partition(".")
    if side not in {"in", "out"} or not dot or not name or "/" in name or "\\" in name or not _is_npy(member.filename):
        raise Refused(f"{member.filename!r} is no member of a golden batch", where=where)
    return side, name


def _is_npy(filename: str) -> bool:
    return filename.endswith(".npy") and ".." not in filename


def _array(content: bytes, filename: str, where: str) -> NDArray[np.generic]:
    import numpy as np

    npy: Any = np.lib.format
    stream = io.BytesIO(content)
    try:
        version = npy.read_magic(stream)
        if version != (1, 0):
            raise ValueError(f"npy version {version}")
        shape, _, dtype = npy.read_array_header_1_0(stream)
    except ValueError as failure:
        raise Refused(f"{filename} is no plain array: {failure}", where=where) from None
    if dtype.hasobject:
        raise Refused(f"{filename}: object arrays are not allowed, they run code when loaded", where=where)
    claimed = int(np.prod(shape, dtype=object)) * dtype.itemsize if shape else dtype.itemsize
    if claimed != len(content) - stream.tell():
        raise Refused(f"{filename} claims {claimed} bytes and holds {len(content) - stream.tell()}", where=where)
    stream.seek(0)
    array: NDArray[np.generic] = npy.read_array(stream, allow_pickle=False)
    return array


def difference(expected: Arrays, found: Arrays, tolerance: GoldenTolerance) -> tuple[str, float]:
    """Compare answers with the original's.

    Returns
    -------
    problem : str
        Empty when every output agrees within the tolerance.
    largest : float
        Largest absolute difference over all floating outputs.
    """
    import numpy as np

    largest = 0.0
    for name, want in expected.items():
        got = found.get(name)
        if got is None:
            return f"output {name} is missing", largest
        if got.shape != want.shape:
            return f"output {name} has shape {list(got.shape)}, the original gave {list(want.shape)}", largest
        if name == "label":
            doubtful = _near_ties(expected.get("probabilities"), tolerance)
            wrong = np.flatnonzero((got != want) & ~doubtful)
            if wrong.size:
                row = int(wrong[0])
                return f"row {row}: label {got[row]}, the original gave {want[row]} ({wrong.size} rows differ)", largest
            continue
        gap = np.abs(got.astype(np.float64) - want.astype(np.float64))
        if gap.size:
            largest = max(largest, float(np.nan_to_num(gap, nan=np.inf).max()))
        if not np.allclose(got, want, atol=tolerance.atol, rtol=tolerance.rtol):
            return f"output {name} differs by up to {largest:.3g}, over {tolerance.atol:g}", largest
    return "", largest


def _near_ties(probabilities: NDArray[np.generic] | None, tolerance: GoldenTolerance) -> NDArray[np.bool_]:
    # Two classes closer than the tolerance may change places without any answer being wrong.
    import numpy as np

    if probabilities is None or probabilities.shape[1] < 2:
        return np.zeros(1, dtype=bool)
    top = np.sort(probabilities.astype(np.float64), axis=1)
    return np.asarray(top[:, -1] - top[:, -2] <= 2 * tolerance.atol)
