"""The notebook: messages lie in the store, where panels and ``%alerts`` of any kernel read them."""

from __future__ import annotations

from mlcycle_nb.context import Context
from mlcycle_nb.monitoring.channels._contract import Delivery, Message

KEPT = 500


def owner(monitor: str) -> str:
    """Return the owner of a monitor's messages in the store."""
    return f"alerts:{monitor}"


class Notebook:
    """Stores the message once, however often it is delivered."""

    def deliver(self, context: Context, key: str, message: Message) -> Delivery:
        to = owner(str(message["monitor"]))
        if any(row["key"] == key for row in context.store.measurements(to, limit=KEPT)):
            return Delivery(delivered=True, detail="was there already")
        row = {**message, "key": key, "time": context.clock.now(), "kind": "message", "alert_kind": message["kind"]}
        context.store.add_measurements(to, [row])
        context.store.prune_measurements(to, keep=KEPT)
        return Delivery(delivered=True)


PLUGIN = Notebook()
