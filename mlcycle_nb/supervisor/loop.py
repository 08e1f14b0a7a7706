"""The reconcile loop: for each active record observe, decide, act; never two threads on one record."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from mlcycle_nb.context import Context
from mlcycle_nb.errors import Conflict, MLCycleError
from mlcycle_nb.store import Record
from mlcycle_nb.supervisor.controller import Controller

logger = logging.getLogger(__name__)
_FIRST_RETRY_SECONDS = 0.5
_LAST_RETRY_SECONDS = 30.0
_STOP_SECONDS = 0.5  # a slow tick must not delay the end by more


@dataclass(slots=True)
class _Failure:
    count: int
    retry_at: float  # on the workspace's monotonic clock


class ReconcileLoop:
    """Turns records into actions until told to stop.

    Parameters
    ----------
    context : Context
        The workspace.
    controllers : sequence of Controller
        One for each kind of record.
    """

    def __init__(self, context: Context, controllers: Sequence[Controller]) -> None:
        self._context = context
        self._controllers = controllers
        self._pool = ThreadPoolExecutor(context.settings.supervisor.workers, thread_name_prefix="reconcile")
        self._in_flight: dict[tuple[str, str], Future[bool]] = {}
        self._failures: dict[tuple[str, str], _Failure] = {}
        self._well: set[tuple[str, str]] = set()  # known to show no error
        self._acted = threading.Event()

    def run(self, stop: threading.Event) -> None:
        """Reconcile until `stop` is set, or nothing has been active for the idle time."""
        settings = self._context.settings.supervisor
        last_active = time.monotonic()
        while not stop.is_set():
            if not self._context.home.is_dir():
                logger.warning("the workspace folder is gone; leaving")
                return
            if self.turn():
                last_active = time.monotonic()
            elif time.monotonic() - last_active > settings.idle_exit_seconds:
                logger.info("nothing active for %s s; leaving", settings.idle_exit_seconds)
                return
            # An action that was just done usually makes the next one possible: look again at once.
            until = time.monotonic() + settings.tick_seconds
            while not stop.is_set() and (left := until - time.monotonic()) > 0:
                if self._acted.wait(min(left, _STOP_SECONDS)):
                    self._acted.clear()
                    break

    def close(self) -> None:
        """Wait for the actions in flight and end the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def turn(self) -> int:
        """Hand every active record that is not being worked on to a thread; return how many are active."""
        active = 0
        self._context.processes.reap()
        for controller in self._controllers:
            try:
                records = self._active_records(controller.record_type)
            except MLCycleError as failure:
                logger.error("%s", failure)
                continue
            for record in records:
                active += 1
                self._submit(controller, record)
        self._in_flight = {key: future for key, future in self._in_flight.items() if not future.done()}
        return active

    def settle(self) -> None:
        """Wait for the actions in flight: for tests that drive the loop turn by turn."""
        for future in list(self._in_flight.values()):
            future.result()

    def _active_records(self, record_type: type[Record]) -> list[Record]:
        store = self._context.store
        try:
            return store.find(record_type, active=True, newest_first=False)
        except MLCycleError:
            ids = store.ids(record_type, active=True)
        records = []
        for id in ids:  # one that cannot be read must not hide the others of its kind
            try:
                records.append(store.get(record_type, id))
            except MLCycleError as failure:
                if not self._is_resting((record_type.KIND, id)):
                    self._note_failure(record_type, id, failure)
        return records

    def _submit(self, controller: Controller, record: Record) -> None:
        key = (record.KIND, record.id)
        running = self._in_flight.get(key)
        if running is not None and not running.done():
            return
        if self._is_resting(key):
            return
        self._in_flight[key] = self._pool.submit(self._reconcile, controller, record)

    def _reconcile(self, controller: Controller, record: Record) -> bool:
        key = (record.KIND, record.id)
        try:
            observation = controller.observe(record)
            action = controller.next_action(record, observation, self._context.clock.now())
            if action is not None:
                controller.act(action, record, observation)
            self._note_success(key, record)
        except Conflict as conflict:
            logger.info("%s %s: %s", *key, conflict)  # somebody else was first: the next turn reads again
            return False
        except Exception as failure:  # one object's trouble must not stop the others; it is shown on the object
            self._note_failure(type(record), record.id, failure)
            return False
        if action is not None:
            self._acted.set()
        return action is not None

    def _note_success(self, key: tuple[str, str], record: Record) -> None:
        # The first success also takes away an error that a supervisor before this one left on the object.
        if key in self._well:
            return
        if self._context.store.observed(type(record), record.id).get("error"):
            self._context.store.observe(type(record), record.id, error="", error_count=0)
        self._failures.pop(key, None)
        self._well.add(key)

    def _is_resting(self, key: tuple[str, str]) -> bool:
        failure = self._failures.get(key)
        return failure is not None and self._context.clock.monotonic() < failure.retry_at

    def _note_failure(self, record_type: type[Record], id: str, failure: Exception) -> None:
        key = (record_type.KIND, id)
        self._well.discard(key)
        count = self._failures[key].count + 1 if key in self._failures else 1
        wait = min(_FIRST_RETRY_SECONDS * 2 ** (count - 1), _LAST_RETRY_SECONDS)
        self._failures[key] = _Failure(count, self._context.clock.monotonic() + wait)
        logger.error("%s %s failed %d times; again in %.1f s", *key, count, wait, exc_info=failure)
        text = str(failure) if isinstance(failure, MLCycleError) else f"{type(failure).__name__}: {failure}"
        try:
            self._context.store.observe(record_type, id, error=text[:500], error_count=count)
        except MLCycleError as unstored:
            logger.error("its error could not be stored: %s", unstored)
