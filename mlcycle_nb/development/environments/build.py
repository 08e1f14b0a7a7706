"""Builds one environment: ``python -m mlcycle_nb.development.environments.build REQUEST``, run by its base interpreter.

Killed at any moment it leaves a folder that nobody uses: the outcome is written last, and the next build begins anew.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import site
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlcycle_nb.development.environments import examine
from mlcycle_nb.development.environments.lock import Lock, differences, package_differences
from mlcycle_nb.errors import EngineError, MLCycleError
from mlcycle_nb.files import write_atomically
from mlcycle_nb.supervisor.crash import crash_point

TRAINING_NEEDS = ("torch", "accelerate", "cloudpickle", "numpy", "psutil")
KERNEL_NEEDS = ("ipykernel",)
_MESSAGE_LIMIT = 400
_INSPECT_SECONDS = 300.0


def main(arguments: Sequence[str]) -> int:
    """Build what the request says and write the outcome beside it."""
    request = json.loads(Path(arguments[0]).read_text())
    try:
        outcome = _build(request)
    except MLCycleError as refused:
        outcome = {"failure": refused.problem}
    except OSError as failure:
        outcome = {"failure": f"{failure.strerror or failure}: {failure.filename or ''}".rstrip(": ")}
    write_atomically(Path(request["outcome"]), json.dumps(outcome))
    return 0


def _build(request: dict[str, Any]) -> dict[str, Any]:
    folder = Path(request["folder"])
    if folder.exists():
        _say(request, "removing what a build before this one left")
        shutil.rmtree(folder)
    _say(request, "making the virtual environment")
    _run([sys.executable, "-m", "venv", "--without-pip", str(folder)])
    python = folder / "bin" / "python"
    _link(folder, inherit=request["inherit"])
    crash_point("environment.half_built")
    if request["requirements"]:
        _say(request, f"installing {len(request['requirements'])} requirements")
        _install(request, python)
    _say(request, "reading back what was installed")
    found = inspect(str(python))
    lock = Lock.of(found)
    if request["wanted_lock"]:
        wanted = Lock.parse(request["wanted_lock"])
        # what pip freeze printed says nothing of the interpreter, nor of what is inherited
        told = differences(wanted, lock) if wanted.python else package_differences(wanted.own, lock.own)
        if told:
            raise EngineError(f"what was installed differs from the lock: {', '.join(told[:5])}")
    return {"lock": str(lock), "python": lock.python, "absent": found["absent"]}


def inspect(python: str) -> dict[str, Any]:
    """Return what can be imported by an interpreter: its version, its packages, and what training would miss.

    Raises
    ------
    EngineError
        When the interpreter does not run.
    """
    needs = [*TRAINING_NEEDS, *KERNEL_NEEDS]
    try:
        done = subprocess.run(
            [python, "-I", str(Path(examine.__file__)), *needs],
            capture_output=True, text=True, timeout=_INSPECT_SECONDS, check=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        return dict(json.loads(done.stdout))
    except (OSError, subprocess.SubprocessError, ValueError) as failure:
        said = _last_words(getattr(failure, "stderr", "") or str(failure))
        raise EngineError(f"the environment's interpreter does not run: {said}", value=python) from None


def _link(folder: Path, *, inherit: bool) -> None:
    """Let the environment import this package, or with `inherit` all that the base interpreter has."""
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    if inherit:
        places = [*site.getsitepackages(), *([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])]
        lines = [f"import site; site.addsitedir({place!r})" for place in places if os.path.isdir(place)]
        (packages / "_mlcycle_inherit.pth").write_text("\n".join(lines) + "\n")
    # A folder with this one package in it: naming the folder that it lies in would let all its neighbours in.
    beside = folder / "mlcycle"
    beside.mkdir()
    (beside / "mlcycle_nb").symlink_to(Path(examine.__file__).resolve().parents[2], target_is_directory=True)
    # relative, because the build is used through a link that outlives it
    (packages / "_mlcycle_nb.pth").write_text(f"{os.path.relpath(beside, packages)}\n")


def _install(request: dict[str, Any], python: Path) -> None:
    options = ["--no-index"] if request["no_index"] else []
    for place in request["find_links"]:
        options += ["--find-links", place]
    if request["wanted_lock"]:
        options.append("--no-deps")
    wanted = Path(request["folder"]) / "requirements.txt"
    wanted.write_text("\n".join(request["requirements"]) + "\n")
    _run([*_installer(python, inherit=request["inherit"]), *options, "-r", str(wanted)])


def _installer(python: Path, *, inherit: bool) -> list[str]:
    """Return the beginning of an install command: uv where there is one, else pip.

    uv looks only at the environment's own packages, so that what is inherited is known to pip alone.
    """
    uv = None if inherit else shutil.which("uv") or shutil.which("uv", path=os.path.dirname(sys.executable))
    if uv is not None:
        return [uv, "pip", "install", "--quiet", "--python", str(python)]
    if importlib.util.find_spec("pip") is None:
        _run([str(python), "-m", "ensurepip", "--default-pip"])
        return [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
    pip = [sys.executable, "-m", "pip", "--python", str(python)]
    return [*pip, "install", "--quiet", "--disable-pip-version-check", "--no-input"]


def _run(command: list[str]) -> None:
    print("$", *command, flush=True)
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    print(done.stdout + done.stderr, flush=True)
    if done.returncode:
        raise EngineError(_last_words(done.stderr or done.stdout) or f"{command[0]} ended with {done.returncode}")


def _last_words(text: str) -> str:
    """Return the part of an installer's output that says what is wrong, as one bounded line."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    errors = [line.removeprefix("ERROR: ") for line in plain.splitlines() if line.startswith("ERROR:")]
    chosen = " ".join(errors) if errors else plain
    return re.sub(r"[\s×╰─▶│]+", " ", chosen).strip()[:_MESSAGE_LIMIT]


def _say(request: dict[str, Any], step: str) -> None:
    print(f"-- {step}", flush=True)
    write_atomically(Path(request["progress"]), json.dumps({"step": step}), durable=False)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
