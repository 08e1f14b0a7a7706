"""Keeps a replica small: one malloc arena, and memory that start-up freed given back to the machine."""

from __future__ import annotations

import ctypes
import sys

_M_ARENA_MAX = -8


def use_one_arena() -> None:
    """Let all threads share one arena of glibc: a replica's threads take turns anyway, and an arena costs megabytes."""
    libc = _libc()
    if libc is not None:
        libc.mallopt(_M_ARENA_MAX, 1)


def give_back() -> None:
    """Return what is free at the top and inside of the heap to the system."""
    libc = _libc()
    if libc is not None:
        libc.malloc_trim(0)


def _libc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "malloc_trim") else None
