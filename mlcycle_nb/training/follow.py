"""Following one job from outside: its progress, its signs of life, its checkpoints and what it prints."""

from __future__ import annotations

from mlcycle_nb.errors import IntegrityError
from mlcycle_nb.training.checkpoints import CheckpointRecord, CheckpointStore
from mlcycle_nb.training.events import EventReader
from mlcycle_nb.training.heartbeat import Beat, read_beats
from mlcycle_nb.training.job_folder import JobFolder
from mlcycle_nb.training.output import tail
from mlcycle_nb.training.progress import Progress

_VERIFIED_AT_ONCE_BYTES = 268_435_456


class ProgressReader:
    """Follows one job's events; each look reads only what is new."""

    def __init__(self, folder: JobFolder) -> None:
        self._reader = EventReader(folder.events)
        self._progress = Progress()

    def read(self) -> Progress:
        """Return the progress as of now."""
        for event in self._reader.read_in_order():
            self._progress.apply(event)
        return self._progress


class JobFollower:
    """Everything that a panel shows besides the record.

    Parameters
    ----------
    folder : JobFolder
    """

    def __init__(self, folder: JobFolder) -> None:
        self._folder = folder
        self._store = CheckpointStore(folder.checkpoints)
        self._progress = ProgressReader(folder)
        self._verified: dict[str, bool] = {}

    def progress(self) -> Progress:
        """Return the progress as of now."""
        return self._progress.read()

    def beats(self) -> dict[int, Beat]:
        """Return the last sign of life of each rank."""
        return read_beats(self._folder.path)

    def checkpoints(self) -> list[tuple[CheckpointRecord, bool | None]]:
        """Return the committed checkpoints, newest first, and whether their bytes are those written.

        The bytes of one are read in each look, and kept in mind; None says not yet, or too large to be read for show.
        """
        records = self._store.records()
        for record in records:
            if record.path.name not in self._verified and record.size_bytes <= _VERIFIED_AT_ONCE_BYTES:
                self._verified[record.path.name] = self._is_whole(record)
                break
        return [(record, self._verified.get(record.path.name)) for record in records]

    def printed(self, ranks: int, lines: int) -> list[str]:
        """Return the last lines that the ranks printed, `lines` of them at most in all and a note for each rank."""
        found = {rank: tail(self._folder.output_of(rank), lines, 16_384) for rank in range(ranks)}
        found = {rank: shown for rank, shown in found.items() if shown}
        share = max(2, lines // max(1, len(found)))
        if ranks == 1:
            return found.get(0, [])[-lines:]
        return [f"rank {rank} | {line}" for rank, shown in found.items() for line in shown[-share:]][
            : lines + len(found)
        ]

    def _is_whole(self, record: CheckpointRecord) -> bool:
        try:
            self._store.verify(record.path)
        except (IntegrityError, OSError):
            return False
        return True
