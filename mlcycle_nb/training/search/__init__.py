"""Hyperparameter search: many trials of one training cell, each an ordinary training job."""
