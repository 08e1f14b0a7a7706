"""How ranks agree on a step to save or stop at, without a collective of their own.

Each optimizer step ends in an all-reduce, so a rank that stands between steps k and k+1 keeps all others from finishing
step k+1. What it writes down there, every other rank sees at the end of step k+1 at the latest. So "at the end of
step k+1" is a proposal that all ranks carry out together. Looking costs one stat call.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlcycle_nb.training.job_folder import JobFolder, JobSpec
    from mlcycle_nb.training.store_agreement import StoreAgreement


def agreements(folder: JobFolder, spec: JobSpec, attempt: int, *kinds: str) -> list[Agreement | StoreAgreement]:
    """Return one agreement for each kind: through files on one host, through the attempt's store on several."""
    if spec.nodes == 1:
        return [Agreement(folder.run / f"{kind}-{attempt}") for kind in kinds]
    from mlcycle_nb.training import nodes
    from mlcycle_nb.training.store_agreement import StoreAgreement

    store = nodes.connect_worker(folder, "agreements")
    return [StoreAgreement(store, kind) for kind in kinds]


class Agreement:
    """One kind of thing to do together, in one attempt.

    Parameters
    ----------
    path : Path
        File of the standing proposal, on the same file system for all ranks.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def propose(self, step: int) -> None:
        """Propose the end of `step`, unless a proposal stands."""
        staged = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        staged.write_text(str(step))
        try:
            os.link(staged, self._path)  # appears with its content, and only where nothing stands
        except FileExistsError:
            pass
        staged.unlink()

    def standing(self) -> int | None:
        """Return the proposed step, or None."""
        try:
            os.stat(self._path)
        except FileNotFoundError:
            return None
        try:
            return int(self._path.read_text())
        except FileNotFoundError:  # carried out and withdrawn meanwhile
            return None

    def withdraw(self) -> None:
        """Remove the proposal after it was carried out; one rank does it."""
        self._path.unlink(missing_ok=True)
