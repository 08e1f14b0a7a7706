"""Taking and restoring checkpoints in a worker: copy on the training thread, write on another."""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from mlcycle_nb.errors import EngineError, IntegrityError, InvalidInput, MLCycleError
from mlcycle_nb.training import random_state, state_tree
from mlcycle_nb.training.background import BackgroundThread
from mlcycle_nb.training.checkpoints import CheckpointRecord, CheckpointStore, order_of
from mlcycle_nb.training.tensor_file import refuse_unsaveable

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
        self._writer = BackgroundThread()
        self._writing = False  # a save was begun, and its end not looked at
        self._bares: dict[int, tuple[Any, Any]] = {}  # unwrapped modules; looking for wrappers takes a third of a save
        self.failure = ""  # why the last save did not come to be
        self._copies: dict[str, Any] = {}  # kept from one save to the next: fresh pages cost more than the copying
        self._committed: tuple[CheckpointRecord, Callable[[CheckpointRecord], None]] | None = None

    @property
    def busy(self) -> bool:
        """Whether a save is still being written."""
        return self._writer.busy

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
        # The steps first: when all ranks have told their generators, the events of all ranks are written.
        unwritten = self._events.flush()
        generators = self._all_random_states(unwritten)
        if not self._accelerator.is_main_process:
            return
        self.wait()
        tensors, state = self._copy(objects)
        state |= {"cursor": dict(cursor), "random": generators, "world": len(generators)}
        blocked = time.monotonic() - began

        def commit() -> None:
            try:
                _refuse_unwritten(generators)
                self._events.sync()
                receipt = self._store.save(
                    step=step, epoch=epoch, tensors=tensors, state=state, metric=metric, lower_is_better=lower_is_better
                )
                best = self._store.best()
            except Exception as failure:  # of whatever kind: on this thread nobody else would hear of it
                reason = _reason(failure)
                self.failure = reason
                self._events.write("checkpoint_failed", step=step, epoch=epoch, reason=reason)
                return
            self.failure = ""
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
                **({"not_pruned": self._store.prune_failure} if self._store.prune_failure else {}),
            )
            if after is not None:
                self._committed = (receipt, after)

        self._writer.do(commit)
        self._writing = True

    def wait(self) -> None:
        """Return when no save is being written."""
        self._writer.wait()
        self._writing = False
        if self._committed is not None:
            (receipt, after), self._committed = self._committed, None
            with random_state.aside(0):  # when it runs depends on the disk: it must not move the generators
                after(receipt)

    def finish_if_done(self) -> None:
        """Call ``on_checkpoint`` when the save in the background has been committed; cheap at every step."""
        if self._writing and not self._writer.busy:
            self.wait()

    def restore(self, objects: Mapping[str, Any]) -> dict[str, Any] | None:
        """Load the newest verified checkpoint into `objects`; return its cursor, or None when there is none.

        The generators are not put back yet: `put_random_back` does it at the right moment.
        """
        record = state = None
        unfit: InvalidInput | None = None
        before: tuple[int, int] | None = None
        while state is None:
            record, before = self._common_newest(before)
            if record is None:
                break
            problem = self._try(record, objects)
            if isinstance(problem, InvalidInput):
                unfit = unfit or problem
            if isinstance(problem, dict):
                state = problem
            elif self._accelerator.is_main_process:
                self._reject(record.path.name, problem.problem)
        if record is None or state is None:
            if unfit is not None:  # weights may be loaded in part, and to begin anew would hide it
                raise unfit
            return None
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

    def _common_newest(self, before: tuple[int, int] | None) -> tuple[CheckpointRecord | None, tuple[int, int] | None]:
        """Return the newest checkpoint that every rank can read in full, and its place in the order."""
        while True:
            search = self._store.newest_verified(before=before)
            for name, reason in search.rejected:
                self._reject(name, reason)
            own = (-1, -1) if search.newest is None else order_of(search.newest.path)
            orders = self._of_all_ranks(own)
            if len(set(orders)) == 1:
                return search.newest, own
            step, serial = min(orders)
            if step < 0:
                return None, None
            before = (step, serial + 1)

    def _try(
        self, record: CheckpointRecord, objects: Mapping[str, Any]
    ) -> dict[str, Any] | IntegrityError | InvalidInput:
        """Load a checkpoint on all ranks; return its state, or what is wrong with it on this or another rank."""
        found: dict[str, Any] | IntegrityError | InvalidInput
        try:
            tensors, found = self._store.load(record)
            self._load(record, objects, tensors, found)
        except (IntegrityError, InvalidInput) as problem:
            found = problem
        if (0, 0) in self._of_all_ranks((int(isinstance(found, dict)), 0)) and isinstance(found, dict):
            return IntegrityError("another rank cannot load it", where=record.path.name)
        return found

    def _load(
        self, record: CheckpointRecord, objects: Mapping[str, Any], tensors: Mapping[str, Any], state: dict[str, Any]
    ) -> None:
        try:
            world, documents = int(state["world"]), dict(state["objects"])
        except (KeyError, TypeError, ValueError):
            raise IntegrityError("its state is not one of ours", where=record.path.name) from None
        if world != self._accelerator.num_processes:
            raise InvalidInput(f"the checkpoint is of {world} processes", value=self._accelerator.num_processes)
        for name in objects:
            if name not in documents:
                raise InvalidInput(f"the checkpoint {record.path.name} holds no {name}")
        for name, holder in objects.items():
            self._load_into(name, holder, documents, tensors)

    def _reject(self, name: str, reason: str) -> None:
        if self._accelerator.is_main_process:
            self._events.write("checkpoint_rejected", name=name, reason=reason)

    def _copy(self, objects: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        import torch

        documents: dict[str, Any] = {}
        copies: dict[str, Any] = {}
        for name, holder in objects.items():
            tree = self._bare(holder).state_dict()
            document, tensors = state_tree.split(tree, name)
            documents[name] = document
            versions = getattr(tree, "_metadata", None)  # modules read it when their layout has changed since
            if versions is not None:
                documents[f"{name}:versions"] = state_tree.split(dict(versions), name)[0]
            for key, tensor in tensors.items():
                refuse_unsaveable(key, tensor)
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

        if tensor.dtype.itemsize == 1:
            tensor = tensor.float()  # there is no arithmetic on eight bits
        # One pass: a sum is finite when all its terms are, unless it overflows; then each term is looked at.
        if not torch.isfinite(tensor.sum()) and not torch.isfinite(tensor).all():
            from mlcycle_nb.training.trouble import NonFinite

            raise NonFinite("a weight became NaN or infinite", where=key, remedy="lower the learning rate")

    def _bare(self, holder: Any) -> Any:
        import torch

        if not isinstance(holder, torch.nn.Module):
            return holder
        if id(holder) not in self._bares:
            self._bares[id(holder)] = (holder, self._accelerator.unwrap_model(holder))
        return self._bares[id(holder)][1]

    def _load_into(self, name: str, holder: Any, documents: dict[str, Any], tensors: Mapping[str, Any]) -> None:
        import torch

        if not isinstance(holder, torch.nn.Module):  # it may keep the tensors, which are views of a passing file
            own = [key for key in tensors if key == name or key.startswith(f"{name}.")]
            tensors = {key: tensors[key].clone() for key in own}
        try:
            state = state_tree.join(documents[name], tensors)
            if f"{name}:versions" in documents:
                state = OrderedDict(state)
                state._metadata = state_tree.join(documents[f"{name}:versions"], {})  # type: ignore[attr-defined]
            self._bare(holder).load_state_dict(state)
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as failure:
            raise InvalidInput(
                f"the checkpoint does not fit {name}: {' '.join(str(failure).split())[:300]}"
            ) from failure

    def _all_random_states(self, unwritten: str) -> list[dict[str, Any]]:
        own = random_state.capture()
        if unwritten:
            own["unwritten"] = unwritten
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

    def _of_all_ranks(self, pair: tuple[int, int]) -> list[tuple[int, int]]:
        import torch

        if self._accelerator.num_processes == 1:
            return [pair]
        own = torch.tensor([pair], dtype=torch.int64, device=self._accelerator.device)
        return [(int(first), int(second)) for first, second in self._accelerator.gather(own).tolist()]


def _refuse_unwritten(generators: list[dict[str, Any]]) -> None:
    """Raise when a rank's events are not written: a run that goes on from here would lack those steps."""
    for rank, state in enumerate(generators):
        if "unwritten" in state:
            raise EngineError(f"the events of rank {rank} cannot be written: {state['unwritten']}")


def _reason(failure: Exception) -> str:
    if isinstance(failure, MLCycleError):
        return failure.problem
    return (failure.strerror if isinstance(failure, OSError) else None) or str(failure) or type(failure).__name__
