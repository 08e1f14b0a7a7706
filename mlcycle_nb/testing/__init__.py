"""Public fakes and contracts for tests of code that uses or extends mlcycle_nb."""

from mlcycle_nb.testing.clock import FakeClock
from mlcycle_nb.testing.traffic import Answer, Traffic
from mlcycle_nb.testing.world import ScriptedWorld

__all__ = ["Answer", "FakeClock", "ScriptedWorld", "Traffic"]
