"""Which device the processes of a job run on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlcycle_nb.errors import EngineError

if TYPE_CHECKING:
    from mlcycle_nb.training.job_folder import JobSpec


def uses_cuda(spec: JobSpec) -> bool:
    """Return whether this host's processes get a GPU each.

    Raises
    ------
    EngineError
        When GPUs were asked for by name and there are too few.
    """
    import torch

    here = spec.processes // spec.nodes
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    cuda = spec.device != "cpu" and count >= here
    if spec.device == "cuda" and not cuda:
        raise EngineError(
            f"{here} process{'es need as many GPUs' if here > 1 else ' needs a GPU'}, torch sees {count}",
            remedy="use fewer --processes, or --device cpu",
        )
    return cuda
