"""Killed at chosen places, under every option that has state of its own: to the bit what an unbroken run gives."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from recovering import assert_equal, launch, make_job, output_of

pytestmark = pytest.mark.timeout(900)

# An update is a step; in one process an epoch has 13 batches, in two 7 for each rank.
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "scheduler each epoch": {"params": {"schedule": "epoch"}},
    "scheduler each step": {"params": {"schedule": "step"}},
    "scheduler on plateau": {"params": {"schedule": "plateau"}},
    "accumulation": {"gradient_accumulation": 2},
    "bf16": {"mixed_precision": "bf16"},
    "early stopping": {"params": {"early": 1}, "epochs": 30},
    "best accuracy": {"params": {"best": "val_accuracy"}, "keep_best": 2},
    "checkpoints by time": {"checkpoint_every_steps": 0, "checkpoint_every_seconds": 0.02, "params": {"pause": 0.01}},
}
ALL_AT_ONCE: dict[str, Any] = {
    "params": {"schedule": "plateau", "best": "val_accuracy", "early": 3},
    "gradient_accumulation": 2,
    "mixed_precision": "bf16",
    "keep_best": 2,
}
# Where each attempt but the last is killed: in the middle of the first epoch, inside the save at an epoch's end before
# and after it is committed, and in the last epoch.
KILLS = (
    {"DIE_AT_BATCH": "6"},
    {"MLCYCLE_CRASH_AT": "checkpoint.before_rename:3"},
    {"MLCYCLE_CRASH_AT": "checkpoint.after_rename:2"},
    {"DIE_AT_BATCH": "9", "DIE_RANK": "LAST"},
)


def run_broken_and_whole(tmp_path: Path, processes: int, options: dict[str, Any], kills: Any = KILLS) -> None:
    """Run a job once without harm and once with an attempt for each kill, and compare."""
    whole = make_job(tmp_path / "whole", processes, **options)
    assert launch(whole, 1) == 0, output_of(whole)
    broken = make_job(tmp_path / "broken", processes, **options)
    for attempt, kill in enumerate(kills, start=1):
        placed = {name: value.replace("LAST", str(processes - 1)) for name, value in kill.items()}
        assert launch(broken, attempt, **placed) != 0, f"kill {attempt} did not strike: {output_of(broken)}"
    assert launch(broken, len(kills) + 1) == 0, output_of(broken)
    assert_equal(broken, whole)


@pytest.mark.parametrize("processes", [pytest.param(1, marks=pytest.mark.faults), 2])
def test_all_options_at_once(tmp_path: Path, processes: int) -> None:
    """Dropout, shuffling, three generators, batch norm, scheduler, accumulation, bf16, patience, best: as unbroken."""
    run_broken_and_whole(tmp_path, processes, ALL_AT_ONCE, KILLS[:2])


@pytest.mark.faults
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("option", OPTIONS)
def test_each_option(tmp_path: Path, processes: int, option: str) -> None:
    """Each option by itself, killed four times."""
    kills = KILLS if option != "checkpoints by time" else KILLS[::3]
    run_broken_and_whole(tmp_path, processes, OPTIONS[option], kills)
