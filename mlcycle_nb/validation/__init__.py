"""Validation: gates that a model version must be shown to pass, and verdicts bound to what they judged."""

from mlcycle_nb.validation.data import ValidationData

__all__ = ["ValidationData"]
