"""Magic lines: read as a shell would, or refused in one line that shows what is wrong."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlcycle_nb.errors import InvalidInput, MLCycleError
from mlcycle_nb.notebook.arguments import (
    HelpShown,
    argument,
    magic_arguments,
    output_options,
    parse,
    split,
    wait_options,
)


@magic_arguments("%ship")
@argument("model", help="which model")
@argument("--strategy", default="canary", choices=["canary", "rolling"], help="how")
@argument("--replicas", type=int, default=2)
@wait_options
@output_options
def ship(self: Any, line: str) -> None:
    """Send a model on its way."""


class TestParsing:
    """Options, positions and defaults."""

    def test_good_lines(self) -> None:
        """Quotes hold words together; an option may follow or come before."""
        args = parse(ship, "'a b' --strategy rolling --replicas=3 --into x --no-wait")

        assert (args.model, args.strategy, args.replicas, args.into) == ("a b", "rolling", 3, "x")
        assert (args.wait, args.quiet) == (False, False)
        assert parse(ship, "m --wait").wait is True
        assert parse(ship, "m").wait is None

    @pytest.mark.parametrize("line", ["--help", "m -h", "--nonsense --help"])
    def test_help_is_shown_and_is_no_error(self, line: str) -> None:
        """It has each option with its text."""
        with pytest.raises(HelpShown) as caught:
            parse(ship, line)

        shown = str(caught.value)
        assert "%ship" in shown
        assert all(word in shown for word in ("Send a model on its way.", "--strategy", "which model", "--into"))
        assert not isinstance(caught.value, MLCycleError)

    @pytest.mark.parametrize(
        ("line", "words"),
        [
            ("", "required: model - %ship - %ship --help"),
            ("m --strategy canry", "invalid choice: 'canry'.*did you mean 'canary'?"),
            ("m --startegy canary", "unknown option --startegy - %ship - did you mean '--strategy'?"),
            ("m --strat rolling", "unknown option --strat "),
            ("m --replicas two", "argument --replicas: invalid int value: 'two'"),
            ("m --replicas", "expected one argument"),
            ("m extra", "unrecognized arguments: extra"),
            ("m --into 'a b'", r"not a name for a variable \(got 'a b'\) - %ship --into"),
            ("m --into class", "not a name for a variable"),
            ("m --into a.b", "not a name for a variable"),
            ("m --into ''", "not a name for a variable"),
        ],
    )
    def test_bad_lines(self, line: str, words: str) -> None:
        """What is wrong, where, and what was probably meant."""
        with pytest.raises(InvalidInput, match=words) as caught:
            parse(ship, line)

        assert "\n" not in str(caught.value)


class TestSplitting:
    """Bad inputs 5, 6, 12 and 13."""

    @pytest.mark.parametrize(
        ("line", "column"),
        [('--name "a', 8), ("'", 1), ("a 'b\" c", 3), ('a "b\' \\" c', 3), ("it's", 3), ("a\\", 2)],
    )
    def test_an_unclosed_quote_is_pointed_at(self, line: str, column: int) -> None:
        """The column is that of the quote."""
        with pytest.raises(InvalidInput, match=f"unclosed quote at column {column} "):
            split(line)

    @pytest.mark.parametrize(
        ("line", "shown"),
        [
            ("$undefined", "$undefined"),
            ("churn/7 --reason $why", "$why"),
            ("a$b", "$b"),
            ("{undefined}", "{undefined}"),
            ("{a.b}", "{a.b}"),
            ("{a + b}", "{a + b}"),
            ("{f(x)}", "{f(x)}"),
            ('{d["x"]}', '{d["x"]}'),
            ("'{quoted}'", "{quoted}"),
        ],
    )
    def test_a_variable_that_was_not_expanded(self, line: str, shown: str) -> None:
        """Nothing is ever called `$x`."""
        with pytest.raises(InvalidInput) as caught:
            split(line, magic="%deploy")

        assert f"variable not defined: {shown} - %deploy" in str(caught.value)

    @pytest.mark.parametrize("line", ["'{\"lr\": 0.1}'", "--pattern 'x{3}'", "costs 5$", "{}", '\'{"a": {"b": 1}}\''])
    def test_what_only_looks_like_one(self, line: str) -> None:
        """JSON and patterns are text."""
        assert split(line)

    @pytest.mark.parametrize(
        "point", [0x202E, 0x200B, 0xA0, 0x2003, 0x3000, 0x2028, 0x0, 0x1B, 0x7F, 0xE000, 0xD800, 0x0D]
    )
    def test_invisible_characters(self, point: int) -> None:
        """They are shown by number and place; a pasted blank that is none is one of them."""
        with pytest.raises(InvalidInput, match=rf"contains U\+{point:04X} at 9 - %deploy - type it again") as caught:
            split(f"digits/7 {chr(point)}x", magic="%deploy")

        assert str(caught.value).isprintable()

    def test_letters_of_any_script_are_text(self) -> None:
        """A reason may be in any language."""
        assert split("--reason 'größer 数据 🙂'\t\n") == ["--reason", "größer 数据 🙂"]

    @pytest.mark.timeout(10)
    def test_an_endless_line(self) -> None:
        """Ten megabytes are refused without being read through."""
        with pytest.raises(InvalidInput, match="over 64 KiB"):
            split("x" * 10_000_000)
        assert split("x" * 65_536)

    @given(st.text(max_size=60))
    def test_any_line_is_split_or_refused(self, line: str) -> None:
        """Nothing else comes out."""
        shown = ""
        try:
            words = split(line)
        except InvalidInput as refused:
            words, shown = [], str(refused)

        assert shown.isprintable()
        assert all(isinstance(word, str) for word in words)
