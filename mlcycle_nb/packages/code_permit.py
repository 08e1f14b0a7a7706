"""Whether this process may run code out of packages: replicas and the packaging probe say so, nothing else does."""

from __future__ import annotations

_granted = False


def grant() -> None:
    """Let this process load signed python packages; called first thing by a process made for that."""
    global _granted
    _granted = True


def granted() -> bool:
    """Tell whether `grant` was called in this process."""
    return _granted
