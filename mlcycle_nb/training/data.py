"""Batches whose order is known from the seed alone, so that training can go on from any batch.

For each epoch the loader's own sampler is asked once, with generators seeded from (seed, epoch), for all batches of
the epoch; each rank takes its share and starts where it has to. Nothing is fetched only to be thrown away.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from mlcycle_nb.errors import InvalidInput
from mlcycle_nb.training import random_state


class BatchIndices(list[Any]):
    """Row numbers of one batch, and the seed that a data worker takes for it."""

    def __init__(self, rows: Sequence[Any], seed: int) -> None:
        super().__init__(rows)
        self.seed = seed


def share_of(batches: list[list[Any]], rank: int, world: int) -> list[list[Any]]:
    """Return one rank's batches of an epoch: every row exactly once, the same count on every rank.

    Whole rounds go batch by batch to the ranks. The rows of an incomplete last round are spread evenly; only when
    they are fewer than the ranks are some of them given out twice, because each rank must take part.
    """
    whole = len(batches) // world * world
    mine = batches[rank:whole:world]
    rest = list(itertools.chain.from_iterable(batches[whole:]))
    if rest:
        if len(rest) < world:
            rest = (rest * world)[:world]
        mine.append(rest[rank::world])
    return mine


class _SequenceOfBatches:
    """A batch sampler that is told what to give next."""

    def __init__(self) -> None:
        self.batches: list[Any] = []

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class _SeededRows:
    """A dataset whose data workers draw the same numbers for a batch, whichever worker gets it and when."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_dataset"], name)

    def __getitem__(self, row: Any) -> Any:
        return self._dataset[row]

    def __getitems__(self, rows: BatchIndices) -> list[Any]:
        import torch

        if torch.utils.data.get_worker_info() is not None:
            random_state.seed_everything(rows.seed)
        fetch = getattr(self._dataset, "__getitems__", None)
        return fetch(list(rows)) if fetch is not None else [self._dataset[row] for row in rows]


