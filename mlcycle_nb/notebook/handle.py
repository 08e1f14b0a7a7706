"""Handles of long work: show themselves, can be waited for or awaited, and can be made again from the id."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator
from typing import Any, Generic, TypeVar

from mlcycle_nb.errors import WaitTimeout
from mlcycle_nb.notebook.panel import Panel

R = TypeVar("R")
_POLL_SECONDS = 0.1
_SUSTAIN_SECONDS = 1.0


class Handle(Generic[R]):
    """Long work that goes on by itself, in the supervisor.

    Parameters
    ----------
    record_id : str
        Names the work in the workspace.
    read : callable
        Returns the record as it is now.
    done : callable
        Says whether a record will change no more.
    panel : callable, optional
        Makes the panel that shows the work.
    sustain : callable, optional
        Called about once a second while somebody waits: brings back what the work needs, should it have been killed.
    """

    def __init__(
        self,
        record_id: str,
        read: Callable[[], R],
        done: Callable[[R], bool],
        panel: Callable[[], Panel[Any]] | None = None,
        *,
        sustain: Callable[[], None] | None = None,
    ) -> None:
        self.id = record_id
        self._read = read
        self._done = done
        self._make_panel = panel
        self._panel: Panel[Any] | None = None
        self._sustain = sustain
        self._sustain_at = 0.0

    @property
    def record(self) -> R:
        """The record as it is stored now."""
        return self._read()

    @property
    def done(self) -> bool:
        """Whether the work has ended, well or badly."""
        return self._done(self._read())

    def wait(self, timeout: float | None = None, *, on_change: Callable[[R], None] | None = None) -> R:
        """Block until the work has ended and return its record.

        An interrupt (the notebook's stop button) ends the waiting, never the work.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait at most.
        on_change : callable, optional
            Called with each new state of the record.

        Raises
        ------
        WaitTimeout
            When `timeout` seconds have passed; the work goes on.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        last: R | None = None
        try:
            while True:
                record = self._look()
                if record != last and on_change is not None:
                    on_change(record)
                last = record
                if self._done(record):
                    return record
                if deadline is not None and time.monotonic() >= deadline:
                    raise WaitTimeout(f"{self.id} has not ended within {timeout} s; it goes on", remedy="wait again")
                time.sleep(_POLL_SECONDS)
        except KeyboardInterrupt:
            print(f"detached from {self.id}: it goes on; run the cell again, or .wait(), to attach")
            return self._read()

    def wait_for(self, condition: Callable[[R], Any], timeout: float = 60.0) -> R:
        """Block until `condition` holds of the record, and return it.

        Raises
        ------
        WaitTimeout
            When `timeout` seconds have passed.
        """
        deadline = time.monotonic() + timeout
        while True:
            record = self._look()
            if condition(record):
                return record
            if time.monotonic() >= deadline:
                raise WaitTimeout(f"the condition on {self.id} did not hold within {timeout:g} s", remedy="wait again")
            time.sleep(_POLL_SECONDS)

    def __await__(self) -> Generator[Any, None, R]:
        return self._wait_async().__await__()

    async def _wait_async(self) -> R:
        while True:
            record = await asyncio.to_thread(self._look)
            if self._done(record):
                return record
            await asyncio.sleep(_POLL_SECONDS)

    def _look(self) -> R:
        if self._sustain is not None and time.monotonic() >= self._sustain_at:
            self._sustain_at = time.monotonic() + _SUSTAIN_SECONDS
            self._sustain()
        return self._read()

    def panel(self) -> Panel[Any] | None:
        """Return the panel of this work."""
        if self._panel is None and self._make_panel is not None:
            self._panel = self._make_panel()
        return self._panel

    def __repr__(self) -> str:
        panel = self.panel()
        return f"{type(self).__name__} {self.id}" if panel is None else repr(panel)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        panel = self.panel()
        return {"text/plain": repr(self)} if panel is None else panel._repr_mimebundle_(include, exclude)

    def _ipython_display_(self) -> None:
        panel = self.panel()
        if panel is None:
            raise NotImplementedError  # IPython then asks for the bundle
        panel._ipython_display_()
