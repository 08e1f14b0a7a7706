"""Train/test overlap: validation rows that the model has already seen in training."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mlcycle_nb.stats.bootstrap import wilson
from mlcycle_nb.validation.contract import NO_OPTIONS, Better, BoundRange, Check, Family, Measurement, Option
from mlcycle_nb.validation.gates import Gate
from mlcycle_nb.validation.subject import Subject


class TrainOverlap:
    """Share of validation rows that are, value for value, also training rows."""

    name = "train_overlap"
    family: Family = "data"
    unit = ""
    summary = "share of validation rows that are also training rows; 0 is none"
    better: Better = "lower"
    bounds: BoundRange | None = BoundRange(low=0.0, high=1.0)
    options: Mapping[str, Option] = NO_OPTIONS

    def measure(self, subject: Subject, gate: Gate) -> Measurement:
        """Compare rows byte by byte; all rows are looked at, so a share within the bound is exact."""
        train = subject.data.train_features
        if train is None:
            return Measurement(
                missing="the training rows were not given", advice="give train_features (or --train) with the data"
            )
        learned = {row.tobytes() for row in subject.as_input(train)}
        seen = np.array([row.tobytes() in learned for row in subject.features])
        count, n = int(seen.sum()), len(seen)
        share = wilson(count, n).value
        first = f", the first is row {int(seen.argmax())}" if count else ""
        # This is a count over the whole data set and not a sample of something larger: no interval.
        return Measurement(
            value=share,
            low=share,
            high=share,
            n=n,
            detail={"overlapping_rows": count},
            advice=f"remove the {count} overlapping rows{first}, then validate again",
        )


PLUGIN: Check = TrainOverlap()
