"""Isolated environments: virtual environments with a kernel of their own, a lock, and a way back from it."""
