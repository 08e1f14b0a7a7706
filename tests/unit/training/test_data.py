"""Batches whose order depends on the seed alone."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, WeightedRandomSampler

from mlcycle_nb.errors import InvalidInput
from mlcycle_nb.training import random_state
from mlcycle_nb.training.data import ResumableLoader, evaluation_share, share_of

ROWS = TensorDataset(torch.arange(23))


def values(batches: Iterator[list[torch.Tensor]]) -> list[list[int]]:
    return [batch[0].tolist() for batch in batches]


@given(batches=st.lists(st.lists(st.integers(), min_size=1, max_size=5), max_size=12), world=st.integers(1, 5))
@settings(max_examples=200, deadline=None)
def test_shares_are_even_and_whole(batches: list[list[int]], world: int) -> None:
    """Every rank gets as many batches; every row comes, and exactly once unless the last round has too few rows."""
    numbered = [[(b, i) for i in range(len(rows))] for b, rows in enumerate(batches)]
    shares = [share_of(numbered, rank, world) for rank in range(world)]

    assert len({len(share) for share in shares}) == 1
    given_out = [row for share in shares for batch in share for row in batch]
    everything = [row for batch in numbered for row in batch]
    assert set(given_out) == set(everything)
    tail = sum(len(batch) for batch in numbered[len(numbered) // world * world :])
    if tail == 0 or tail >= world:
        assert len(given_out) == len(everything)


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_goes_on_from_any_batch(world: int, workers: int) -> None:
    """What is left after a resume is what an unbroken epoch still had, and no row is lost or doubled."""
    loader = DataLoader(ROWS, batch_size=4, shuffle=True, num_workers=workers)
    seen: list[int] = []
    for rank in range(world):
        whole = values(ResumableLoader(loader, seed=3, rank=rank, world=world).start(1))
        rest = values(ResumableLoader(loader, seed=3, rank=rank, world=world).start(1, 1))

        assert whole[1:] == rest
        seen += [row for batch in whole for row in batch]
    assert sorted(seen) == list(range(23))


def test_epochs_differ_and_the_model_s_generators_do_not_move() -> None:
    """Another epoch is another order; making and reading batches draws nothing from torch, numpy or python."""
    loader = ResumableLoader(DataLoader(ROWS, batch_size=4, shuffle=True), seed=0, rank=0, world=1)
    before = random_state.capture()
    first, second = values(loader.start(0)), values(loader.start(1))

    assert first != second
    assert values(loader.start(0)) == first
    assert random_state.capture() == before


def test_other_samplers() -> None:
    """A weighted sampler with a generator of its own is as repeatable."""
    sampler = WeightedRandomSampler([1.0] * 23, 23, generator=torch.Generator())
    loader = DataLoader(ROWS, batch_size=5, sampler=sampler)
    once = values(ResumableLoader(loader, seed=1, rank=0, world=1).start(0))

    assert values(ResumableLoader(loader, seed=1, rank=0, world=1).start(0)) == once
    assert values(ResumableLoader(loader, seed=2, rank=0, world=1).start(0)) != once


class Noisy(Dataset[float]):
    """Rows with noise drawn when they are fetched."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, row: int) -> float:
        return row + random.random() + float(np.random.rand()) + float(torch.rand(()))


def test_noise_in_data_workers_is_that_of_the_batch() -> None:
    """Fetched by another worker at another time, a batch has the same noise."""
    loader = DataLoader(Noisy(), batch_size=3, num_workers=2)
    whole = [batch.tolist() for batch in ResumableLoader(loader, seed=0, rank=0, world=1).start(0)]
    rest = [batch.tolist() for batch in ResumableLoader(loader, seed=0, rank=0, world=1).start(0, 1)]

    assert rest == whole[1:]


class Stream(IterableDataset[int]):
    """Rows that cannot be addressed."""

    def __iter__(self) -> Iterator[int]:
        return iter(range(11))


@pytest.mark.parametrize("source", [DataLoader(Stream(), batch_size=2), [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]])
def test_streams_are_read_up_to_the_place(source: object) -> None:
    """Each rank gets its own batches of each whole round."""
    shares = [list(ResumableLoader(source, seed=0, rank=rank, world=2).start(0)) for rank in (0, 1)]
    rest = list(ResumableLoader(source, seed=0, rank=1, world=2).start(0, 1))

    assert [len(share) for share in shares] == ([3, 3] if isinstance(source, DataLoader) else [2, 2])
    assert len(rest) == len(shares[1]) - 1
    assert torch.equal(torch.as_tensor(rest[0]), torch.as_tensor(shares[1][1]))


def test_what_can_be_read_once_is_refused() -> None:
    """A generator has no second epoch."""
    with pytest.raises(InvalidInput, match="only once"):
        ResumableLoader((row for row in [1]), seed=0, rank=0, world=1)


@pytest.mark.parametrize("world", [1, 2, 7])
def test_validation_rows_come_once(world: int) -> None:
    """No row is scored twice, also when there are more ranks than batches."""
    loader = DataLoader(ROWS, batch_size=5)
    seen = [
        row
        for rank in range(world)
        for batch in values(evaluation_share(loader, rank=rank, world=world))
        for row in batch
    ]

    assert sorted(seen) == list(range(23))
