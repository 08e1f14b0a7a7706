"""How ranks on several hosts agree on a step: as `Agreement` does, through the store of the attempt instead of a file.

A file on a network file system may be seen late, and a proposal has to be seen one step after it was made.
"""

from __future__ import annotations

from typing import Any


class StoreAgreement:
    """One kind of thing to do together, in one attempt.

    Parameters
    ----------
    store : torch.distributed.Store
        Of the attempt.
    kind : str
        What is agreed on.
    """

    def __init__(self, store: Any, kind: str) -> None:
        self._store, self._key = store, f"agree-{kind}"

    def propose(self, step: int) -> None:
        """Propose the end of `step`, unless a proposal stands."""
        self._store.compare_set(self._key, "", str(step))

    def standing(self) -> int | None:
        """Return the proposed step, or None."""
        if not self._store.check([self._key]):
            return None
        text = self._store.get(self._key).decode()
        return int(text) if text else None

    def withdraw(self) -> None:
        """Remove the proposal after it was carried out; one rank does it."""
        self._store.set(self._key, "")
