"""``%train logs``: what the ranks of a job printed, bounded."""

from __future__ import annotations

from collections.abc import Iterator

from mlcycle_nb.errors import InvalidInput
from mlcycle_nb.training.job_folder import JobFolder
from mlcycle_nb.training.output import SHOWN_BYTES, plain_lines, tail

LOG_LINES = 200
MOST_LINES = 10_000
_AT_ONCE_BYTES = 1_048_576


def printed(folder: JobFolder, processes: int, *, rank: int | None = None, lines: int = LOG_LINES) -> str:
    """Return the last lines of one rank, or of each under its name; 64 KiB in all, or 2 KiB of each of many ranks."""
    ranks = _ranks(processes, rank)
    _check_lines(lines)
    limit = max(2048, SHOWN_BYTES // len(ranks))
    shown = []
    for number in ranks:
        text = "\n".join(tail(folder.output_of(number), lines, limit))
        if text:
            shown.append(text if len(ranks) == 1 else f"-- rank {number} --\n{text}")
    return "\n".join(shown)


class NewLines:
    """Reads what ranks print from now on; each look gives the whole lines that came since."""

    def __init__(self, folder: JobFolder, processes: int, *, rank: int | None = None) -> None:
        self._folder, self._ranks = folder, _ranks(processes, rank)
        self._offsets = {number: self._size(number) for number in self._ranks}
        self._several = processes > 1

    def read(self, *, last: bool = False) -> Iterator[str]:
        """Yield the new lines, made plain; with `last` also one that has no end yet."""
        for number in self._ranks:
            for line in self._read(number, last):
                yield f"rank {number} | {line}" if self._several else line

    def _read(self, number: int, last: bool) -> list[str]:
        size, offset = self._size(number), self._offsets[number]
        notes = []
        if size < offset:  # cut meanwhile, and begun anew
            offset = 0
        if size - offset > _AT_ONCE_BYTES:
            notes = [f"[{size - offset - _AT_ONCE_BYTES:,} bytes passed over]"]
            offset = size - _AT_ONCE_BYTES
        if size == offset:
            self._offsets[number] = offset
            return notes
        with self._folder.output_of(number).open("rb") as source:
            source.seek(offset)
            content = source.read(size - offset)
        whole = len(content) if last or len(content) >= _AT_ONCE_BYTES else content.rfind(b"\n") + 1
        self._offsets[number] = offset + whole
        return [*notes, *plain_lines(content[:whole].decode(errors="replace"))]

    def _size(self, number: int) -> int:
        try:
            return self._folder.output_of(number).stat().st_size
        except FileNotFoundError:
            return 0


def _ranks(processes: int, rank: int | None) -> list[int]:
    if rank is None:
        return list(range(processes))
    if isinstance(rank, bool) or not 0 <= rank < processes:
        raise InvalidInput(f"the job has ranks 0 to {processes - 1}", value=rank)
    return [rank]


def _check_lines(lines: int) -> None:
    if isinstance(lines, bool) or not isinstance(lines, int) or not 1 <= lines <= MOST_LINES:
        raise InvalidInput(f"lines must be a whole number from 1 to {MOST_LINES:,}", value=lines)
