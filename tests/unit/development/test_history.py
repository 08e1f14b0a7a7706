"""``%model history``: times as people write them, and what is listed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from mlcycle_nb.development.moments import parse_moment
from mlcycle_nb.development.service import ModelDevelopmentManager
from mlcycle_nb.errors import InvalidInput
from mlcycle_nb.testing import FakeClock

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def in_india(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


class TestMoments:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("now", NOW),
            ("2d ago", NOW - timedelta(days=2)),
            ("90m ago", NOW - timedelta(minutes=90)),
            ("1.5h  ago", NOW - timedelta(minutes=90)),
            ("2026-01-31", datetime(2026, 1, 31, tzinfo=UTC)),
            ("2026-01-31T12:00", datetime(2026, 1, 31, 12, tzinfo=UTC)),
            ("2026-01-31 12:00:30", datetime(2026, 1, 31, 12, 0, 30, tzinfo=UTC)),
            ("2026-01-31T12:00Z", datetime(2026, 1, 31, 12, tzinfo=UTC)),
            ("2026-01-31T12:00+02:00", datetime(2026, 1, 31, 10, tzinfo=UTC)),
            ("2026-01-31 12:00 local", datetime(2026, 1, 31, 6, 30, tzinfo=UTC)),
            (datetime(2026, 1, 31, 12, tzinfo=UTC), datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ],
    )
    def test_what_people_write(self, in_india: None, text: Any, expected: datetime) -> None:
        found = parse_moment(text, now=NOW)

        assert found == expected
        assert found.tzinfo is UTC

    @pytest.mark.parametrize(
        "text",
        [
            "yesterday",
            "",
            "ago",
            "2d",
            "2 days ago",
            "-1d ago",
            "2026-13-01",
            "2026-01-31T12:00Z local",
            "9999999w ago",
            "0001-01-01T00:00+12:00",
            datetime(2026, 1, 1),
        ],
    )
    def test_what_is_no_time(self, text: Any) -> None:
        with pytest.raises(InvalidInput) as caught:
            parse_moment(text, now=NOW, where="--since")
        assert "\n" not in str(caught.value)


class TestHistory:
    @pytest.fixture
    def moved(self, development: ModelDevelopmentManager, package: Any, fake_clock: FakeClock) -> str:
        """A champion that moves once a day: 1, 2, 1."""
        for _ in range(2):
            development.register_model("digits", package)
        for version in (1, 2, 1):
            fake_clock.advance(timedelta(days=1))
            development.set_alias("digits", "champion", version, reason=f"day of {version}")
        return "digits"

    def test_at_a_time(self, moved: str, development: ModelDevelopmentManager) -> None:
        assert development.history(moved, "1d ago").aliases == {"champion": 2}
        assert development.history(moved, at="25h ago").aliases == {"champion": 1}
        assert development.history(moved, at="30d ago").versions == ()
        assert development.history(moved, datetime(2026, 1, 3, 1, tzinfo=UTC)).aliases == {"champion": 2}

    def test_listing_from_and_to(self, moved: str, development: ModelDevelopmentManager) -> None:
        """What is not listed still counts."""
        found = development.history(moved, since="36h ago", until="12h ago")

        assert [entry.reason for entry in found.listed] == ["day of 2"]
        assert found.versions == (1, 2)
        assert "day of 1" not in repr(found)
        assert found.to_dict()["aliases"] == {"champion": 2}
        assert "since 2026-01-02 12:00:00" in repr(found)

    def test_ends_that_exclude_each_other(self, moved: str, development: ModelDevelopmentManager) -> None:
        with pytest.raises(InvalidInput, match="--since is after the end"):
            development.history(moved, since="1h ago", until="2h ago")
        with pytest.raises(InvalidInput, match="both say when it ends"):
            development.history(moved, "1h ago", until="2h ago")
