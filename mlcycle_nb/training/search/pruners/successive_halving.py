"""Another name of ``asha``."""

from __future__ import annotations

from mlcycle_nb.training.search.pruners.asha import PLUGIN

__all__ = ["PLUGIN"]
