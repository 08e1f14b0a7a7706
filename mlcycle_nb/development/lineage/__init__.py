"""Lineage: which cells a run came from, and whether running the notebook again would give the same."""
