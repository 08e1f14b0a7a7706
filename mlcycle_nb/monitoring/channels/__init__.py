"""Where alerts go: one plug-in a file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mlcycle_nb.errors import InvalidInput
from mlcycle_nb.plugins import Registry

if TYPE_CHECKING:
    from mlcycle_nb.context import Context
    from mlcycle_nb.monitoring.channels._contract import Channel, Delivery
    from mlcycle_nb.monitoring.records import Notification
    from mlcycle_nb.settings import Settings

CHANNELS: Registry[Channel] = Registry(
    package="mlcycle_nb.monitoring.channels", group="mlcycle_nb.channels", what="channel", extra="apprise"
)


def resolve(names: Sequence[str] | None, settings: Settings) -> tuple[str, ...]:
    """Return the channels of a monitor: as asked, else notebook and log, and those that the settings set up.

    Raises
    ------
    UnknownPlugin, InvalidInput, MissingDependency
        When a channel that is named is unknown, not set up, or needs a package that is not installed.
    """
    given = settings.monitoring
    if names is None:
        extra = {"webhook": given.webhook_url, "apprise": given.apprise_file}
        names = ("notebook", "log", *(name for name, at in extra.items() if at))
    for name in names:
        if name not in CHANNELS.names():
            CHANNELS.load(name)  # raises with the nearest known name
    if "webhook" in names and not given.webhook_url:
        raise InvalidInput("the webhook has no address", remedy="set monitoring.webhook_url in mlcycle.toml")
    if "apprise" in names:
        from mlcycle_nb.monitoring.channels.apprise import check

        check(given.apprise_file)
    return tuple(dict.fromkeys(names))


def targets(name: str, context: Context) -> tuple[str, ...]:
    """Return the receivers behind a channel, each of which gets a message of its own; one without a name by default."""
    try:
        named = getattr(CHANNELS.load(name), "targets", None)
        return ("",) if named is None else tuple(named(context)) or ("",)
    except Exception:  # a plug-in that fails keeps no other channel from being told; its own delivery says why
        return ("",)


def deliver(context: Context, record: Notification) -> Delivery:
    """Try once to deliver a message of the outbox."""
    channel = CHANNELS.load(record.channel)
    # The notification's id carries channel and target; receivers are given the message's own key.
    key = str(record.message["key"])
    if record.receiver:
        return channel.deliver_to(context, key, record.message, record.receiver)  # type: ignore[attr-defined]
    return channel.deliver(context, key, record.message)
