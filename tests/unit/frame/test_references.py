"""Names, references and durations: one grammar, and the offending character is named."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlcycle_nb.errors import InvalidInput, InvalidName
from mlcycle_nb.references import (
    MAX_DURATION,
    ModelReference,
    check_alias,
    check_name,
    format_duration,
    parse_duration,
)


class TestNames:
    """``[a-z0-9][a-z0-9_-]{0,62}``, and nothing that a system reads in its own way."""

    @pytest.mark.parametrize("name", ["a", "0", "digits", "a_b-c", "7", "x" * 63])
    def test_good_names(self, name: str) -> None:
        """They come back as they are."""
        assert check_name(name) == name

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("", "is empty"),
            ("x" * 300, "has 300 characters"),
            ("x" * 64, "has 64 characters"),
            ("../x", r"FULL STOP U\+002E at position 0"),
            ("a/b", r"SOLIDUS U\+002F at position 1"),
            ("a\\b", r"REVERSE SOLIDUS U\+005C at position 1"),
            ("a:b", r"COLON U\+003A at position 1"),
            ("%2e%2e", r"PERCENT SIGN U\+0025 at position 0"),
            (".", r"FULL STOP U\+002E at position 0"),
            ("con", "'con' is reserved"),
            ("latest", "'latest' is reserved"),
            ("a\x00", r"control character U\+0000 at position 1"),
            ("a\n", r"control character U\+000A at position 1"),
            ("🙂", r"SLIGHTLY SMILING FACE U\+1F642 at position 0"),
            ("caf\u00e9", r"LATIN SMALL LETTER E WITH ACUTE U\+00E9 at position 3"),
            ("cafe\u0301", r"COMBINING ACUTE ACCENT U\+0301 at position 4"),
            ("digits\u0430", r"CYRILLIC SMALL LETTER A U\+0430 at position 6"),
            ("-a", r"HYPHEN-MINUS U\+002D at position 0"),
            ("_a", r"LOW LINE U\+005F at position 0"),
            ("A", r"LATIN CAPITAL LETTER A U\+0041 at position 0"),
            ("a b", r"SPACE U\+0020 at position 1"),
            ("\u0663", r"ARABIC-INDIC DIGIT THREE U\+0663 at position 0"),
            ("a\u202eb", r"RIGHT-TO-LEFT OVERRIDE U\+202E at position 1"),
            ("\ud800", r"U\+D800 at position 0"),
            (7, "must be text, got int"),
            (None, "must be text, got NoneType"),
        ],
    )
    def test_bad_names(self, name: str, words: str) -> None:
        """The message says which character, by name and number, and stays printable."""
        with pytest.raises(InvalidName, match=words) as caught:
            check_name(name, "model name")

        assert str(caught.value).isprintable()

    @pytest.mark.parametrize("alias", ["v7", "7", "v0"])
    def test_aliases_do_not_read_as_versions(self, alias: str) -> None:
        """``digits@v7`` could be taken for version 7."""
        with pytest.raises(InvalidName, match="reads as a version"):
            check_alias(alias)

    @given(st.text(max_size=70))
    def test_whatever_passes_is_safe_anywhere(self, text: str) -> None:
        """In a path, a URL, a shell word and a log line."""
        try:
            name = check_name(text)
        except InvalidName:
            return

        assert name.isascii()
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789_-")
        assert name[0] not in "-_"
        assert len(name) <= 63


class TestReferences:
    """A model, a version of it, or an alias."""

    @pytest.mark.parametrize(
        ("text", "parts"),
        [
            ("digits", ("digits", None, None)),
            ("digits/7", ("digits", 7, None)),
            ("digits/v7", ("digits", 7, None)),
            ("digits@champion", ("digits", None, "champion")),
            ("digits/999999999", ("digits", 999999999, None)),
        ],
    )
    def test_good_references(self, text: str, parts: tuple[str, int | None, str | None]) -> None:
        """All three spellings."""
        reference = ModelReference.parse(text)

        assert (reference.name, reference.version, reference.alias) == parts
        assert ModelReference.parse(str(reference)) == reference

    @pytest.mark.parametrize(
        "text",
        [
            *("", "/7", "digits/", "digits/0", "digits/07", "digits/-1", "digits/1.0", "digits/1e3", "digits/7/8"),
            *("digits/v", "digits/vv7", "digits/\u0667", "digits/9999999999", "digits@", "@champion", "digits@v7"),
            *("digits@a@b", "digits/7@a", "digits @a", "digits/7 ", "Digits/7", "../digits/7", "digits/latest"),
        ],
    )
    def test_bad_references(self, text: str) -> None:
        """Refused as names are."""
        with pytest.raises(InvalidName):
            ModelReference.parse(text)

    @pytest.mark.parametrize("value", [7, None, b"digits"])
    def test_what_is_no_text(self, value: object) -> None:
        """A number is not a reference."""
        with pytest.raises(InvalidName, match="must be text"):
            ModelReference.parse(value)  # type: ignore[arg-type]


class TestDurations:
    """A number and a unit."""

    @pytest.mark.parametrize(
        ("text", "seconds"),
        [
            ("500ms", 0.5),
            ("90s", 90),
            ("1.5m", 90),
            ("6h", 21_600),
            ("7d", 604_800),
            ("4w", 2_419_200),
            ("520w", 314_496_000),
        ],
    )
    def test_good_durations(self, text: str, seconds: float) -> None:
        """Milliseconds to weeks."""
        assert parse_duration(text) == timedelta(seconds=seconds)

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("0s", "out of range"),
            ("522w", "out of range"),
            ("999999999999w", "out of range"),
            ("0.1ms", "out of range"),
            *(
                (t, "not a number and a unit")
                for t in ("-3w", "1e99w", "3 fortnights", "3", "w", "", " 3w", "3w ", "3W")
            ),
            *(
                (t, "not a number and a unit")
                for t in ("nans", "infd", "\u0663d", "1,5h", "0x10s", "+3s", "3w2d", "3.d")
            ),
            (3, "not a number and a unit"),
            (None, "not a number and a unit"),
        ],
    )
    def test_bad_durations(self, text: str, words: str) -> None:
        """The grammar or the range is named."""
        with pytest.raises(InvalidInput, match=words):
            parse_duration(text, what="--over")

    def test_a_lower_bound(self) -> None:
        """An interval of nothing would judge on no data."""
        with pytest.raises(InvalidInput, match=r"interval is out of range.*use from 5s"):
            parse_duration("1s", what="interval", minimum=timedelta(seconds=5))

    @given(st.integers(1, int(MAX_DURATION.total_seconds() * 1000)))
    def test_what_is_formatted_can_be_read(self, milliseconds: int) -> None:
        """Formatting is the inverse of reading."""
        length = timedelta(milliseconds=milliseconds)

        assert parse_duration(format_duration(length)) == length
