"""The workspace database: records, their audit trail, observations and measurements."""

from mlcycle_nb.store.record import Record
from mlcycle_nb.store.store import Store
from mlcycle_nb.store.transaction import Transaction

__all__ = ["Record", "Store", "Transaction"]
