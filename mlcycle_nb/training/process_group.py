"""The process group of a script: formed when the script asks for it, through a file instead of a port.

torch's own store for ``env://`` listens on every interface, without a key. The variables that launchers set are there
all the same; only what stands behind them is another.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlcycle_nb.errors import EngineError
from mlcycle_nb.training.devices import uses_cuda
from mlcycle_nb.training.job_folder import JobSpec

_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class ScriptGroup:
    """Watches over the groups that a script forms.

    Parameters
    ----------
    run : Path
        Where the files of the rendezvous lie.
    spec : JobSpec
    attempt : int
    on_formed : callable
        Told once, when there is a group of the size that was asked for.
    """

    def __init__(self, run: Path, spec: JobSpec, attempt: int, on_formed: Callable[[], None]) -> None:
        self._run, self._spec, self._attempt, self._on_formed = run, spec, attempt, on_formed
        self._numbers = itertools.count(1)  # the same on every rank, because forming a group is a collective act
        self.formed = False

    def install(self) -> None:
        """Prepare environment and torch for the script."""
        spec = self._spec
        if spec.processes == 1:  # as `accelerate launch` has it: Accelerate would make a group of one
            for variable in _TORCHRUN:
                os.environ.pop(variable, None)
        if not uses_cuda(spec):
            os.environ["ACCELERATE_USE_CPU"] = "true"
            _let_partial_state_read_it()
        if spec.mixed_precision != "no":
            os.environ["ACCELERATE_MIXED_PRECISION"] = spec.mixed_precision
        if spec.gradient_accumulation > 1:
            os.environ["ACCELERATE_GRADIENT_ACCUMULATION_STEPS"] = str(spec.gradient_accumulation)
        self._wrap()

    def check(self) -> None:
        """Raise when several processes ran the script without ever having been one group."""
        if self._spec.processes > 1 and not self.formed:
            raise EngineError(
                f"the script formed no process group: each of the {self._spec.processes} processes ran all of it alone",
                remedy="use accelerate.Accelerator() in it, or --processes 1",
            )

    def _wrap(self) -> None:
        import torch.distributed
        from torch.distributed import distributed_c10d

        original = distributed_c10d.init_process_group

        @functools.wraps(original)
        def init_process_group(
            backend: Any = None,
            init_method: Any = None,
            timeout: Any = None,
            world_size: int = -1,
            rank: int = -1,
            store: Any = None,
            *others: Any,
            **options: Any,
        ) -> None:
            if store is None and init_method in (None, "env://"):
                world_size = int(os.environ.get("WORLD_SIZE", "1")) if world_size < 0 else world_size
                rank = int(os.environ.get("RANK", "0")) if rank < 0 else rank
                file = self._run / f"script-group-{next(self._numbers)}-{self._attempt}"
                store, init_method = torch.distributed.FileStore(str(file), world_size), None
            self._refuse_other_worlds(world_size)
            original(backend, init_method, timeout, world_size, rank, store, *others, **options)
            self._refuse_other_worlds(torch.distributed.get_world_size())
            if not self.formed:
                self.formed = True
                self._on_formed()

        distributed_c10d.init_process_group = init_process_group
        torch.distributed.init_process_group = init_process_group

    def _refuse_other_worlds(self, size: int) -> None:
        if size >= 0 and size != self._spec.processes:
            raise EngineError(
                f"the script forms a group of {size} in a job of {self._spec.processes} processes",
                remedy=f"give --processes {size}, or leave the size to the launcher",
            )


def _let_partial_state_read_it() -> None:
    """Have a bare ``PartialState()`` find the group on CPUs: Accelerate reads the variable in `Accelerator` alone."""
    from accelerate.state import PartialState

    original = PartialState.__init__

    @functools.wraps(original)
    def init(self: Any, cpu: bool = False, **options: Any) -> None:
        original(self, cpu or os.environ.get("ACCELERATE_USE_CPU", "").lower() in {"1", "true", "yes"}, **options)

    PartialState.__init__ = init
