"""The worker process: ``python -m torch.distributed.run ... -m mlcycle_nb.training.worker FOLDER --attempt N``."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import types
from pathlib import Path
from typing import Any

from mlcycle_nb.training.heartbeat import Heart
from mlcycle_nb.training.ownership import die_with_parent, leave


def main() -> int:
    """Run the cell as one rank; return the exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--attempt", type=int, required=True)
    arguments = parser.parse_args()
    rank = int(os.environ.get("RANK", "0"))
    _redirect_output(arguments.folder, rank)
    heart = Heart(arguments.folder, rank, arguments.attempt).start()
    try:
        return _run(arguments.folder, arguments.attempt, rank)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        heart.stop()


def _run(path: Path, attempt: int, rank: int) -> int:
    # Imported here: the death of the launcher has to be noticed before torch is loaded, which takes a second.
    from mlcycle_nb.training import cell_sources, faults
    from mlcycle_nb.training.job_folder import JobFolder
    from mlcycle_nb.training.session import PruneTraining, StopTraining, TrainingSession
    from mlcycle_nb.training.stop_watch import StopWatch

    folder = JobFolder(path)
    spec = folder.read_spec()
    cell_name = f"<train {spec.model}>"
    os.chdir(spec.cwd if os.path.isdir(spec.cwd) else path)
    sys.path[:] = [*dict.fromkeys([*spec.sys_path, *sys.path])]
    if spec.script_kind:
        from mlcycle_nb.training import script_worker

        return script_worker.run(folder, spec, attempt, rank)
    _write_stacks_when_asked(folder, attempt, rank)
    watch = StopWatch(folder, rank=rank, attempt=attempt, grace_seconds=spec.grace_seconds).listen()
    session = None
    try:
        accelerator = _form_group(folder, spec, attempt, rank)
        session = TrainingSession(folder, spec, accelerator, attempt)
        watch.attach(session)
        if session.rehearsal is not None:
            session.rehearsal.begin()
        outcome = _run_cell(session, cell_name)
    except StopTraining as ended:
        assert session is not None  # only a session's calls raise it
        outcome = "pruned" if isinstance(ended, PruneTraining) else "stopped"
    except BaseException as error:  # the cell may raise anything, KeyboardInterrupt and SystemExit included
        while session is not None and session.checkpointer.busy:  # what was good is still worth committing
            time.sleep(0.02)
        labels = {cell_name: cell_sources.label(spec.cell_number), **cell_sources.remember(folder.payload)}
        document = faults.describe(error, cell_name, rank, labels=labels)
        faults.write_error(folder.error_of(attempt, rank), document)
        print(document["traceback"], file=sys.stderr, flush=True)
        if session is not None:
            session.events.write("error", **{key: document[key] for key in ("message", "line")}, cause=document["kind"])
        sys.stdout.flush()
        os._exit(1)  # threads of a broken process group may never end
    return _close(folder, session, attempt, outcome)


def _close(folder: Any, session: Any, attempt: int, outcome: str) -> int:
    from mlcycle_nb.files import write_atomically

    session.checkpointer.wait()
    if session.rehearsal is not None:
        session.rehearsal.report()
    if session.main:
        session.events.write(outcome, step=session.step, epoch=session.epoch)
    session.accelerator.wait_for_everyone()
    session.events.close()
    if session.main:
        document = {"outcome": outcome, "step": session.step, **session.saved_at_the_end()}
        write_atomically(folder.outcome_of(attempt), json.dumps(document))
    if session.stop_watch is not None:
        session.stop_watch.leave()
    _leave_group()
    return 0


