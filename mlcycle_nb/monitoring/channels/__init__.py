"""Where alerts go: one plug-in a file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mlcycle_nb.errors import InvalidInput
from mlcycle_nb.plugins import Registry

if TYPE_CHECKING:
    from mlcycle_nb.monitoring.channels._contract import Channel
    from mlcycle_nb.settings import Settings

CHANNELS: Registry[Channel] = Registry(
    package="mlcycle_nb.monitoring.channels", group="mlcycle_nb.channels", what="channel"
)


def resolve(names: Sequence[str] | None, settings: Settings) -> tuple[str, ...]:
    """Return the channels of a monitor: as asked, else notebook, log, and the webhook when one is set."""
    if names is None:
        return ("notebook", "log", "webhook") if settings.monitoring.webhook_url else ("notebook", "log")
    for name in names:
        if name not in CHANNELS.names():
            CHANNELS.load(name)  # raises with the nearest known name
    if "webhook" in names and not settings.monitoring.webhook_url:
        raise InvalidInput("the webhook has no address", remedy="set monitoring.webhook_url in mlcycle.toml")
    return tuple(dict.fromkeys(names))