class ResumableLoader:
    """A training loader that can start at any batch of any epoch.

    Parameters
    ----------
    loader : torch.utils.data.DataLoader or iterable
        With a map-style dataset each row comes once an epoch. An iterable dataset, or any other iterable, is read from
        its start and passed over up to the place to go on from.
    seed : int
        Of the order.
    rank, world : int
        This process's share.
    """

    def __init__(self, loader: Any, *, seed: int, rank: int, world: int) -> None:
        import torch

        self._loader, self._seed, self._rank, self._world = loader, seed, rank, world
        data = torch.utils.data
        self._mapped = isinstance(loader, data.DataLoader) and not isinstance(loader.dataset, data.IterableDataset)
        if not hasattr(loader, "__iter__") or isinstance(loader, Iterator):
            raise InvalidInput(
                "the training loader can be read only once",
                value=type(loader).__name__,
                remedy="give a torch DataLoader, or a list of batches",
            )
        self._order = _SequenceOfBatches()
        self._shared = self._rebuild() if self._mapped else None
        self._planned: tuple[int, list[list[Any]]] | None = None

    def length(self, epoch: int) -> int | None:
        """Return how many batches this rank gets in an epoch, or None when that cannot be known."""
        if self._mapped:
            return len(self._plan(epoch))
        try:
            return len(self._loader) // self._world
        except TypeError:
            return None

    def start(self, epoch: int, batch: int = 0) -> Iterator[Any]:
        """Return an iterator over this rank's batches of an epoch from `batch` on."""
        if not self._mapped:
            return self._stream(epoch, batch)
        base = random_state.epoch_seed(self._seed, epoch)
        mine = self._plan(epoch)
        self._order.batches = [
            BatchIndices(rows, base + (position * self._world + self._rank + 1) * 104_729)
            for position, rows in enumerate(mine[batch:], start=batch)
        ]
        return iter(self._shared)  # type: ignore[arg-type]  # made above for mapped loaders

    def restart(self, epoch: int, batch: int) -> Iterator[Any]:
        """Return what `start` does, from new data workers: the ones there were have died."""
        if self._mapped:
            self._shared = self._rebuild()
        return self.start(epoch, batch)

    def _plan(self, epoch: int) -> list[list[Any]]:
        if self._planned is None or self._planned[0] != epoch:
            if self._planned is None and not self._forgetful():
                for earlier in range(epoch):  # its orders depend on how often it was asked before
                    self._ask(earlier)
            self._planned = (epoch, share_of(self._ask(epoch), self._rank, self._world))
        return self._planned[1]

    def _ask(self, epoch: int) -> list[list[Any]]:
        seed = random_state.epoch_seed(self._seed, epoch)
        with random_state.aside(seed):
            self._seed_samplers(seed)
            return [list(rows) for rows in self._batches()]

    def _forgetful(self) -> bool:
        """Return whether the samplers are torch's own, whose order depends on their generators alone."""
        loader = self._loader
        samplers = (loader.sampler, loader.batch_sampler, getattr(loader.batch_sampler, "sampler", None))
        return all(part is None or type(part).__module__.startswith("torch.utils.data") for part in samplers)

    def _batches(self) -> Any:
        loader = self._loader
        if loader.batch_sampler is not None:
            return loader.batch_sampler
        return ([row] for row in loader.sampler)  # batch_size=None: the dataset makes whole batches itself

    def _seed_samplers(self, seed: int) -> None:
        loader = self._loader
        samplers = (loader, loader.sampler, loader.batch_sampler, getattr(loader.batch_sampler, "sampler", None))
        for owner in samplers:
            generator = getattr(owner, "generator", None)
            if generator is not None:
                generator.manual_seed(seed)
            set_epoch = getattr(owner, "set_epoch", None)
            if set_epoch is not None:
                set_epoch(seed % 2**31)

    def _rebuild(self) -> Any:
        import torch

        loader = self._loader
        single = loader.batch_sampler is None
        options: dict[str, Any] = {
            "num_workers": loader.num_workers,
            "collate_fn": _FirstOf(loader.collate_fn) if single else loader.collate_fn,
            "pin_memory": loader.pin_memory,
            "timeout": loader.timeout,
            "worker_init_fn": loader.worker_init_fn,
            "persistent_workers": loader.persistent_workers,
            # Making an iterator draws a number: from a generator of our own, so that the model's stay as they are.
            "generator": torch.Generator().manual_seed(self._seed % 2**63),
        }
        if loader.num_workers > 0:
            options |= {
                "prefetch_factor": loader.prefetch_factor,
                "multiprocessing_context": loader.multiprocessing_context,
            }
        dataset = _SeededRows(loader.dataset) if loader.num_workers > 0 else loader.dataset
        return torch.utils.data.DataLoader(dataset, batch_sampler=self._order, **options)

    def _stream(self, epoch: int, batch: int) -> Iterator[Any]:
        with random_state.aside(random_state.epoch_seed(self._seed, epoch)):
            source = iter(self._loader)
        for _ in range(batch):  # before the caller puts the generators back: reading may draw from them
            list(itertools.islice(source, self._world))
        return self._rounds(source)

    def _rounds(self, source: Iterator[Any]) -> Iterator[Any]:
        while len(batches := list(itertools.islice(source, self._world))) == self._world:
            yield batches[self._rank]


class _FirstOf:
    """Collate for loaders without batching: one row, converted as the loader would."""

    def __init__(self, convert: Any) -> None:
        self._convert = convert

    def __call__(self, rows: list[Any]) -> Any:
        return self._convert(rows[0])


def evaluation_share(loader: Any, *, rank: int, world: int) -> Iterator[Any]:
    """Return one rank's batches of a validation loader: each batch on exactly one rank, in the loader's order."""
    import torch

    data = torch.utils.data
    if world == 1 or not isinstance(loader, data.DataLoader) or isinstance(loader.dataset, data.IterableDataset):
        return itertools.islice(iter(loader), rank, None, world)
    resumable = ResumableLoader(loader, seed=0, rank=rank, world=world)
    with random_state.aside(0):
        batches = [list(rows) for rows in resumable._batches()]
    resumable._order.batches = [BatchIndices(rows, i) for i, rows in enumerate(batches)][rank::world]
    return iter(resumable._shared)  # type: ignore[arg-type]  # made for mapped loaders
