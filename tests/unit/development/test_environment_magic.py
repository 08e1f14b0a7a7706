"""`%environment` and `%reproduce`: parsed strictly, refused in one line, nothing stored."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlcycle_nb.development.environments.lock import Lock, Pin, differences
from mlcycle_nb.development.environments.magic import EnvironmentMagics
from mlcycle_nb.development.environments.records import Environment
from mlcycle_nb.development.records import MetricRow
from mlcycle_nb.development.reproduce.report import compare_metrics, judge
from mlcycle_nb.errors import InvalidInput, MLCycleError
from mlcycle_nb.training.reproduce_handle import ReproduceMagics
from mlcycle_nb.workspace import Workspace


@pytest.fixture
def shell(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    from IPython.core.interactiveshell import InteractiveShell

    from mlcycle_nb.notebook.magics import register

    InteractiveShell.clear_instance()
    running = InteractiveShell.instance()
    classes = (EnvironmentMagics, ReproduceMagics)
    register(running, [magics(running, lambda: workspace) for magics in classes])
    yield running
    running.history_manager.end_session()
    InteractiveShell.clear_instance()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("environment create", "a name is missing"),
        ("environment craete x", "did you mean 'create'"),
        ("environment create Upper --package a==1", "LATIN CAPITAL LETTER U"),
        ("environment create x", "nothing says what the environment holds"),
        ("environment create x --package a==1 a==2", "asked for in two versions"),
        ("environment create x --requirements missing.txt", "no such requirements file"),
        ("environment create x --pakage a", "did you mean '--package'"),
        ("environment show x", "no such environment"),
        ("environment lock x --out /", "no such environment"),
        ("environment delete x", "no such environment"),
        ("reproduce", "the following arguments are required: run"),
        ("reproduce nothing --stritc", "did you mean '--strict'"),
    ],
)
def test_refused(shell: Any, workspace: Workspace, line: str, message: str) -> None:
    magic, _, rest = line.partition(" ")
    with pytest.raises(MLCycleError, match=message):
        shell.run_line_magic(magic, rest)

    assert workspace.store.find(Environment) == []


def test_list_without_any(shell: Any) -> None:
    assert repr(shell.run_line_magic("environment", "list")) == "no environments yet; %environment create makes one"


class TestLock:
    LOCK = Lock("3.11.7", (Pin("a", "1.0", "sha256:" + "0" * 64),), (Pin("torch", "2.9"),))

    def test_text_and_back(self) -> None:
        assert Lock.parse(str(self.LOCK)) == self.LOCK
        assert self.LOCK.packages == ("a==1.0", "torch==2.9")

    def test_what_pip_freeze_prints(self) -> None:
        assert Lock.parse("# by pip\nA_b.c==1.0\n\n").own == (Pin("a-b-c", "1.0"),)

    @pytest.mark.parametrize("line", ["a", "a>=1", "a @ file:///tmp/a", "-e .", "a==1 b==2", "a==", "# inherited x>1"])
    def test_what_is_no_pin(self, line: str) -> None:
        with pytest.raises(InvalidInput, match=r"pins each package to one version .* lock line 2"):
            Lock.parse(f"fine==1\n{line}")

    def test_one_package_twice(self) -> None:
        with pytest.raises(InvalidInput, match="pins a twice"):
            Lock.parse("a==1\nA==1")

    def test_differences_are_named(self) -> None:
        found = Lock("3.12.0", (Pin("a", "1.0", "sha256:" + "1" * 64), Pin("new", "1")))

        assert differences(self.LOCK, found) == [
            "Python 3.11.7 -> 3.12.0",
            "a 1.0: other files under the same version",
            "new absent -> 1",
            "torch 2.9 -> absent",
        ]
        assert differences(self.LOCK, self.LOCK) == []


class TestComparison:
    @staticmethod
    def rows(*values: float) -> list[MetricRow]:
        from datetime import UTC, datetime

        moment = datetime(2026, 1, 1, tzinfo=UTC)
        return [MetricRow(key="x", value=value, step=step, time=moment) for step, value in enumerate(values)]

    @pytest.mark.parametrize(
        ("before", "after", "verdict", "largest", "first"),
        [
            ((1.0, 2.0), (1.0, 2.0), "equal", 0.0, None),
            ((1.0, float("nan")), (1.0, float("nan")), "equal", 0.0, None),
            ((1.0, 0.1 + 0.2), (1.0, 0.3), "differs", 5.551115123125783e-17, 1),
            ((0.0,), (-0.0,), "differs", 0.0, 0),
            ((1.0,), (1.0, 2.0), "differs", float("inf"), 1),
            ((1.0, 5.0), (float("nan"), 4.0), "differs", float("inf"), 0),
        ],
    )
    def test_to_the_bit(
        self, before: tuple[float, ...], after: tuple[float, ...], verdict: str, largest: float, first: int | None
    ) -> None:
        (found,) = compare_metrics({"x": self.rows(*before)}, {"x": self.rows(*after)})

        assert (found.verdict, found.largest, found.first_step) == (verdict, largest, first)

    def test_what_a_clock_measured_is_not_compared(self) -> None:
        (found,) = compare_metrics({"blocked_seconds": self.rows(1)}, {"blocked_seconds": self.rows(2)})

        assert found.verdict == "not compared"
        assert judge([found], None)[0] == "cannot"
        assert judge([found], True) == ("reproduced", "")

    def test_judgement(self) -> None:
        equal, other = compare_metrics({"a": self.rows(1), "b": self.rows(1)}, {"a": self.rows(1), "b": self.rows(2)})

        assert judge([equal], True) == ("reproduced", "")
        assert judge([equal], False) == ("differs", "the weights")
        assert judge([equal, other], None) == ("differs", "1 of 2 metrics: b")
        assert judge([], None)[0] == "cannot"
