"""Figures of a dry run in words, and what a killed notebook leaves of one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mlcycle_nb.supervisor.identity import ProcessIdentity
from mlcycle_nb.training.dry_run import _sweep
from mlcycle_nb.training.dry_run_report import DryRun, RankMeasure, duration, size
from mlcycle_nb.training.submission import TrainingOptions


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0031, "3.1 ms"),
        (42.0, "42 s"),
        (119.0, "119 s"),
        (150.0, "2 min"),
        (7500.0, "2 h 5 min"),
        (2e5, "2 days 7 h"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    """As long as it has to be."""
    assert duration(seconds) == text


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (999, "999 B"), (1234, "1.23 kB"), (2.5e9, "2.5 GB")])
def test_size(count: float, text: str) -> None:
    """In steps of a thousand."""
    assert size(count) == text


def test_the_slowest_process_counts() -> None:
    """A group is as fast as its slowest member; what is unknown is not made up."""
    ranks = tuple(
        RankMeasure(rank=rank, seconds=(9.0, seconds), samples=(8, 8), memory_bytes=1)
        for rank, seconds in ((0, 0.5), (1, 2.0))
    )
    found = DryRun(model="m", epochs=3, world_size=2, ranks=ranks, batches_per_epoch=10, validation_seconds=4.0)

    assert (found.batches_per_second, found.samples_per_second, found.eta_seconds) == (0.5, 8.0, 3 * (20 + 4))
    assert DryRun(model="m", epochs=3, ranks=ranks).eta_seconds is None
    assert "unknown" in repr(DryRun(model="m", epochs=3, ranks=ranks))


def test_a_name_is_inert_in_the_page() -> None:
    """Names come from a notebook, and reasons from foreign code."""
    found = DryRun(model="m", epochs=1, cannot_carry={"x": "<script>"})

    assert "<script>" not in found._repr_html_()


def test_left_overs_are_swept(tmp_path: Path) -> None:
    """Those of a process that has gone, and no others."""
    own = ProcessIdentity.of(os.getpid())
    assert own is not None
    for name, owner in (("gone", f"{own.pid} 1@elsewhere"), ("here", f"{own.pid} {own.started}")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "owner").write_text(owner)
    (tmp_path / "begun").mkdir()

    _sweep(tmp_path)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["begun", "here"]


def test_hosts_make_another_job() -> None:
    """The world is all of their processes, and the same cell on several hosts is not the same job."""
    one = TrainingOptions(processes=2)
    two = TrainingOptions(processes=2, nodes=3, rendezvous="127.0.0.1:29500")

    assert (one.world_size, two.world_size) == (2, 6)
    assert one.digest_with("m", "c", "d") != two.digest_with("m", "c", "d")
