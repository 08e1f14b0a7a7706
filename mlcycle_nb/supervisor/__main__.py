"""The supervisor process: ``python -m mlcycle_nb.supervisor --home FOLDER``."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import socket
import sys
import threading
from pathlib import Path

from mlcycle_nb.context import open_context
from mlcycle_nb.errors import MLCycleError
from mlcycle_nb.files import write_atomically
from mlcycle_nb.settings import load_settings
from mlcycle_nb.supervisor.controller import load_controllers
from mlcycle_nb.supervisor.identity import ProcessIdentity
from mlcycle_nb.supervisor.leadership import still_leads, wait_for_leadership
from mlcycle_nb.supervisor.loop import ReconcileLoop
from mlcycle_nb.supervisor.start import state_file, take_lock

_LEAD_CHECK_SECONDS = 1.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="mlcycle_nb.supervisor")
    parser.add_argument("--home", type=Path, required=True)
    home = parser.parse_args().home
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    lock = take_lock(home)
    if lock is None:
        return 0  # another starter was first
    try:
        return _lead(home)
    except MLCycleError as failure:
        print(failure, file=sys.stderr)
        return 1


def _lead(home: Path) -> int:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    settings = load_settings(home.parent / "mlcycle.toml")
    context = open_context(home, settings, actor="supervisor")
    identity = ProcessIdentity.of(os.getpid())
    assert identity is not None  # this very process
    controllers = list(load_controllers(context))
    described = {"pid": identity.pid, "started": identity.started, "host": socket.gethostname()}
    holder = f"{socket.gethostname()}:{identity.pid}"
    lead = wait_for_leadership(
        context.store,
        holder,
        stop,
        ready=lambda: write_atomically(state_file(home), json.dumps(described), durable=False),
    )
    loop = ReconcileLoop(context, controllers)
    watcher = threading.Thread(target=_watch_lead, args=(lead, stop), daemon=True)
    watcher.start()
    try:
        loop.run(stop)
    finally:
        stop.set()
        loop.close()
        if home.is_dir():
            state_file(home).unlink(missing_ok=True)
        else:
            context.processes.stop_all()  # nobody could find these processes any more
        context.store.close()
    return 0


def _watch_lead(lead: object, stop: threading.Event) -> None:
    while not stop.wait(_LEAD_CHECK_SECONDS):
        if not still_leads(lead):  # type: ignore[arg-type]  # None or a connection
            stop.set()


if __name__ == "__main__":
    raise SystemExit(main())
