"""The workspace database: records, their audit trail, observations and measurements."""

from typing import TYPE_CHECKING, Any

from mlcycle_nb.store.record import Record

if TYPE_CHECKING:
    from mlcycle_nb.store.store import Store
    from mlcycle_nb.store.transaction import Transaction

__all__ = ["Record", "Store", "Transaction"]


def __getattr__(name: str) -> Any:
    # Records are imported with the magics; the database engine takes half a second and is imported with the first use.
    if name == "Store":
        from mlcycle_nb.store.store import Store

        return Store
    if name == "Transaction":
        from mlcycle_nb.store.transaction import Transaction

        return Transaction
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
