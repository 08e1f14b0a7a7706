"""Errors: one line each, inert, of two families, and the same after a journey through pickle."""

from __future__ import annotations

import inspect
import pickle

import pytest

from mlcycle_nb import errors
from mlcycle_nb.errors import InvalidInput, MLCycleError, UnknownPlugin, did_you_mean, inert, show_value

CLASSES = [value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, MLCycleError)]
HOSTILE = "\x1b[31m</script>\u202e\u200b\u00a0\u2028\r\n\x00\ud800"


class Unshowable:
    def __repr__(self) -> str:
        raise ZeroDivisionError


class TestLine:
    """What is wrong, the value, where, and what to do, in this order."""

    def test_all_parts(self) -> None:
        """Each part is there once, in its place."""
        error = InvalidInput("needs a number", value="x", where="--steps", remedy="write 5,25,100 ")

        assert str(error) == "MLC-100: needs a number (got 'x') - --steps - write 5,25,100"

    @pytest.mark.parametrize(
        ("error", "line"),
        [
            (MLCycleError("p"), "MLC-000: p"),
            (MLCycleError("p", value=None), "MLC-000: p (got None)"),
            (MLCycleError("p", value=""), "MLC-000: p (got '')"),
            (MLCycleError("a\n  b\tc"), "MLC-000: a b c"),
        ],
    )
    def test_parts_may_be_missing(self, error: MLCycleError, line: str) -> None:
        """A value that was given is shown even when it is empty."""
        assert str(error) == line

    @pytest.mark.parametrize("part", ["problem", "value", "where", "remedy"])
    def test_hostile_text_is_inert_in_every_part(self, part: str) -> None:
        """Nothing that moves a cursor, colours a terminal or turns the line round gets through."""
        parts = {"problem": "p", part: HOSTILE}
        line = str(InvalidInput(parts.pop("problem"), **parts))

        assert line.isprintable(), line
        assert "<U+001B>" in line
        line.encode()

    def test_a_long_value_is_cut(self) -> None:
        """80 characters of a value say enough."""
        assert show_value("x" * 81) == "'" + "x" * 80 + "…'"
        assert show_value("x" * 80) == "'" + "x" * 80 + "'"
        assert len(show_value(list(range(10_000)))) == 81

    def test_a_value_that_cannot_be_shown(self) -> None:
        """The error that is being built matters more."""
        assert show_value(Unshowable()) == "<Unshowable: its repr failed with ZeroDivisionError>"
        assert "ValueError" in show_value(10**5000)  # Python refuses to write so many digits

    def test_what_is_printable_stays(self) -> None:
        """Letters of any script are text, not danger."""
        assert inert("grüße 数据 🙂 ok") == "grüße 数据 🙂 ok"

    def test_as_members_of_a_problem_document(self) -> None:
        """Code, class and line."""
        assert InvalidInput("p").to_dict() == {"code": "MLC-100", "title": "InvalidInput", "detail": "MLC-100: p"}


class TestTree:
    """One tree, and each class is also what a caller would expect to catch."""

    def test_codes_are_unique(self) -> None:
        """A code names one class."""
        assert len({kind.code for kind in CLASSES}) == len(CLASSES)

    def test_the_picture_at_the_top_is_the_tree(self) -> None:
        """Each class is in the module's docstring with its built-in base."""
        picture = errors.__doc__ or ""
        for kind in CLASSES:
            foreign = [b.__name__ for b in kind.__bases__ if not issubclass(b, MLCycleError) and b is not Exception]
            assert (f"{kind.__name__} ({foreign[0]})" if foreign else kind.__name__) in picture

    @pytest.mark.parametrize("kind", CLASSES)
    @pytest.mark.parametrize("value", [errors.UNSET, "x", "y" * 200, HOSTILE, 7, None])
    def test_pickling_keeps_the_line(self, kind: type[MLCycleError], value: object) -> None:
        """Errors cross processes; twice is as good as once."""
        error = kind("problem", value=value, where="here", remedy="do this")
        once = pickle.loads(pickle.dumps(error))
        twice = pickle.loads(pickle.dumps(once))

        assert type(once) is kind
        assert str(error) == str(once) == str(twice)


class TestNotebook:
    """IPython asks an error to draw itself."""

    def test_without_our_stack(self) -> None:
        """The class and the line."""
        assert UnknownPlugin("p")._render_traceback_() == ["UnknownPlugin: MLC-201: p"]

    def test_with_the_whole_chain_on_request(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """For debugging."""
        monkeypatch.setenv("MLCYCLE_FULL_TRACEBACKS", "1")
        shown = ""
        try:
            raise UnknownPlugin("p") from ZeroDivisionError("cause")
        except UnknownPlugin as error:
            shown = "".join(error._render_traceback_())

        assert "ZeroDivisionError: cause" in shown
        assert "test_errors.py" in shown


@pytest.mark.parametrize(
    ("value", "suggestion"), [("canry", "did you mean 'canary'? "), ("zzz", ""), ("", ""), ("rolling", "")]
)
def test_suggestions(value: str, suggestion: str) -> None:
    """The nearest known word, when there is a near one."""
    assert did_you_mean(value, ["canary", "blue-green"]) == suggestion
