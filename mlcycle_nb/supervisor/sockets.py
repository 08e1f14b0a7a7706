"""Where Unix sockets live: a private folder whose path is short enough for the kernel.

A socket's path has at most 107 bytes, and a workspace may lie deeper than that. Then the sockets go to a folder of
their own below the system's temporary folder. Its name can be guessed, so it is used only when this user owns it and
nobody else can enter it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
from pathlib import Path

from mlcycle_nb.errors import Refused
from mlcycle_nb.files import private_folder

PATH_LIMIT = 107
NAME_LIMIT = 40
"""Bytes of a socket's own name that every folder has room for."""


def socket_folder(home: Path) -> Path:
    """Return the folder for the sockets of the workspace at `home`, created for this user only.

    Raises
    ------
    Refused
        When a folder of that name exists and another user could have put it there.
    """
    inside = home / "sockets"
    if _fits(inside):
        return private_folder(inside)
    return _own_folder(_outside(home))


def socket_path(home: Path, name: str) -> Path:
    """Return the path of the socket called `name`, such as ``production/digits/7/0``.

    The same name always gives the same path. A name that is too long is replaced by a digest of it.
    """
    file = name.replace("/", ".") + ".sock"
    if len(file.encode()) > NAME_LIMIT:
        file = hashlib.sha256(name.encode()).hexdigest()[:32] + ".sock"
    return socket_folder(home) / file


def remove_socket_folder(home: Path) -> None:
    """Remove the folder and what is in it; nothing may listen there any more."""
    for folder in (home / "sockets", _outside(home)):
        if folder.is_dir() and not folder.is_symlink() and folder.stat().st_uid == os.getuid():
            shutil.rmtree(folder)


def _fits(folder: Path) -> bool:
    return len(os.fsencode(folder)) + 1 + NAME_LIMIT <= PATH_LIMIT


def _outside(home: Path) -> Path:
    digest = hashlib.sha256(os.fsencode(home.absolute())).hexdigest()[:12]
    folder = Path(tempfile.gettempdir()) / f"mlcycle-{os.getuid()}-{digest}"
    # A long TMPDIR does not help; /tmp is short everywhere.
    return folder if _fits(folder) else Path("/tmp") / folder.name


def _own_folder(folder: Path) -> Path:
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        pass
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) != 0o700:
        raise Refused(
            "the folder for sockets is not this user's own private folder",
            value=str(folder),
            remedy="remove it, or use a workspace with a shorter path",
        )
    return folder