def _run_cell(session: Any, cell_name: str) -> str:
    from mlcycle_nb.training import ambient, carry, faults, random_state
    from mlcycle_nb.training.toolbox import Toolbox

    source = session.folder.cell.read_text()
    faults.remember_source(cell_name, source)
    random_state.seed_everything(session.spec.seed)
    namespace = carry.read(session.folder.payload)
    random_state.seed_everything(session.spec.seed)  # unpickling may draw numbers
    toolbox = Toolbox(session)
    ambient.provide(lambda: toolbox)  # for functions in modules that the cell calls
    module = types.ModuleType("__main__")  # so that plain pickles find the cell's classes, as in a notebook
    module.__dict__.update(namespace | toolbox.names())
    before, sys.modules["__main__"] = sys.modules["__main__"], module
    try:
        exec(compile(source, cell_name, "exec"), module.__dict__)
    finally:
        sys.modules["__main__"] = before
    return "finished"


def _form_group(folder: Any, spec: Any, attempt: int, rank: int) -> Any:
    import torch
    from accelerate import Accelerator

    from mlcycle_nb.errors import EngineError
    from mlcycle_nb.training.devices import uses_cuda

    began = time.time()
    torch.set_num_threads(spec.threads)
    cuda = uses_cuda(spec)
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        torch.cuda.init()  # else what seeds the GPU's generator would depend on when the cell first uses it
    if spec.processes > 1:
        torch.distributed.init_process_group(
            "nccl" if cuda else "gloo", rank=rank, world_size=spec.processes, **_meeting_place(folder, spec, attempt)
        )
    else:  # Accelerate would make a group of one over TCP
        for variable in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            os.environ.pop(variable, None)
    accelerator = Accelerator(
        cpu=not cuda,
        mixed_precision=spec.mixed_precision,
        gradient_accumulation_steps=spec.gradient_accumulation,
    )
    if accelerator.num_processes != spec.processes:
        raise EngineError(
            f"{accelerator.num_processes} processes are in the group instead of {spec.processes}",
            remedy="look at the job's launcher.log",
        )
    if rank == 0:
        _tell_start(folder, spec, attempt, accelerator, began)
    return accelerator


def _meeting_place(folder: Any, spec: Any, attempt: int) -> dict[str, Any]:
    if spec.nodes == 1:
        # A file instead of a port for the rendezvous: torch's own store listens on every interface, without a key.
        return {"init_method": f"file://{folder.run / f'group-{attempt}'}"}
    from mlcycle_nb.training import nodes

    return {"store": nodes.connect_worker(folder, "group")}


def _tell_start(folder: Any, spec: Any, attempt: int, accelerator: Any, began: float) -> None:
    import torch

    from mlcycle_nb.training.events import EventWriter

    writer = EventWriter(folder.events_of(0), rank=0, attempt=attempt)
    writer.write(
        "started",
        world=accelerator.num_processes,
        device=str(accelerator.device),
        backend=torch.distributed.get_backend() if torch.distributed.is_initialized() else "none",
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        pid=os.getpid(),
        seconds=round(time.time() - began, 3),
    )
    writer.close()


def _leave_group() -> None:
    import torch

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _write_stacks_when_asked(folder: Any, attempt: int, rank: int) -> None:
    import faulthandler

    from mlcycle_nb.training.stalls import STACK_SIGNAL

    # By C code, from the signal itself: a rank that is stuck runs no Python. The system gives a process's signal to its
    # main thread, which is the one asked for; of all threads only the newest hundred would be written, without it.
    faulthandler.register(STACK_SIGNAL, file=_stack_file(folder.stacks_of(attempt, rank)), all_threads=False)


def _stack_file(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)


def heed_stops(session: Any) -> None:
    """Have a signal, or the stop request in the job's folder, ask for a checkpoint and a clean end."""
    from mlcycle_nb.training.stop_watch import StopWatch

    grace = session.spec.grace_seconds
    StopWatch(session.folder, rank=session.rank, attempt=session.attempt, grace_seconds=grace).listen().attach(session)


def _redirect_output(folder: Path, rank: int) -> None:
    output = folder / "output" / f"rank-{rank}.log"
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


if __name__ == "__main__":
    die_with_parent()
    leave(main())
