"""The one place that says under which licence alibi-detect comes."""

from __future__ import annotations

LICENCE_NOTE = (
    "alibi-detect is under the Business Source License 1.1: without a licence from Seldon its production use is "
    "granted for non-profit education only. The built-in detectors (ks, chi_squared) are free of it."
)
