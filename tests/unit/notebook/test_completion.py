"""Completion of flags and of model names, through IPython's own completer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell

from mlcycle_nb import load_ipython_extension, unload_ipython_extension
from mlcycle_nb.errors import StoreError
from mlcycle_nb.extension import stage_classes
from mlcycle_nb.notebook.completion import completer


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[InteractiveShell]:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.chdir(tmp_path)
    running = InteractiveShell()
    load_ipython_extension(running)
    yield running
    unload_ipython_extension(running)
    running.history_manager.end_session()


def completions(shell: InteractiveShell, text: str) -> list[str]:
    with provisionalcompleter():
        return [found.text for found in shell.Completer.completions(text, len(text))]


def with_models(shell: InteractiveShell, models: dict[str, list[Any]] | Exception) -> None:
    """Answer the completer's question for models with `models`."""

    class Development:
        def models(self) -> list[str]:
            if isinstance(models, Exception):
                raise models
            return list(models)

        def versions(self, name: str) -> list[Any]:
            assert isinstance(models, dict)
            return models[name]

    shell.Completer.custom_matchers[-1] = completer(shell, lambda: SimpleNamespace(development=Development()))


def test_flags_of_a_magic(shell: InteractiveShell) -> None:
    """All that begin alike, and nothing of IPython's own guesses."""
    assert completions(shell, "%deploy digits/7 --re") == ["--reason", "--replicas", "--require"]
    assert "--into" in completions(shell, "%audit --")
    assert "--epochs" in completions(shell, "%%train digits --")
    assert completions(shell, "x = 1\n%deploy --rep") == ["--replicas"]


def test_models_versions_and_aliases(shell: InteractiveShell) -> None:
    """As references."""
    versions = [SimpleNamespace(version=1, aliases=()), SimpleNamespace(version=2, aliases=("champion",))]
    with_models(shell, {"digits": versions, "churn": []})

    assert completions(shell, "%deploy dig") == ["digits", "digits/1", "digits/2", "digits@champion"]
    assert completions(shell, "%validate ch") == ["churn"]


def test_a_workspace_that_cannot_be_read_is_silent(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    """Completion must not print into what somebody types."""
    with_models(shell, StoreError("no"))

    assert completions(shell, "%deploy dig") == []
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "text", ["", "\n", "%deploy x\n", "%nosuch --", "%", "print(", "%time --", "\x0c%deploy --re\n"]
)
def test_other_texts_are_left_alone(text: str, shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    """No error, whatever is typed."""
    completions(shell, text)

    assert capsys.readouterr().err == ""


def test_unloading_takes_everything_away(shell: InteractiveShell) -> None:
    """Magics and completion; loading again brings them once."""
    names = {name for stage in stage_classes() for name in stage.magics["line"]}
    load_ipython_extension(shell)
    matchers = len(shell.Completer.custom_matchers)
    unload_ipython_extension(shell)

    assert len(shell.Completer.custom_matchers) == matchers - 1
    assert not names & set(shell.magics_manager.magics["line"])
    unload_ipython_extension(shell)


def test_the_workspace_is_opened_when_it_is_first_used(shell: InteractiveShell, tmp_path: Path) -> None:
    """Not by loading, nor by showing names."""
    assert not (tmp_path / ".mlcycle").exists()
    assert shell.user_ns["workspace"].home == tmp_path / ".mlcycle"
    assert (tmp_path / ".mlcycle").is_dir()
    assert "deployment" in dir(shell.user_ns["workspace"])
    with pytest.raises(AttributeError):
        _ = shell.user_ns["workspace"]._repr_html_


def test_verbs_and_jobs_of_train(shell: InteractiveShell) -> None:
    """The first word is a verb, the second a job; of a name after it nothing is guessed."""

    class Training:
        def jobs(self) -> list[Any]:
            return [SimpleNamespace(id="digits-2"), SimpleNamespace(id="digits-1"), SimpleNamespace(id="wine-1")]

    shell.Completer.custom_matchers[-1] = completer(shell, lambda: SimpleNamespace(training=Training()))

    assert completions(shell, "%train re") == ["register", "resume"]
    assert sorted(completions(shell, "%train logs di")) == ["digits-1", "digits-2"]
    assert completions(shell, "%train stop wi") == ["wine-1"]


def test_verbs_runs_and_versions_of_development(shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs only once the kernel has MLflow loaded: asking it takes seconds the first time."""
    import sys

    class Development:
        def models(self) -> list[str]:
            return ["digits"]

        def versions(self, name: str) -> list[Any]:
            return [SimpleNamespace(version=1, aliases=("champion",))]

        def runs(self, limit: int) -> list[Any]:
            return [SimpleNamespace(id="ab12cd34" + "0" * 24, name="able-asp-7")]

    shell.Completer.custom_matchers[-1] = completer(shell, lambda: SimpleNamespace(development=Development()))
    monkeypatch.delitem(sys.modules, "mlflow", raising=False)
    assert "ab12cd34" not in completions(shell, "%compare a")
    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace())

    assert completions(shell, "%compare a") == ["ab12cd34", "able-asp-7"]
    assert completions(shell, "%comment digits/") == ["digits/1"]
    assert completions(shell, "%comments d") == ["digits", "digits/1", "digits@champion"]
    assert completions(shell, "%runs delete a") == ["ab12cd34", "able-asp-7"]
    assert completions(shell, "%model c") == ["card"]
    assert completions(shell, "%model card d") == ["digits", "digits/1", "digits@champion"]
