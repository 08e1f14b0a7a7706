"""One rank of a script: the same program that a terminal would run, in the job's process group, log and run."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sys
import threading
import time
import types
from pathlib import Path
from typing import Any

from mlcycle_nb.errors import EngineError
from mlcycle_nb.files import write_atomically
from mlcycle_nb.training import ambient, faults
from mlcycle_nb.training.events import EventWriter
from mlcycle_nb.training.job_folder import JobFolder, JobSpec
from mlcycle_nb.training.process_group import ScriptGroup

_WATCH_SECONDS = 0.2
_LAST_OUTPUT_BYTES = 8192


def run(folder: JobFolder, spec: JobSpec, attempt: int, rank: int) -> int:
    """Run the script as one rank to its end and say how it ended; an error ends the process with status 1."""
    program = _Program(folder, spec, attempt, rank)
    try:
        program.run()
    except BaseException as error:  # the script may raise anything, KeyboardInterrupt and SystemExit included
        program.fail(error)
    return program.close()


class _Program:
    def __init__(self, folder: JobFolder, spec: JobSpec, attempt: int, rank: int) -> None:
        self._folder, self._spec, self._attempt, self._rank = folder, spec, attempt, rank
        self._began = time.time()
        self._group = ScriptGroup(folder.run, spec, attempt, self._tell_start)
        self._stop_told = False
        self._main_module = sys.modules["__main__"]  # kept: it holds this process's entry point

    # -- run -------------------------------------------------------------------------------------------------

    def run(self) -> None:
        spec, source = self._spec, self._folder.cell.read_text()
        self._group.install()
        ambient.provide(self._toolbox)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # background processes inherit that it is ignored
        threading.Thread(target=self._watch, name="stop-watch", daemon=True).start()
        module = types.ModuleType("__main__")
        module.__dict__.update(__file__=spec.script_path, __cached__=None, __builtins__=__builtins__)
        if spec.script_kind == "module":
            found = importlib.util.find_spec(_runnable(spec))
            module.__spec__, module.__package__ = found, "" if found is None else found.parent
            module.__loader__ = None if found is None else found.loader
            sys.path[:0] = [] if spec.cwd in sys.path else [spec.cwd]
        else:
            folder = str(Path(spec.script_path).parent)
            sys.path[:] = [folder, *(part for part in sys.path if part != folder)]
        sys.argv[:] = [spec.script_path, *spec.script_args]
        sys.modules["__main__"] = module
        faults.remember_source(spec.script_path, source)
        if spec.processes == 1:
            self._tell_start()
        try:
            exec(compile(source, spec.script_path, "exec", dont_inherit=True), module.__dict__)
        except SystemExit as ended:
            if ended.code not in (None, 0):
                raise
        self._group.check()

    def _toolbox(self) -> Any:
        """Form the group and the session of code that calls ``fit`` or ``log``; called on every rank."""
        from accelerate import Accelerator

        from mlcycle_nb.training import random_state
        from mlcycle_nb.training.session import TrainingSession
        from mlcycle_nb.training.toolbox import Toolbox
        from mlcycle_nb.training.worker import heed_stops

        accelerator = Accelerator()
        if accelerator.num_processes != self._spec.processes:
            raise EngineError(f"{accelerator.num_processes} processes are in the group, not {self._spec.processes}")
        session = TrainingSession(self._folder, self._spec, accelerator, self._attempt)
        if threading.current_thread() is threading.main_thread():
            heed_stops(session)
        random_state.seed_everything(self._spec.seed)
        return Toolbox(session)

    # -- end -------------------------------------------------------------------------------------------------

    def close(self) -> int:
        """Wait until every rank has come this far, then say that the attempt has ended."""
        toolbox = ambient.made()
        outcome = "stopped" if self._stop_told else "finished"
        if toolbox is not None:
            toolbox.session.checkpointer.wait()
            toolbox.session.events.close()
        self._folder.ended_of(self._attempt, self._rank).touch(mode=0o600)
        if self._rank == 0:
            # Through files: the script may have taken its process group down, or never have made one. When another
            # rank dies meanwhile, the launcher ends this one.
            while not all(self._folder.ended_of(self._attempt, rank).exists() for rank in range(self._spec.processes)):
                time.sleep(0.02)
            self._event(outcome)
            step = 0 if toolbox is None else toolbox.session.step
            write_atomically(self._folder.outcome_of(self._attempt), json.dumps({"outcome": outcome, "step": step}))
        return 0

    def fail(self, error: BaseException) -> None:
        """Describe the error, or note that the script obeyed a stop; does not return unless it ended well."""
        from mlcycle_nb.training.session import StopTraining

        if isinstance(error, StopTraining):
            self._stop_told = True
            return
        sys.stdout.flush()
        sys.stderr.flush()
        if not self._is_told(error):
            spec = self._spec
            document = faults.describe(error, spec.script_path, self._rank, file=_short_path(spec))
            if isinstance(error, SystemExit):
                document["message"] = _exit_message(error, self._folder.output_of(self._rank))
            faults.write_error(self._folder.error_of(self._attempt, self._rank), document)
            print(document["traceback"], file=sys.stderr, flush=True)
            shown = {key: document[key] for key in ("message", "line")}
            self._event("error", **shown, cause=document["kind"])
        sys.stdout.flush()
        os._exit(1)  # threads of a broken process group may never end

    # -- parts -----------------------------------------------------------------------------------------------

    def _is_told(self, error: BaseException) -> bool:
        """Return whether the script ended because it was interrupted, rather than for a reason of its own."""
        if isinstance(error, KeyboardInterrupt):
            return True
        stopping = self._folder.stop_request.exists()
        return stopping and (isinstance(error, SystemExit) or faults.classify(error) == "peer")

    def _watch(self) -> None:
        """Hand a stop on: code that uses our loops sees it itself, a signal tells every other script."""
        while not self._folder.stop_request.exists():
            time.sleep(_WATCH_SECONDS)
        toolbox = ambient.made()
        if toolbox is not None:
            toolbox.session.stop_asked = True
            return
        self._stop_told = True
        handled = signal.getsignal(signal.SIGTERM) not in (signal.SIG_DFL, signal.SIG_IGN, None)
        os.kill(os.getpid(), signal.SIGTERM if handled else signal.SIGINT)

    def _tell_start(self) -> None:
        import torch

        if self._rank:
            return
        formed = torch.distributed.is_initialized()
        self._event(
            "started",
            world=torch.distributed.get_world_size() if formed else 1,
            device=_device(),
            backend=torch.distributed.get_backend() if formed else "none",
            threads=torch.get_num_threads(),
            torch=torch.__version__,
            pid=os.getpid(),
            seconds=round(time.time() - self._began, 3),
        )

    def _event(self, kind: str, **fields: Any) -> None:
        writer = EventWriter(self._folder.events_of(self._rank), rank=self._rank, attempt=self._attempt)
        writer.write(kind, **fields)
        writer.close()


def _runnable(spec: JobSpec) -> str:
    package = Path(spec.script_path).name == "__main__.py" and not spec.script.endswith("__main__")
    return f"{spec.script}.__main__" if package else spec.script


def _device() -> str:
    import torch

    if os.environ.get("ACCELERATE_USE_CPU") == "true" or not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"


def _short_path(spec: JobSpec) -> str:
    return os.path.basename(spec.script_path)


def _exit_message(error: SystemExit, output: Path) -> str:
    """Return one line for an exit: its text, or its status and the last thing that was printed."""
    if not isinstance(error.code, int):
        return f"the script ended: {error.code}"[:1000]
    last = ""
    try:
        with output.open("rb") as source:
            source.seek(max(0, os.fstat(source.fileno()).st_size - _LAST_OUTPUT_BYTES))
            lines = source.read().decode(errors="replace").split("\n")
            last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    except FileNotFoundError:
        pass
    return f"the script ended with exit status {error.code}" + (f"; it last said: {last[:300]}" if last else "")
