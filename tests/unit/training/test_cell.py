"""What a training cell takes from the notebook, and what it is refused for."""

from __future__ import annotations

import pytest

from mlcycle_nb.errors import InvalidInput
from mlcycle_nb.training.cell import read_cell, resolve


class TestFreeNames:
    """A name is taken when it may be read before the cell has bound it."""

    @pytest.mark.parametrize(
        ("source", "free"),
        [
            ("fit(model, optimizer, loader, loss=criterion)", {"model", "optimizer", "loader", "criterion"}),
            ("x = x + 1", {"x"}),
            ("x = 1\ny = x", set()),
            ("x += 1", {"x"}),
            ("for row in rows:\n    last = row\nlog(a=last)", {"rows", "last"}),
            ("if flag:\n    a = 1\nelse:\n    a = 2\nlog(a=a)", {"flag"}),
            ("if flag:\n    a = 1\nlog(a=a)", {"flag", "a"}),
            ("def step(b, k=size):\n    return b + offset + later\nlater = 1", {"size", "offset"}),
            (
                "class A(Base):\n    width = wide\n    def f(self):\n        return helper(self)",
                {"Base", "wide", "helper"},
            ),
            ("[a * scale for a in rows if a > low]", {"scale", "rows", "low"}),
            ("f = lambda t, d=default: t * factor + d", {"default", "factor"}),
            ("with open(path) as h:\n    text = h.read()\nlog(n=len(text))", {"path"}),
            ("try:\n    import torch\nexcept ImportError as e:\n    print(e)\nlog(a=torch)", {"torch"}),
            ("import torch.nn as nn\nnn.Linear(size, 1)", {"size"}),
            ("match config:\n    case {'a': v, **rest}:\n        print(v, rest)", {"config"}),
            ("del a\nlog(a=a)", {"a"}),
            ("def f():\n    global made\n    made = 1\nf()\nlog(m=made)", {"made"}),
            ("lr = params.lr\nfor e in epochs():\n    for b in batches(loader):\n        checkpoint()", {"loader"}),
        ],
    )
    def test_found(self, source: str, free: set[str]) -> None:
        """Exactly these names come from the notebook; builtins and what the worker provides do not."""
        names = set(read_cell(source).free)
        import builtins

        assert {name for name in names if not hasattr(builtins, name)} == free

    def test_the_digest_ignores_comments_and_spacing(self) -> None:
        """The same code is the same cell."""
        assert read_cell("x=1 # a\n").digest == read_cell("\n\nx  =  1\n").digest
        assert read_cell("x = 1").digest != read_cell("x = 2").digest


class TestRefusals:
    """A cell that cannot run makes no job and says where it is wrong."""

    @pytest.mark.parametrize("source", ["", "\n\n", "# only a comment\n", "'only a docstring'\n"])
    def test_empty(self, source: str) -> None:
        """There is nothing to run."""
        with pytest.raises(InvalidInput, match=r"empty.*line 2.*fit\("):
            read_cell(source)

    def test_syntax_error(self) -> None:
        """The message has the line and its text."""
        with pytest.raises(InvalidInput, match=r"never closed.*cell line 3: model = build\(1.*no job was made"):
            read_cell("\nx = 1\nmodel = build(1\n")

    @pytest.mark.parametrize("source", ["return 1", "await thing()", "from os import *", "x = \0"])
    def test_other_nonsense(self, source: str) -> None:
        """What a cell cannot do is refused before launch."""
        with pytest.raises(InvalidInput):
            read_cell(source)

    def test_missing_names_are_all_named(self) -> None:
        """Each missing name has its line, and what was probably meant."""
        cell = read_cell("\nfit(modle, optimizer,\n    trian)")

        with pytest.raises(InvalidInput) as refused:
            resolve(cell, {"model": 1, "optimizer": 2, "train": 3})

        assert "'modle' (line 2, did you mean 'model'?)" in str(refused.value)
        assert "'trian' (line 3, did you mean 'train'?)" in str(refused.value)

    def test_magics_are_explained(self) -> None:
        """A shell command in the cell cannot run in a worker."""
        cell = read_cell("get_ipython().system('ls')")

        with pytest.raises(InvalidInput, match="magics or shell commands"):
            resolve(cell, {"get_ipython": object()})

    def test_a_shadowed_builtin_is_carried(self) -> None:
        """A notebook's own `sum` goes along; the plain one does not."""
        cell = read_cell("log(a=sum([1]), b=max([2]))")

        assert resolve(cell, {"sum": len}) == {"sum": len}
