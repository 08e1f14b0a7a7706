"""Carrying notebook objects into worker processes: cloudpickle, with large arrays beside the stream.

Arrays and tensors travel out of band (pickle protocol 5) in one file that the workers map copy-on-write: they
share its pages, and each may still write to its own view.
"""

from __future__ import annotations

import hashlib
import inspect
import io
import json
import mmap
import pickle
import re
import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mlcycle_nb.errors import InvalidInput

STREAM_NAME = "payload.pkl"
BUFFERS_NAME = "buffers.bin"
INDEX_NAME = "buffers.json"
_ALIGNMENT = 64
_SMALL_BUFFER_BYTES = 4096
_REMEDIES = {
    "_io": "open the file inside the training cell",
    "sqlite3": "open the connection inside the training cell",
    "socket": "open the socket inside the training cell",
    "_thread": "make locks and threads inside the training cell",
    "threading": "make locks and threads inside the training cell",
    "queue": "make the queue inside the training cell",
    "sqlalchemy": "open the connection inside the training cell",
    "generator": "make a list of it, or make it inside the training cell",
    "coroutine": "call asyncio.run(...) inside the training cell",
    "asyncio": "make it inside the training cell, with asyncio.run(...)",
    "concurrent": "make the executor inside the training cell",
    "multiprocessing": "make it inside the training cell",
    "subprocess": "start the program inside the training cell",
    "weakref": "pass the object itself",
    "ReferenceType": "pass the object itself",
    "_SingleProcessDataLoaderIter": "pass the DataLoader, and iterate over it inside the training cell",
    "_MultiProcessingDataLoaderIter": "pass the DataLoader, and iterate over it inside the training cell",
    "psycopg": "open the connection inside the training cell",
    "duckdb": "open the connection inside the training cell",
    "ipywidgets": "a widget stays in the notebook; pass its value, such as slider.value",
    "accelerate": "the workers have an Accelerator of their own: use the name `accelerator` without defining it",
    "mlcycle_nb": "a workspace stays in the notebook; pass the plain values that the cell needs",
}


def pack(names: Mapping[str, Any], *, lines: Mapping[str, int] | None = None) -> tuple[bytes, list[memoryview]]:
    """Return the pickle stream of `names` and its large buffers.

    Parameters
    ----------
    names : mapping
        Name -> object.
    lines : mapping, optional
        Name -> line of the cell where it is used first, for the message.

    Raises
    ------
    InvalidInput
        Naming each name that cannot be carried, the part of it that is to blame, and the remedy.
    """
    try:
        return _dump(dict(names))
    except Exception as failure:  # __reduce__ of foreign objects raises anything
        raise _name_the_culprits(names, failure, lines or {}) from failure


def digest(names: Mapping[str, Any]) -> str:
    """Return a digest of what `names` hold, the same in every kernel for the same code and data.

    File names and line numbers of notebook functions are left out, as are the random ids that cloudpickle gives
    to notebook classes: both differ between kernels.
    """
    stream, buffers = _dump(dict(sorted(names.items())), for_digest=True)
    for tracker in _class_trackers():
        stream = stream.replace(tracker, b"0" * len(tracker))
    total = hashlib.sha256(stream)
    for buffer in buffers:
        total.update(hashlib.sha256(buffer).digest())
    return total.hexdigest()


def write(folder: Path, stream: bytes, buffers: list[memoryview]) -> int:
    """Write a packed payload into `folder`; return its size in bytes."""
    from mlcycle_nb.files import write_atomically

    index, offset = [], 0
    with (folder / BUFFERS_NAME).open("xb") as out:
        for buffer in buffers:
            index.append([offset, buffer.nbytes])
            out.write(buffer)
            out.write(b"\0" * (-buffer.nbytes % _ALIGNMENT))
            offset = out.tell()
    document = {"stream": hashlib.sha256(stream).hexdigest(), "buffers": index}
    write_atomically(folder / STREAM_NAME, stream, durable=False)
    write_atomically(folder / INDEX_NAME, json.dumps(document), durable=False)
    return len(stream) + offset


def read(folder: Path) -> dict[str, Any]:
    """Load what `write` stored; the arrays are private, writable views of the mapped file."""
    stream = (folder / STREAM_NAME).read_bytes()
    document = json.loads((folder / INDEX_NAME).read_text())
    if hashlib.sha256(stream).hexdigest() != document["stream"]:
        raise InvalidInput("the job's payload was changed after it was written", where=str(folder))
    buffers: list[memoryview] = []
    if document["buffers"]:
        with (folder / BUFFERS_NAME).open("rb") as source:
            mapped = memoryview(mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_COPY))
        buffers = [mapped[start : start + size] for start, size in document["buffers"]]
    return dict(pickle.loads(stream, buffers=buffers))


def _dump(value: Any, *, for_digest: bool = False) -> tuple[bytes, list[memoryview]]:
    buffers: list[memoryview] = []

    def keep_in_stream(buffer: pickle.PickleBuffer) -> bool:
        view = buffer.raw()
        if view.nbytes < _SMALL_BUFFER_BYTES:
            return True
        buffers.append(view)
        return False

    out = io.BytesIO()
    _pickler(out, keep_in_stream, for_digest).dump(value)
    return out.getvalue(), buffers


