"""How a job's processes are started."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mlcycle_nb.training.job_folder import JobFolder, JobSpec
from mlcycle_nb.training.launch import plan_launch


@pytest.fixture
def spec() -> JobSpec:
    fields: dict[str, Any] = dict.fromkeys(JobSpec.__dataclass_fields__, 0)
    return JobSpec(**fields | {"job": "digits-1", "python": "python3", "processes": 2, "nodes": 1, "params": {}})


def test_nothing_of_a_launch_lies_outside_the_job_s_folder(tmp_path: Path, spec: JobSpec) -> None:
    """Rendezvous and torchrun's own files; and it listens on loopback only."""
    argv = plan_launch(JobFolder(tmp_path), spec, 3).argv

    places = [part.partition("=")[2] for part in argv if part.startswith(("--log-dir=", "--rdzv-endpoint="))]
    assert len(places) == 2
    assert all(Path(place).is_relative_to(tmp_path) for place in places)
    assert "--local-addr=127.0.0.1" in argv
    assert "--max-restarts=0" in argv
