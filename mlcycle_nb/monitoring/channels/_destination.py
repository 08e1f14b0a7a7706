"""Which addresses a webhook may reach, decided on the very IP that is then connected to."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from mlcycle_nb.errors import Refused

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_REMEDY = "list the host in monitoring.webhook_allowed_hosts if it is meant"


@dataclass(frozen=True, slots=True)
class Destination:
    """A checked address: what to say in ``Host`` and TLS, and which IP to connect to."""

    secure: bool
    host: str
    port: int
    target: str  # path and query
    address: str

    @property
    def host_header(self) -> str:
        """The ``Host`` header's value."""
        name = f"[{self.host}]" if ":" in self.host else self.host
        return name if self.port == (443 if self.secure else 80) else f"{name}:{self.port}"


def refused(problem: str, url: str) -> Refused:
    """Return the one error for all of these, with the reason."""
    host = url.partition("://")[2].partition("/")[0].rpartition("@")[2]  # the rest may be a password or a token
    return Refused(f"destination not allowed: {problem}", value=host, remedy=_REMEDY)


def parse_url(url: str, allowed_hosts: Sequence[str]) -> tuple[bool, str, int, str]:
    """Return (secure, host, port, target) of a webhook's URL, without asking the network.

    Raises
    ------
    Refused
        For another scheme, user names, fragments, odd hosts, and plain HTTP to a host that is not listed.
    """
    if any(ord(character) <= 32 or ord(character) > 126 or character in "\\#" for character in url):
        raise refused("it holds a character that a URL for messages may not hold", url)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as failure:
        raise refused(str(failure), url) from None
    if parts.scheme not in {"https", "http"}:
        raise refused("the scheme is not https", url)
    if "@" in parts.netloc:
        raise refused("it holds a user name", url)
    host = (parts.hostname or "").rstrip(".").lower()
    if not _HOST.fullmatch(host) and _literal(host) is None:
        raise refused("the host is not a host name", url)
    if parts.scheme == "http" and host not in _listed(allowed_hosts):
        raise refused("plain http goes to listed hosts only", url)
    secure = parts.scheme == "https"
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return secure, host, port if port is not None else (443 if secure else 80), target


def resolve(url: str, allowed_hosts: Sequence[str]) -> Destination:
    """Return where to connect: the name is looked up once, and that answer is checked and used.

    Raises
    ------
    Refused
        When any address of the host is not a public one and the host is not listed.
    OSError
        When the name cannot be looked up.
    """
    secure, host, port, target = parse_url(url, allowed_hosts)
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    if host not in _listed(allowed_hosts):
        for address in addresses:
            if not is_public(ipaddress.ip_address(address.split("%")[0])):
                raise refused(f"{host} is {address}, which is not a public address", url)
    return Destination(secure, host, port, target, addresses[0])


def is_public(address: Address) -> bool:
    """Return whether an address lies on the public internet, also the IPv4 address that an IPv6 one carries."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
        if inner is not None:
            return is_public(inner)
    return address.is_global and not address.is_multicast


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _listed(allowed_hosts: Sequence[str]) -> frozenset[str]:
    return frozenset(host.strip().strip("[]").rstrip(".").lower() for host in allowed_hosts)
