"""Saves and resumes checkpoints in children that strace holds, so that any one of their system calls can fail.

Run as a process of its own, which imports torch once and forks for each probe: a probe takes some hundredths of a
second. One JSON document a line comes in, one goes out.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from mlcycle_nb.training.checkpoints import CheckpointStore, KeepPolicy

KEEP = KeepPolicy(last=1, best=1)
CALLS = (
    "openat,read,pread64,write,writev,pwrite64,fsync,fdatasync,ftruncate,close,lseek,fstat,newfstatat,statx,mmap,"
    "getdents64,mkdir,mkdirat,rename,renameat,renameat2,link,linkat,unlink,unlinkat,rmdir,fchmod,chmod"
)
_PR_SET_PTRACER = 0x59616D61
_LINE = re.compile(r"(\w+)\((.*)\)\s+= (-?\d+|\?)")


def tensors_of(step: int) -> dict[str, torch.Tensor]:
    """Return what the checkpoint of a step holds."""
    return {"model.w": torch.full((1000,), float(step)), "optimizer.m": torch.full((10,), -float(step))}


def save(folder: Path, step: int, metric: float | None = None, keep: KeepPolicy = KEEP) -> None:
    """Save one step, and keep one more than the best."""
    CheckpointStore(folder, keep).save(
        step=step, epoch=0, tensors=tensors_of(step), state={"step": step}, metric=metric
    )


def resume(folder: Path) -> dict[str, Any]:
    """Load the newest checkpoint; tell its step, whether its content is that step's, and what was passed over."""
    store = CheckpointStore(folder, KEEP)
    search = store.newest_verified()
    if search.newest is None:
        return {"step": None, "rejected": search.rejected}
    step = search.newest.step
    tensors, state = store.load(search.newest)
    meant = tensors_of(step)
    sound = state == {"step": step} and tensors.keys() == meant.keys()
    sound = sound and all(torch.equal(tensors[name], meant[name]) for name in meant)
    return {"step": step, "sound": sound, "rejected": search.rejected}


def _child(request: dict[str, Any], report: int) -> None:
    """Wait for strace, do one thing, tell how it went."""
    ctypes.CDLL(None).prctl(_PR_SET_PTRACER, ctypes.c_ulong(-1), 0, 0, 0)  # where Yama allows only that
    signal.sigwait({signal.SIGUSR1})
    folder = Path(request["folder"])
    try:
        if request["op"] == "save":
            save(folder, request["step"])
            told = {"done": True}
        else:
            told = {"done": True, **resume(folder)}
    except BaseException as failure:
        text = str(failure)
        told = {"done": False, "type": type(failure).__name__, "errno": getattr(failure, "errno", None), "text": text}
    os.write(report, b"#" + json.dumps(told).encode())
    os._exit(0)


def probe(request: dict[str, Any]) -> dict[str, Any]:
    """Do one thing under strace; return how it went and the calls that it made, in order."""
    read_end, write_end = os.pipe()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    pid = os.fork()
    if pid == 0:
        _child(request, write_end)
    os.close(write_end)
    trace = Path(request["trace"])
    argv = ["strace", "-o", str(trace), "-e", f"trace={CALLS}", "-e", "signal=none", "-p", str(pid)]
    if request.get("inject"):
        argv[1:1] = ["-e", f"inject={request['inject']}"]
    strace = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True)
    assert strace.stderr is not None
    first = strace.stderr.readline()
    if "attached" not in first:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        strace.communicate()
        return {"refused": first.strip()}
    os.kill(pid, signal.SIGUSR1)
    with os.fdopen(read_end, "rb") as stream:
        told = stream.read()
    _, status = os.waitpid(pid, 0)
    strace.communicate()
    return {
        "killed": os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL,
        "told": json.loads(told[1:]) if told else None,
        "calls": _calls(trace),
    }


def _calls(trace: Path) -> list[tuple[str, str, bool]]:
    """Return name, arguments and whether it was tampered with, up to the call that tells the result."""
    found = []
    for line in trace.read_text(errors="replace").splitlines():
        if '"#{' in line:
            break
        match = _LINE.match(line)
        if match:
            found.append((match[1], match[2][:200], "(INJECTED)" in line))
    return found


def main() -> None:
    """Answer probes until the input ends."""
    torch.set_num_threads(1)
    warm = Path(sys.argv[1])
    save(warm, 1)  # so that nothing is imported while a probe is watched
    resume(warm)
    for line in sys.stdin:
        print(json.dumps(probe(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
