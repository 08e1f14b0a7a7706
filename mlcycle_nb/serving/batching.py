"""Greedy micro-batching: whatever queued while the last batch ran goes to the model together, without waiting for more.

The model never runs twice at once. A fast model runs on the event loop itself, since a thread would cost more than the
prediction; one that takes longer, or that is bound to its thread, runs in the single model thread.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from mlcycle_nb.errors import MLCycleError
from mlcycle_nb.serving.refusals import Problem

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from mlcycle_nb.packages.formats import Runtime
    from mlcycle_nb.serving.contract import InputContract, OutputContract
    from mlcycle_nb.serving.counters import Counters

INLINE_SECONDS = 0.002
"""A batch expected to take longer than this leaves the event loop free."""


class Call:
    """One request while it waits for the model and while it is answered."""

    __slots__ = ("array", "consumer", "future", "latency_ms", "mirrored", "prediction_id", "rows", "started")

    def __init__(self, array: NDArray[Any], prediction_id: str, consumer: str, mirrored: bool, started: float) -> None:
        self.array = array
        self.rows = len(array)
        self.prediction_id = prediction_id
        self.consumer = consumer
        self.mirrored = mirrored
        self.started = started
        self.latency_ms = 0.0
        self.future: asyncio.Future[Answer]


class Batch:
    """One run of the model: what went in, what came out; rows are rendered for all its requests at once."""

    __slots__ = ("_rendered", "calls", "inputs", "outputs")

    def __init__(self, calls: list[Call], inputs: NDArray[Any], outputs: dict[str, NDArray[Any]]) -> None:
        self.calls = calls
        self.inputs = inputs
        self.outputs = outputs
        self._rendered: dict[str, list[bytes]] = {}

    def rendered(self, name: str) -> list[bytes]:
        """Return one output as JSON text, without brackets, one item a row."""
        rows = self._rendered.get(name)
        if rows is None:
            rows = self._rendered[name] = render_rows(self.outputs[name])
        return rows


Answer = tuple[Batch, int]
"""A batch, and the first row of it that belongs to the request."""


def render_rows(array: NDArray[Any]) -> list[bytes]:
    """Return each row as JSON numbers without brackets; float32 in its shortest form."""
    import orjson

    if array.ndim == 1:
        return orjson.dumps(array, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].split(b",")
    flat = np.ascontiguousarray(array.reshape(len(array), -1))
    return orjson.dumps(flat, option=orjson.OPT_SERIALIZE_NUMPY)[2:-2].split(b"],[")


class Batcher:
    """Queues calls and runs the model over them.

    Parameters
    ----------
    runtime : Runtime
        The model.
    takes, gives : InputContract, OutputContract
        Contracts on values; shapes of inputs are checked before `submit`.
    counters : Counters
        Where batches, model time and failures are counted.
    executor : ThreadPoolExecutor
        The model thread: one worker.
    batch_rows, queued_rows : int
        Rows of one run; rows that may wait.
    on_batch : callable
        Given every answered batch, such as the prediction log's `append`.
    """

    def __init__(
        self,
        runtime: Runtime,
        takes: InputContract,
        gives: OutputContract,
        counters: Counters,
        executor: ThreadPoolExecutor,
        *,
        batch_rows: int,
        queued_rows: int,
        on_batch: Callable[[Batch], None] | None = None,
    ) -> None:
        self._runtime = runtime
        self._takes = takes
        self._gives = gives
        self._counters = counters
        self._executor = executor
        self._batch_rows = batch_rows
        self._queue_limit = queued_rows
        self._on_batch = on_batch
        self._waiting: list[Call] = []
        self.queued_rows = 0
        self._busy = False
        self._row_seconds = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None

    def submit(self, call: Call) -> asyncio.Future[Answer]:
        """Queue a call; its future gives the batch and the row, or raises Problem."""
        if self.queued_rows + call.rows > self._queue_limit and self.queued_rows:
            raise Problem(503, "overloaded", "too many rows are waiting; try again shortly")
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        call.future = future
        self._waiting.append(call)
        self.queued_rows += call.rows
        if not self._busy:
            self._busy = True
            # Not at once: the other requests that this turn of the loop reads join the batch.
            loop.call_soon(self._run)
        return future

    def warm(self, inputs: NDArray[Any]) -> None:
        """Run the model on a few batch sizes, so that the first request finds arenas made and the cost known."""
        for rows in (1, 2, 8, min(64, self._batch_rows), 1, 1):
            batch = np.ascontiguousarray(np.resize(inputs, (rows, *inputs.shape[1:])))
            begun = time.perf_counter()
            self._runtime.predict({self._takes.name: batch})
            self._row_seconds = (time.perf_counter() - begun) / rows

    def _take(self) -> list[Call]:
        waiting = self._waiting
        rows = 0
        for position, call in enumerate(waiting):
            rows += call.rows
            if rows > self._batch_rows and position:
                self._waiting = waiting[position:]
                self.queued_rows -= rows - call.rows
                return waiting[:position]
        self._waiting = []
        self.queued_rows = 0
        return waiting

    def _run(self) -> None:
        calls = self._take()
        if not calls:
            self._busy = False
            return
        inputs = calls[0].array if len(calls) == 1 else np.concatenate([call.array for call in calls])
        if not self._takes.sound(inputs):
            calls = self._refuse_unsound(calls)
            if not calls:
                self._next()
                return
            inputs = np.concatenate([call.array for call in calls])
        if self._runtime.thread_bound or self._row_seconds * len(inputs) > INLINE_SECONDS:
            loop = self._loop
            assert loop is not None
            job = loop.run_in_executor(self._executor, self._predict, inputs)
            job.add_done_callback(lambda done: self._finish(calls, inputs, done.result()))
        else:
            self._finish(calls, inputs, self._predict(inputs))

    def _predict(self, inputs: NDArray[Any]) -> dict[str, NDArray[Any]] | MLCycleError:
        begun = time.perf_counter()
        try:
            return self._runtime.predict({self._takes.name: inputs})
        except MLCycleError as failure:
            return failure
        finally:
            seconds = time.perf_counter() - begun
            self._counters.model_seconds += seconds
            # A slow start-up run should not banish a fast model to the thread for good, so the average forgets quickly.
            self._row_seconds += 0.2 * (seconds / len(inputs) - self._row_seconds)

    def _finish(self, calls: list[Call], inputs: NDArray[Any], result: dict[str, NDArray[Any]] | MLCycleError) -> None:
        counters = self._counters
        counters.batch_rows.add(len(inputs))
        if isinstance(result, MLCycleError):
            counters.model_errors += 1
            self._fail(calls, Problem(500, "model_failed", "the model failed on this batch"))
        else:
            fault = self._gives.fault(result, len(inputs))
            if fault:
                self._invalid(calls, fault)
            else:
                self._answer(calls, inputs, result)
        self._next()

    def _answer(self, calls: list[Call], inputs: NDArray[Any], outputs: dict[str, NDArray[Any]]) -> None:
        bad = self._gives.bad_rows(outputs)
        batch = Batch(calls, inputs, outputs)
        now = time.perf_counter()
        first = 0
        for call in calls:
            call.latency_ms = (now - call.started) * 1000.0
            if bad is not None and bad[first : first + call.rows].any():
                self._invalid([call], "the model answered with a value that is not finite")
            elif not call.future.done():
                call.future.set_result((batch, first))
            # The log keeps calls for a while: without this they would keep every array twice, in a reference cycle.
            del call.future, call.array
            first += call.rows
        self._counters.rows += len(inputs)
        if self._on_batch is not None:
            self._on_batch(batch)

    def _refuse_unsound(self, calls: list[Call]) -> list[Call]:
        kept = []
        for call in calls:
            problem = self._takes.violation(call.array)
            if problem is None:
                kept.append(call)
            else:
                self._fail([call], problem)
        return kept

    def _invalid(self, calls: list[Call], fault: str) -> None:
        self._counters.output_invalid += len(calls)
        self._fail(calls, Problem(502, "model_output_invalid", fault))

    def _fail(self, calls: list[Call], problem: Problem) -> None:
        for call in calls:
            if not call.future.done():
                call.future.set_exception(problem)

    def _next(self) -> None:
        if self._waiting:
            assert self._loop is not None
            self._loop.call_soon(self._run)
        else:
            self._busy = False
