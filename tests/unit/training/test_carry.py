"""Carrying objects: arrays beside the stream, culprits by name, digests that hold across kernels."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from mlcycle_nb.errors import InvalidInput
from mlcycle_nb.training import carry


def roundtrip(folder: Path, **names: object) -> dict[str, object]:
    stream, buffers = carry.pack(names)
    carry.write(folder, stream, buffers)
    return carry.read(folder)


class TestRoundTrip:
    """What arrives is what was sent."""

    def test_large_arrays_and_tensors_leave_the_stream(self, tmp_path: Path) -> None:
        """They come back equal, writable, and the file is not changed by writing to them."""
        sent = {"array": np.arange(50_000.0), "tensor": torch.randn(300, 300), "half": torch.randn(99, 99).bfloat16()}
        stream, buffers = carry.pack(sent)
        carry.write(tmp_path, stream, buffers)

        first, second = carry.read(tmp_path), carry.read(tmp_path)
        first["array"][:] = 0
        first["tensor"].zero_()

        assert len(stream) < 4000
        assert np.array_equal(second["array"], sent["array"])
        assert torch.equal(second["tensor"], sent["tensor"])
        assert torch.equal(second["half"], sent["half"])

    def test_a_model_and_its_optimizer_stay_connected(self, tmp_path: Path) -> None:
        """The optimizer steps the parameters of the model that it came with; tied weights stay tied."""
        model = torch.nn.Sequential(torch.nn.Linear(80, 80), torch.nn.Linear(80, 80))
        model[1].weight = model[0].weight
        got = roundtrip(tmp_path, model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))

        assert got["optimizer"].param_groups[0]["params"][0] is got["model"][0].weight
        assert got["model"][0].weight is got["model"][1].weight

    def test_a_changed_payload_is_refused(self, tmp_path: Path) -> None:
        """A pickle is opened only when it is the one that was written."""
        roundtrip(tmp_path, value=1)
        content = bytearray((tmp_path / carry.STREAM_NAME).read_bytes())
        content[-3] ^= 1
        (tmp_path / carry.STREAM_NAME).write_bytes(content)

        with pytest.raises(InvalidInput, match="changed"):
            carry.read(tmp_path)


class TestCulprits:
    """What cannot be carried is named, down to the part, with the remedy."""

    def test_direct_and_nested(self) -> None:
        """A lock by its name, a connection by the function that uses it; sound names are not blamed."""
        connection = sqlite3.connect(":memory:")

        def load() -> object:
            return connection

        with pytest.raises(InvalidInput) as refused:
            carry.pack({"lock": threading.Lock(), "load": load, "sound": 1, "rows": (row for row in [])})

        text = str(refused.value)
        assert "'lock' a _thread.lock" in text
        assert "'load' uses 'connection', a sqlite3.Connection" in text
        assert "'rows' a generator" in text
        assert "sound" not in text
        assert "open the connection inside the training cell" in text
        connection.close()

    def test_by_line_and_by_the_whole_object(self, tmp_path: Path) -> None:
        """An event is an event, not the lock inside it; what could be copied but belongs here is refused as well."""
        import concurrent.futures
        import socket

        from accelerate import Accelerator
        from ipywidgets import IntSlider

        (tmp_path / "f").write_text("x")
        loader = torch.utils.data.DataLoader(torch.zeros(4))
        with (tmp_path / "f").open() as opened, socket.socket() as plug:
            executor = concurrent.futures.ThreadPoolExecutor()
            names = {
                "event": (threading.Event(), "threading.Event", "make locks and threads inside"),
                "opened": (opened, "_io.TextIOWrapper", "open the file inside"),
                "reads": (lambda: opened.read(), "uses 'opened'", "open the file inside"),
                "plug": (plug, "socket.socket", "open the socket inside"),
                "executor": (executor, "ThreadPoolExecutor", "make the executor inside"),
                "slider": (IntSlider(), "IntSlider", "pass its value"),
                "prepared": (Accelerator(cpu=True), "Accelerator", "use the name `accelerator`"),
                "running": (iter(loader), "_SingleProcessDataLoaderIter", "pass the DataLoader"),
            }
            for name, (value, blamed, remedy) in names.items():
                with pytest.raises(InvalidInput) as refused:
                    carry.pack({name: value, "sound": loader}, lines={name: 7, "sound": 8})
                assert f"'{name}' (line 7)" in str(refused.value)
                assert blamed in str(refused.value)
                assert remedy in str(refused.value)
                assert "line 8" not in str(refused.value)
            executor.shutdown()


MEMORY = """
import resource, sys, numpy as np, torch, pathlib
from mlcycle_nb.training import carry
big = np.ones(25_000_000)
half = torch.ones(25_000_000)
size = big.nbytes + half.numel() * 4
carry.digest({"warm": np.ones(9), "up": torch.ones(9)})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
names = {"big": big, "half": half, "again": {"big": big}}
carry.write(pathlib.Path(sys.argv[1]), *carry.pack(names))
carry.digest(names)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before) / size)
"""


def test_large_arrays_are_not_copied(tmp_path: Path) -> None:
    """Packing, digesting and writing 300 MB take less than a tenth of it in memory, and write it once."""
    done = subprocess.run([sys.executable, "-c", MEMORY, str(tmp_path)], capture_output=True, text=True, check=True)

    assert float(done.stdout) < 0.1
    assert (tmp_path / carry.BUFFERS_NAME).stat().st_size < 301_000_000
    (tmp_path / carry.BUFFERS_NAME).unlink()


PROGRAM = """
import sys, numpy as np
from mlcycle_nb.training import carry
padding = sys.argv[1]
body = "    return Net.size * x * BASE if x not in {'a', 'b', 'c'} else 0\\n"
source = chr(10) * int(sys.argv[2]) + "class Net:\\n    size = 3\\ndef scale(x):\\n" + body
space = {"__name__": "__main__", "BASE": float(sys.argv[3])}
exec(compile(source, f"/tmp/ipykernel_{padding}/1.py", "exec"), space)
space |= {"data": np.arange(9000.0), "config": {"a": 1}}
print(carry.digest({name: space[name] for name in {"Net", "scale", "data", "config"}}))
"""


class TestDigest:
    """The digest says whether code and data are the same, not which kernel they are in."""

    def test_same_across_processes_and_cells(self) -> None:
        """Another process id, file name, line number and hash seed change nothing; another value does."""

        def digest(*arguments: str) -> str:
            run = [sys.executable, "-c", PROGRAM, *arguments]
            return subprocess.run(run, capture_output=True, text=True, check=True).stdout.strip()

        first, again, other = digest("1", "0", "2"), digest("98765", "7", "2"), digest("1", "0", "3")

        assert len(first) == 64
        assert first == again
        assert first != other

    def test_data_counts(self) -> None:
        """One changed value is another digest."""
        rows = torch.zeros(5000)
        before = carry.digest({"rows": rows})
        rows[4321] = 1

        assert carry.digest({"rows": rows}) != before
