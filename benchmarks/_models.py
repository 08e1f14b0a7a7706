"""The two models that all servers answer with."""

from __future__ import annotations

from typing import Any

import numpy as np

SEED = 7


def logistic() -> tuple[Any, Any]:
    """Model A, a scaled logistic regression of 30 features; and typical rows, shape (200, 30)."""
    from sklearn.datasets import load_breast_cancer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rows, labels = load_breast_cancer(return_X_y=True)
    rows = rows.astype(np.float32)
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(rows, labels), rows[:200]


def network() -> tuple[Any, Any]:
    """Model B, a 64-256-256-10 network in torch; and typical rows, shape (200, 64)."""
    import torch

    torch.manual_seed(SEED)
    wide = [torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 256), torch.nn.ReLU()]
    model = torch.nn.Sequential(*wide, torch.nn.Linear(256, 10)).eval()
    return model, np.random.default_rng(SEED).normal(size=(200, 64)).astype(np.float32)


MODELS = {"A": logistic, "B": network}


class SklearnAnswer:
    """Labels and scores of a scikit-learn classifier."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, rows: Any) -> tuple[Any, Any]:
        scores = self.model.predict_proba(rows)
        return scores.argmax(axis=1), scores


class TorchAnswer:
    """Labels and scores of a torch classifier, on one thread."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, rows: Any) -> tuple[Any, Any]:
        import torch

        torch.set_num_threads(1)
        with torch.inference_mode():
            scores = torch.softmax(self.model(torch.from_numpy(np.ascontiguousarray(rows))), dim=1).numpy()
        return scores.argmax(axis=1), scores
