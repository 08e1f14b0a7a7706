"""The package store: all or nothing, also when the writer dies."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from mlcycle_nb.errors import IntegrityError, NotFound
from mlcycle_nb.packages import PackageStore, build_package

IRIS, SPECIES = load_iris(return_X_y=True)


@pytest.fixture
def store(tmp_path: Path) -> PackageStore:
    return PackageStore(tmp_path / "packages")


def build(store: PackageStore) -> str:
    return build_package(LogisticRegression(max_iter=500).fit(IRIS, SPECIES), example=IRIS, out=store).digest


def test_permissions(store: PackageStore) -> None:
    """Folders are 0700, files 0600."""
    path = store.path_of(build(store))

    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(store.root.stat().st_mode) == 0o700
    assert {stat.S_IMODE(item.stat().st_mode) for item in path.iterdir()} == {0o600}


def test_remove_and_restore(store: PackageStore, tmp_path: Path) -> None:
    """A removed package is gone; its own folder, added again, gives the same digest."""
    digest = build(store)
    copy = tmp_path / "copy"
    copy.mkdir(mode=0o700)
    for item in store.path_of(digest).iterdir():
        (copy / item.name).touch(mode=0o600)
        (copy / item.name).write_bytes(item.read_bytes())
    store.remove(digest)
    store.remove(digest)

    with pytest.raises(NotFound):
        store.open(digest)
    assert store.add(copy).digest == digest
    store.verify(digest)


def test_damaged_twin_is_not_trusted(store: PackageStore) -> None:
    """Adding a package again does not bless the damaged copy that is there."""
    digest = build(store)
    (store.path_of(digest) / "golden.npz").write_bytes(b"damaged")

    with pytest.raises(IntegrityError, match="already holds this package, damaged"):
        build(store)


KILLED = """
import os, signal, sys
from pathlib import Path
import mlcycle_nb.packages.store as module
from mlcycle_nb.packages import PackageStore

count = int(sys.argv[3])
def dying(original):
    def call(*arguments, **keywords):
        global count
        count -= 1
        if count < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **keywords)
    return call

module.write_atomically = dying(module.write_atomically)
module.fsync_folder = dying(module.fsync_folder)
os.rename = dying(os.rename)
PackageStore(Path(sys.argv[1])).add(Path(sys.argv[2]))
print("added")
"""


@pytest.mark.timeout(120)
def test_killed_at_each_write(store: PackageStore, tmp_path: Path) -> None:
    """kill -9 before every write, sync and rename: the package is whole or absent, and the next add clears up."""
    digest = build(store)
    source = store.path_of(digest)
    other = PackageStore(tmp_path / "other")
    outcomes = []
    for step in range(12):
        done = subprocess.run(
            [sys.executable, "-c", KILLED, str(other.root), str(source), str(step)], capture_output=True, check=False
        )
        outcomes.append(done.returncode)
        if other.digests():
            other.verify(digest)
            break
    other.add(source)

    assert set(outcomes[:-1]) == {-signal.SIGKILL}
    assert len(outcomes) >= 5
    assert [item.name for item in other.root.iterdir()] == [os.path.basename(source)]