def _pickler(out: io.BytesIO, keep_in_stream: Callable[[pickle.PickleBuffer], bool], for_digest: bool) -> Any:
    import cloudpickle

    harmless: set[type] = set()

    class Pickler(cloudpickle.Pickler):
        """Cloudpickle that hands tensor storages over as buffers instead of copying them into the stream."""

        def reducer_override(self, value: Any) -> Any:
            if type(value).__name__ == "TypedStorage" and type(value).__module__ == "torch.storage":
                reduced = _reduce_storage(value)
                if reduced is not None:
                    return reduced
            if type(value) not in harmless:
                if reason := _stays_behind(value):
                    raise pickle.PicklingError(reason)
                if type(value) is not io.TextIOWrapper:
                    harmless.add(type(value))
            if for_digest and isinstance(value, types.CodeType):
                return _reduce_code(value)
            return super().reducer_override(value)

    return Pickler(out, protocol=5, buffer_callback=keep_in_stream)


def _stays_behind(value: Any) -> str:
    """Return why an object that could be pickled must not travel all the same, or the empty string."""
    if isinstance(value, io.TextIOWrapper) and value not in (sys.stdout, sys.stderr, sys.stdin):
        return "a copy of its content would not be the file"  # which is what cloudpickle makes of it
    kind = type(value)
    for base in kind.__mro__:
        if (base.__module__, base.__qualname__) in _BOUND_TO_THIS_PROCESS:
            return "it belongs to this process"
    return ""


_BOUND_TO_THIS_PROCESS = frozenset({("ipywidgets.widgets.widget", "Widget"), ("accelerate.accelerator", "Accelerator")})


def _reduce_storage(storage: Any) -> Any:
    import torch

    untyped = storage._untyped_storage
    if untyped.device.type != "cpu" or untyped.nbytes() == 0:
        return None
    content = torch.tensor([], dtype=torch.uint8).set_(untyped).numpy()
    return rebuild_storage, (pickle.PickleBuffer(content), str(storage.dtype).removeprefix("torch."))


def rebuild_storage(content: Any, dtype: str) -> Any:
    """Make a torch storage over the bytes in `content`, without copying them when they are writable."""
    import torch

    view = memoryview(content)
    source = bytearray(view) if view.readonly else view
    untyped = torch.frombuffer(source, dtype=torch.uint8).untyped_storage()
    return torch.storage.TypedStorage(wrap_storage=untyped, dtype=getattr(torch, dtype), _internal=True)


def _reduce_code(code: types.CodeType) -> Any:
    constants = tuple(_constant_key(part) for part in code.co_consts)
    return tuple, ((code.co_name, code.co_code, constants, code.co_names, code.co_varnames, code.co_freevars),)


def _constant_key(constant: Any) -> Any:
    if isinstance(constant, types.CodeType):
        return _reduce_code(constant)[1]
    if isinstance(constant, frozenset):  # `x in {"a", "b"}`: texts hash differently in each interpreter
        return "frozenset", sorted(map(repr, constant))
    return constant


def _class_trackers() -> list[bytes]:
    import cloudpickle.cloudpickle as internals

    trackers = getattr(internals, "_DYNAMIC_CLASS_TRACKER_BY_CLASS", {})
    return [str(tracker).encode() for tracker in list(trackers.values())]


def _name_the_culprits(names: Mapping[str, Any], failure: Exception, lines: Mapping[str, int]) -> InvalidInput:
    problems, remedies = [], []
    for name, value in names.items():
        reason = _why_not(value)
        if reason is not None:
            part = None if _remedy(value) else _guilty_part(value)
            blamed = value if part is None else part[1]
            via = "" if part is None else f" uses {part[0]!r},"
            line = f" (line {lines[name]})" if name in lines else ""
            problems.append(f"{name!r}{line}{via} a {_type_name(blamed)} ({reason})")
            remedies.append(_remedy(blamed))
    if not problems:  # each alone can be carried, all together not: the first failure is all there is to say
        problems = [f"{', '.join(map(repr, names))} together ({_short(failure)})"]
    remedy = "; ".join(dict.fromkeys(filter(None, remedies))) or "make it inside the training cell"
    return InvalidInput(
        f"cannot carry into the worker processes: {', '.join(problems)}", remedy=f"{remedy}; no job was made"
    )


def _why_not(value: Any) -> str | None:
    try:
        _dump(value)
    except Exception as failure:  # see pack
        return _short(failure)
    return None


def _guilty_part(value: Any, depth: int = 4) -> tuple[str, Any] | None:
    """Return the deepest named part of `value` that cannot be carried."""
    for name, part in _parts(value):
        if part is not value and _why_not(part) is not None:
            deeper = _guilty_part(part, depth - 1) if depth and not _remedy(part) else None
            return (f"{name}.{deeper[0]}", deeper[1]) if deeper else (name, part)
    return None


def _parts(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, types.FunctionType):
        seen = inspect.getclosurevars(value)
        return [*seen.nonlocals.items(), *seen.globals.items()]
    if isinstance(value, types.MethodType):
        return [("self", value.__self__)]
    if isinstance(value, type):
        return [(name, part) for name, part in vars(value).items() if not name.startswith("__")]
    if isinstance(value, Mapping):
        return [(str(name), part) for name, part in value.items()]
    if isinstance(value, list | tuple):
        return [(str(position), part) for position, part in enumerate(value[:1000])]
    return list(getattr(value, "__dict__", {}).items())


def _type_name(value: Any) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def _short(failure: Exception) -> str:
    text = re.sub(r"\s+", " ", str(failure)).strip() or type(failure).__name__
    return text if len(text) <= 120 else text[:119] + "…"


def _remedy(value: Any) -> str:
    kind = type(value)
    return _REMEDIES.get(kind.__name__) or _REMEDIES.get(kind.__module__.partition(".")[0], "")
