"""Writing tensors as safetensors, hashed from memory while they are written and synced before the return."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlcycle_nb.errors import IntegrityError, InvalidInput

_DTYPES = {
    "torch.float64": "F64",
    "torch.float32": "F32",
    "torch.float16": "F16",
    "torch.bfloat16": "BF16",
    "torch.int64": "I64",
    "torch.int32": "I32",
    "torch.int16": "I16",
    "torch.int8": "I8",
    "torch.uint8": "U8",
    "torch.bool": "BOOL",
    "torch.uint64": "U64",
    "torch.uint32": "U32",
    "torch.uint16": "U16",
    "torch.complex64": "C64",
    "torch.float8_e4m3fn": "F8_E4M3",
    "torch.float8_e4m3fnuz": "F8_E4M3FNUZ",
    "torch.float8_e5m2": "F8_E5M2",
    "torch.float8_e5m2fnuz": "F8_E5M2FNUZ",
}
_CHUNK_BYTES = 8_388_608


def write_tensors(path: Path, tensors: Mapping[str, Any]) -> tuple[int, str]:
    """Write CPU tensors to a new file; return its size and the SHA-256 of what was meant to be written.

    The digest comes from memory, so a later comparison with the file also finds what the disk got wrong.
    """
    import torch

    header: dict[str, Any] = {}
    bodies, offset = [], 0
    for name, tensor in tensors.items():
        refuse_unsaveable(name, tensor)
        flat = tensor.detach().contiguous().reshape(-1)
        body = flat.view(torch.uint8).numpy() if flat.numel() else b""
        end = offset + flat.numel() * flat.element_size()
        header[name] = {"dtype": _DTYPES[str(tensor.dtype)], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        bodies.append(body)
        offset = end
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    return write_synced(path, [len(head).to_bytes(8, "little"), head, *bodies])


def refuse_unsaveable(name: str, tensor: Any) -> None:
    """Raise InvalidInput when safetensors has no form for such a tensor."""
    import torch

    if str(tensor.dtype) not in _DTYPES or tensor.layout is not torch.strided:
        raise InvalidInput(f"a checkpoint cannot hold {tensor.layout} tensors of {tensor.dtype}", where=name)


def write_synced(path: Path, parts: list[Any]) -> tuple[int, str]:
    """Write `parts` to a new private file and sync it; return size and SHA-256."""
    total, size = hashlib.sha256(), 0
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb", buffering=0) as out:
        for part in parts:
            view = memoryview(part)
            for start in range(0, view.nbytes, _CHUNK_BYTES):
                chunk = view[start : start + _CHUNK_BYTES]
                total.update(chunk)
                while chunk.nbytes:  # a raw write may be short, for one when the disk fills up
                    chunk = chunk[out.write(chunk) :]
            size += view.nbytes
        os.fsync(out.fileno())
    return size, total.hexdigest()


def read_tensors(path: Path) -> dict[str, Any]:
    """Load a file that `write_tensors` made; the safetensors library checks its structure.

    The tensors are views of the file, mapped copy-on-write: copy what is kept.

    Raises
    ------
    IntegrityError
        When it is not a file of that form, or cannot be mapped.
    OSError
        When it cannot be read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except (SafetensorError, RuntimeError) as damage:  # torch maps the file, and tells what failed as a RuntimeError
        raise IntegrityError(f"{path.name}: {damage}", where=path.parent.name) from damage
