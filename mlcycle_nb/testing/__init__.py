"""Public fakes and contracts for tests of code that uses or extends mlcycle_nb."""

from mlcycle_nb.testing.clock import FakeClock

__all__ = ["FakeClock"]
