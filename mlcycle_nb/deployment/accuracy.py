"""Wrong answers of both versions, as far as labels have arrived while the rollout runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlcycle_nb.serving.labels import as_index

if TYPE_CHECKING:
    import pyarrow as pa

VALUE_TOLERANCE = 0.10
"""A value is right when it is within this share of the truth."""


def wrong_answers(
    predictions: pa.Table,
    labels: pa.Table,
    class_names: tuple[str, ...],
    versions: tuple[int, int],
    *,
    copied: int | None = None,
) -> dict[int, tuple[int, int]]:
    """Return, for each version, how many of its served answers have a label, and how many of these are wrong.

    Copies do not count, only what callers were told; but those of the version `copied` do: a shadow gives no other
    answers. A label that is no class and no number counts for nobody.
    """
    found = dict.fromkeys(versions, (0, 0))
    if predictions.num_rows == 0 or labels.num_rows == 0:
        return found
    keys = zip(labels["prediction_id"].to_pylist(), labels["row"].to_pylist(), strict=True)
    truth = dict(zip(keys, labels["truth"].to_pylist(), strict=True))
    classes = "label" in predictions.column_names
    columns = ("prediction_id", "row", "version", "mirrored", "label" if classes else "value")
    for key, row, version, mirrored, answer in zip(*(predictions[name].to_pylist() for name in columns), strict=True):
        if (mirrored and version != copied) or version not in found or (key, row) not in truth:
            continue
        right = as_index(truth[key, row], class_names)
        if right != right:
            continue
        wrong = answer != right if classes else not abs(answer - right) <= VALUE_TOLERANCE * abs(right)
        labelled, errors = found[version]
        found[version] = (labelled + 1, errors + int(wrong))
    return found
