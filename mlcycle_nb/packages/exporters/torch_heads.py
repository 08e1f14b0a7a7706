"""What is put on top of a torch module so that it answers in the words of its task."""

from __future__ import annotations

from typing import Any

import torch


class Classification(torch.nn.Module):
    """Logits, one logit, or probabilities -> ``label`` and ``probabilities``."""

    def __init__(self, model: Any, *, single: bool, already: bool) -> None:
        super().__init__()
        self.model = model
        self.single = single
        self.already = already

    def forward(self, input: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return label indices and class probabilities."""
        raw = self.model(input)
        if self.single:
            positive = raw.reshape(-1, 1)
            if not self.already:
                positive = torch.sigmoid(positive)
            probabilities = torch.cat([1.0 - positive, positive], dim=1)
        else:
            probabilities = raw if self.already else torch.softmax(raw, dim=1)
        return torch.argmax(probabilities, dim=1), probabilities


class Regression(torch.nn.Module):
    """One number a row -> ``value``."""

    def __init__(self, model: Any, *, squeeze: bool) -> None:
        super().__init__()
        self.model = model
        self.squeeze = squeeze

    def forward(self, input: torch.Tensor) -> tuple[torch.Tensor]:
        """Return the values, without a last dimension of one."""
        raw = self.model(input)
        return (raw.squeeze(1) if self.squeeze else raw,)
