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

    @pytest.mark.parametrize(
        ("typed", "shown"),
        [
            ("!ls -l 'a b'", "cell line 2: !ls -l 'a b'"),
            ("files = !ls", "cell line 2: files = !ls"),
            ("%time x", "cell line 2: %time x"),
            ("%%bash\nls", "cell line 2: %%bash"),
        ],
    )
    def test_magics_are_shown_as_typed(self, typed: str, shown: str) -> None:
        """Not as the call that IPython has made of them."""
        from IPython.core.inputtransformer2 import TransformerManager

        cell = read_cell("\n" + TransformerManager().transform_cell(typed))
        with pytest.raises(InvalidInput) as refused:
            resolve(cell, {})

        assert shown in str(refused.value)

    @pytest.mark.parametrize("source", ["await thing()", "async with a as b:\n    pass"])
    def test_await(self, source: str) -> None:
        """IPython allows it, a worker has no event loop."""
        with pytest.raises(InvalidInput, match=r"cannot await.*cell line 1.*asyncio\.run"):
            read_cell(source)

    @pytest.mark.parametrize("call", ["input('rows?')", "breakpoint()"])
    def test_nobody_answers(self, call: str) -> None:
        """What waits for a person is refused; a function of the same name in the notebook is not."""
        with pytest.raises(InvalidInput, match=r"nobody sits in front.*cell line 2"):
            resolve(read_cell(f"\nn = {call}"), {})
        name = call.partition("(")[0]
        assert resolve(read_cell(f"n = {call}"), {name: len}) == {name: len}

    def test_defined_too_late(self) -> None:
        """The line of the definition is named, not a similar name."""
        with pytest.raises(InvalidInput, match=r"'model' \(line 1, defined below, on line 3\)"):
            resolve(read_cell("fit(model)\nif x:\n    model = 1"), {"x": 1, "models": 2})

    def test_what_ipython_puts_over_builtins_stays(self) -> None:
        """Its `open` and `exit` would carry IPython along."""
        from IPython.core import interactiveshell
        from IPython.core.autocall import ExitAutocall

        cell = read_cell("open('x')\nexit()")
        assert resolve(cell, {"open": interactiveshell._modified_open, "exit": ExitAutocall()}) == {}
