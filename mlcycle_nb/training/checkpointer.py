"""Taking and restoring checkpoints in a worker: copy on the training thread, write on another."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from mlcycle_nb.errors import InvalidInput, MLCycleError
from mlcycle_nb.training import random_state, state_tree
from mlcycle_nb.training.checkpoints import CheckpointRecord, CheckpointStore

if TYPE_CHECKING:
    from mlcycle_nb.training.events import EventWriter

_RANDOM_STATE_BYTES = 32_768


class Checkpointer:
    """Saves named objects that have ``state_dict``, with the generators of every rank.

    Parameters
    ----------
    store : CheckpointStore
        Written by rank 0 alone.
    accelerator : accelerate.Accelerator
        For what the ranks tell each other.
    events : EventWriter
        Where saves, failures and damaged checkpoints are noted.
    """

    def __init__(self, store: CheckpointStore, accelerator: Any, events: EventWriter) -> None:
        self._store, self._accelerator, self._events = store, accelerator, events
        self._thread: threading.Thread | None = None
        self._copies: dict[str, Any] = {}  # kept from one save to the next: fresh pages cost more than the copying
        self._committed: tuple[CheckpointRecord, Callable[[CheckpointRecord], None]] | None = None

    @property
    def busy(self) -> bool:
        """Whether a save is still being written."""
        return self._thread is not None and self._thread.is_alive()

    def save(
        self,
        objects: Mapping[str, Any],
        *,
        step: int,
        epoch: int,
        cursor: Mapping[str, Any],
        metric: float | None = None,
        lower_is_better: bool = True,
        after: Callable[[CheckpointRecord], None] | None = None,
    ) -> None:
        """Take a checkpoint; every rank calls this at the same step.

        The call returns when the state is copied. A save that the disk refuses is noted in the events, training goes
        on, and the older checkpoints are untouched. `after` gets the receipt, on the training thread.
        """
        began = time.monotonic()
        generators = self._all_random_states()
        self._events.flush()
        if not self._accelerator.is_main_process:
            return
        self.wait()
        tensors, state = self._copy(objects)
        state |= {"cursor": dict(cursor), "random": generators, "world": len(generators)}
        blocked = time.monotonic() - began

        def commit() -> None:
            try:
                receipt = self._store.save(
                    step=step, epoch=epoch, tensors=tensors, state=state, metric=metric, lower_is_better=lower_is_better
                )
            except (OSError, MLCycleError) as failure:
                reason = failure.strerror if isinstance(failure, OSError) and failure.strerror else str(failure)
                self._events.write("checkpoint_failed", step=step, epoch=epoch, reason=reason)
                return
            best = self._store.best()
            self._events.write(
                "checkpoint",
                step=step,
                epoch=epoch,
                name=receipt.path.name,
                size_bytes=receipt.size_bytes,
                metric=receipt.metric,
                best=bool(best) and best[0].path == receipt.path,
                seconds=round(time.monotonic() - began, 4),
                blocked_seconds=round(blocked, 4),
            )
            if after is not None:
                self._committed = (receipt, after)

        self._thread = threading.Thread(target=commit, name="checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Return when no save is being written."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._committed is not None:
            (receipt, after), self._committed = self._committed, None
            with random_state.aside(0):  # when it runs depends on the disk: it must not move the generators
                after(receipt)

    def finish_if_done(self) -> None:
        """Call ``on_checkpoint`` when the save in the background has been committed; cheap at every step."""
        if self._thread is not None and not self._thread.is_alive():
            self.wait()

    def restore(self, objects: Mapping[str, Any]) -> dict[str, Any] | None:
        """Load the newest verified checkpoint into `objects`; return its cursor, or None when there is none.

        The generators are not put back yet: `put_random_back` does it at the right moment.
        """
        search = self._store.newest_verified()
        record = search.newest
        self._same_on_all_ranks(-1 if record is None else record.step)
        for name, reason in search.rejected:
            if self._accelerator.is_main_process:
                self._events.write("checkpoint_rejected", name=name, reason=reason)
        if record is None:
            return None
        tensors, state = self._store.load(record)
        if state["world"] != self._accelerator.num_processes:
            raise InvalidInput(
                f"the checkpoint is of {state['world']} processes", value=self._accelerator.num_processes
            )
        for name, holder in objects.items():
            if name not in state["objects"]:
                raise InvalidInput(f"the checkpoint {record.path.name} holds no {name}")
            self._load_into(name, holder, state_tree.join(state["objects"][name], tensors))
        cursor = dict(state["cursor"])
        cursor["random"] = state["random"][self._accelerator.process_index]
        if self._accelerator.is_main_process:
            self._events.write("resumed", step=record.step, epoch=record.epoch, name=record.path.name)
        return cursor

    @staticmethod
    def put_random_back(cursor: Mapping[str, Any]) -> None:
        """Restore the generators: after the iterator over the data is made, before its first batch is fetched."""
        random_state.restore(cursor["random"])

    # -- parts -----------------------------------------------------------------------------------------------

    def _copy(self, objects: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        import torch

        documents: dict[str, Any] = {}
        copies: dict[str, Any] = {}
        for name, holder in objects.items():
            document, tensors = state_tree.split(self._bare(holder).state_dict(), name)
            documents[name] = document
            for key, tensor in tensors.items():
                if isinstance(holder, torch.nn.Module) and tensor.is_floating_point():
                    self._refuse_non_finite(key, tensor)
                copies[key] = self._copy_of(key, tensor.detach())
        self._copies = copies
        return copies, {"objects": documents}

    def _copy_of(self, key: str, tensor: Any) -> Any:
        kept = self._copies.get(key)
        if kept is None or kept.shape != tensor.shape or kept.dtype != tensor.dtype:
            return tensor.to("cpu", copy=True)
        return kept.copy_(tensor)

    @staticmethod
    def _refuse_non_finite(key: str, tensor: Any) -> None:
        import torch

        # One pass: a sum is finite when all its terms are, unless it overflows; then each term is looked at.
        if not torch.isfinite(tensor.sum()) and not torch.isfinite(tensor).all():
            from mlcycle_nb.training.session import NonFinite

            raise NonFinite("a weight became NaN or infinite", where=key, remedy="lower the learning rate")

    def _bare(self, holder: Any) -> Any:
        import torch

        return self._accelerator.unwrap_model(holder) if isinstance(holder, torch.nn.Module) else holder

    def _load_into(self, name: str, holder: Any, state: Any) -> None:
        try:
            self._bare(holder).load_state_dict(state)
        except (RuntimeError, ValueError, KeyError) as failure:
            raise InvalidInput(
                f"the checkpoint does not fit {name}: {' '.join(str(failure).split())[:300]}"
            ) from failure

    def _all_random_states(self) -> list[dict[str, Any]]:
        own = random_state.capture()
        if self._accelerator.num_processes == 1:
            return [own]
        import torch

        document = json.dumps(own).encode()
        if len(document) > _RANDOM_STATE_BYTES:
            raise InvalidInput("the random state is too large to be saved", value=len(document))
        padded = torch.frombuffer(bytearray(document.ljust(_RANDOM_STATE_BYTES)), dtype=torch.uint8)
        gathered = self._accelerator.gather(padded.to(self._accelerator.device)).cpu().numpy().tobytes()
        size = _RANDOM_STATE_BYTES
        return [json.loads(gathered[start : start + size]) for start in range(0, len(gathered), size)]

    def _same_on_all_ranks(self, step: int) -> None:
        import torch

        if self._accelerator.num_processes == 1:
            return
        steps = self._accelerator.gather(torch.tensor([step], device=self._accelerator.device)).tolist()
        if len(set(steps)) != 1:
            raise InvalidInput("the ranks see different checkpoints", value=steps)
