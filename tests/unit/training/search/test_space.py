"""Search spaces as they are written, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from mlcycle_nb.errors import InvalidInput
from mlcycle_nb.training.search.params_read import params_read, refuse_unread
from mlcycle_nb.training.search.space import SpaceEntry, grid_size, parse_space, read_space
from mlcycle_nb.training.search.study import distributions


@pytest.mark.parametrize(
    ("text", "kind", "low", "high", "log", "step"),
    [
        ("lr=log:1e-4..1e-1", "float", 1e-4, 0.1, True, None),
        ("drop=0.0..0.5", "float", 0.0, 0.5, False, None),
        ("drop=0.0..0.5/0.125", "float", 0.0, 0.5, False, 0.125),
        ("x=float:0..1", "float", 0.0, 1.0, False, None),
        ("x=-1.5..-.5", "float", -1.5, -0.5, False, None),
        ("depth=int:1..4", "int", 1, 4, False, None),
        ("width=int:16..256/16", "int", 16, 256, False, 16),
        ("units=logint:1..1024", "int", 1, 1024, True, None),
        ("lr=log:1..10", "float", 1, 10, True, None),
    ],
)
def test_ranges(text: str, kind: str, low: float, high: float, log: bool, step: float | None) -> None:
    """Each form, and it says itself so that it reads back the same."""
    (entry,) = parse_space([text])

    assert (entry.kind, entry.low, entry.high, entry.log, entry.step) == (kind, low, high, log, step)
    assert parse_space([str(entry)]) == (entry,)
    assert entry.name in distributions((entry,))


def test_choices_keep_their_types() -> None:
    """Numbers, truth, nothing and words."""
    (entry,) = parse_space(["x=32,0.5,true,none,adam"])

    assert entry.choices == (32, 0.5, True, None, "adam")
    assert parse_space([str(entry)]) == (entry,)


def test_spaces_in_python() -> None:
    """Lists, ranges, texts, mappings, NumPy's numbers, and Optuna's distributions."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    space = read_space(
        {
            "a": [1, np.int64(2)],
            "b": range(1, 8, 3),
            "c": "log:1e-3..1.0",
            "d": {"low": 0.0, "high": 1, "step": 0.25},
            "e": {"low": 1, "high": 9},
            "f": FloatDistribution(1e-3, 1.0, log=True),
            "g": IntDistribution(2, 8, step=2),
            "h": CategoricalDistribution(["x", "y"]),
        }
    )

    assert [entry.values for entry in space] == [
        *((1, 2), (1, 4, 7), None, (0.0, 0.25, 0.5, 0.75, 1.0)),
        *(tuple(range(1, 10)), None, (2, 4, 6, 8), ("x", "y")),
    ]
    assert grid_size(space) is None
    assert grid_size([entry for entry in space if entry.values]) == 2 * 3 * 5 * 9 * 4 * 2
    assert read_space(space) == space


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("lr", "has no '='"),
        ("=1,2", "must be a Python name"),
        ("l r=1,2", "must be a Python name"),
        ("lr=", "empty value"),
        ("lr=1,,2", "empty value"),
        ("lr=5", "has one value"),
        ("lr=1,1", "given twice"),
        ("lr=0.5..0.1", "ends before it begins"),
        ("lr=0.5..0.5", "holds one value"),
        ("lr=log:0..1.0", "must begin above 0"),
        ("lr=log:-1..1.0", "must begin above 0"),
        ("lr=0..1", "may mean whole numbers or fractions"),
        ("lr=int:0.5..2", "range of whole numbers"),
        ("lr=0.1..nan", "not a finite number"),
        ("lr=0.1..inf", "not a finite number"),
        ("lr=0.1..b", "'b' is not a finite number"),
        ("lr=0.1..0.2..0.3", "a range has two bounds"),
        ("lr=0.0..1.0/0", "step of 'lr' must be above 0"),
        ("lr=0.0..1.0/0.3", "do not reach 1 "),
        ("lr=log:1.0..2.0/0.5", "takes no step"),
        ("lr=lgo:1..2", "did you mean 'log'?"),
        ("lr=log:5", "needs two bounds"),
        ("lr=nan,1", "must be finite"),
    ],
)
def test_what_cannot_be_meant_is_refused(text: str, told: str) -> None:
    """With the entry, and what is wrong with it."""
    with pytest.raises(InvalidInput) as caught:
        parse_space([text])

    assert told in str(caught.value) + " "


@pytest.mark.parametrize(
    ("space", "told"),
    [
        ({}, "is empty"),
        ({"lr": 5}, "of no known form"),
        ({"lr": {"low": 1}}, "of no known form"),
        ({"lr": {"low": 1, "high": "x"}}, "not a finite number"),
        ({"lr": [object(), 1]}, "plain value"),
        ({1: [1, 2]}, "Python name"),
        (["lr=1,2", "lr=3,4"], "given twice"),
        ("lr=1,2", "a dict of names"),
        ({"x": range(0)}, "empty or descends"),
    ],
)
def test_wrong_spaces_in_python(space: object, told: str) -> None:
    """The same in Python."""
    with pytest.raises(InvalidInput, match=told):
        read_space(space)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("cell", "names", "certain"),
    [
        ("x = params.lr + params['width']", {"lr", "width"}, True),
        ("x = params.get('lr', 0.1) if 'width' in params else 0", {"lr", "width"}, True),
        ("f(params)", set(), False),
        ("x = {**params}", set(), False),
        ("for name in params: print(params[name])", set(), False),
        ("x = params.items()", set(), False),
        ("x = 1", set(), True),
    ],
)
def test_what_a_cell_reads(cell: str, names: set[str], certain: bool) -> None:
    """As far as the text tells."""
    assert params_read(cell) == (names, certain)


def test_a_name_that_is_never_read() -> None:
    """It is refused with the nearest one, unless another module may read it."""
    import json

    with pytest.raises(InvalidInput, match=r"never reads params.widht.* did you mean 'width'"):
        refuse_unread("x = params.width", ["width", "widht"], {})
    refuse_unread("f(params)", ["lr"], {})
    with pytest.raises(InvalidInput, match="reads nothing from params"):
        refuse_unread("json.dumps(1)", ["lr"], {"json": json})
    import mlcycle_nb.training as ours

    refuse_unread("train()", ["lr"], {"train": ours.fit})


def test_an_entry_of_many_values_is_shown_whole() -> None:
    """Entries are stored, and shown in panels."""
    assert str(SpaceEntry(name="x", kind="choice", choices=(None, True, 2))) == "x=none,true,2"
