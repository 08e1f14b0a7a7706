"""Scripts and modules are found, read and checked before a job is made."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlcycle_nb.errors import InvalidInput, NotFound, Refused
from mlcycle_nb.training import ambient
from mlcycle_nb.training.command import names_a_script
from mlcycle_nb.training.script import find_script, split_arguments


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a script, a package and other things."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "train.py").write_text("print('fine')\n")
    (tmp_path / "latin.py").write_bytes("# -*- coding: latin-1 -*-\nname = 'M\xfcller'\n".encode("latin-1"))
    (tmp_path / "broken.py").write_text("x = 1\nfit(\n")
    (tmp_path / "empty.py").write_text("\n")
    (tmp_path / "binary.py").write_bytes(b"\x00\xff\xfe")
    (tmp_path / "book.ipynb").write_text("{}")
    package = tmp_path / "lab_of_scripts"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "run.py").write_text("print('module')\n")
    return tmp_path


def test_a_script_is_read_once(folder: Path) -> None:
    """Text and path are taken now; a later edit is another digest."""
    first = find_script("train.py", arguments=["--lr", "0.1"])
    (folder / "train.py").write_text("print('changed')\n")
    second = find_script(folder / "train.py", arguments=["--lr", "0.1"])

    assert (first.kind, first.path, first.argv) == ("script", str(folder / "train.py"), ("--lr", "0.1"))
    assert first.source == "print('fine')\n"
    assert first.digest != second.digest
    assert first.call_digest == second.call_digest != find_script("train.py").call_digest


def test_other_encodings_and_modules(folder: Path) -> None:
    """A coding line is heeded; a module is found by its name."""
    assert "Müller" in find_script("latin.py").source
    found = find_script(module="lab_of_scripts.run")
    assert (found.kind, found.name, found.path) == (
        "module",
        "lab_of_scripts.run",
        str(folder / "lab_of_scripts" / "run.py"),
    )


@pytest.mark.parametrize(
    ("script", "module", "error", "message"),
    [
        ("trian.py", None, NotFound, "no such script.*did you mean 'train.py'"),
        ("broken.py", None, InvalidInput, r"never closed.*broken.py:2: fit\(.*no job was made"),
        ("empty.py", None, InvalidInput, "is empty"),
        ("binary.py", None, InvalidInput, "not valid Python"),
        ("book.ipynb", None, InvalidInput, "a notebook is not a script.*%%train"),
        (".", None, InvalidInput, "a folder is not a script"),
        ("  ", None, InvalidInput, "path is empty"),
        (None, None, InvalidInput, "either a script or a module"),
        ("train.py", "lab_of_scripts.run", InvalidInput, "either a script or a module"),
        (None, "train.py", InvalidInput, "use --script train.py"),
        (None, "lab-of", InvalidInput, "not a module's name"),
        (None, "lab_of_scripts", InvalidInput, "no __main__.*lab_of_scripts.train"),
        (None, "lab_of_scripts.absent", NotFound, "no such module"),
        (None, "absent_package.run", NotFound, "no such module"),
        (None, "math", InvalidInput, "no Python source|no such module"),
    ],
)
def test_refused(script: str | None, module: str | None, error: type[Exception], message: str) -> None:
    """One line with what is wrong and the way out."""
    with pytest.raises(error, match=message):
        find_script(script, module)


@pytest.mark.parametrize("argument", ["a\0b", 3, "x" * 200_000])
def test_arguments_that_no_program_can_get(argument: object) -> None:
    """They are refused before a job is made."""
    with pytest.raises(InvalidInput, match=r"argument"):
        find_script("train.py", arguments=[argument])  # type: ignore[list-item]


def test_where_our_options_end() -> None:
    """Only the first `--` divides; what follows is the script's, whatever it looks like."""
    assert split_arguments(["m", "--script", "a", "--", "--script", "b", "--", "c"]) == (
        ["m", "--script", "a"],
        ["--script", "b", "--", "c"],
    )
    assert split_arguments(["m"]) == (["m"], [])
    assert names_a_script(["--json", "train", "m", "--script=a.py"])
    assert names_a_script(["train", "m", "--module", "a"])
    assert not names_a_script(["train", "logs", "--", "--script"])
    assert not names_a_script(["status", "--script", "a"])


def test_the_names_of_a_cell_outside_of_training() -> None:
    """They can be imported anywhere; used where no training runs, they say how to run it."""
    from mlcycle_nb.training import accelerator, batches, fit, log, params

    assert repr(params) == "params(...)"
    for use in (
        lambda: log(loss=1.0),
        lambda: fit(None, None, None, loss=None),
        lambda: list(batches([])),
        lambda: params.lr,
        lambda: params.get("lr", 1),
        lambda: accelerator.device,
        ambient.current,
    ):
        with pytest.raises(Refused, match=r"%%train, or %train MODEL --script FILE"):
            use()
