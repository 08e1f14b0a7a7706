"""Two people, one database: alice and bob, each in a process, with a key and a workspace folder of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlcycle_nb.development.comments import Comment
from mlcycle_nb.development.ownership import Ownership
from mlcycle_nb.development.service import ModelDevelopmentManager
from mlcycle_nb.errors import Refused
from mlcycle_nb.store.audit import events, verify
from mlcycle_nb.store.deletion import Deletion
from mlcycle_nb.store.keys import public_bytes, signing_key, trust
from mlcycle_nb.workspace import Workspace

pytestmark = pytest.mark.timeout(300)

PERSON = """
import sys
from mlcycle_nb.errors import MLCycleError
from mlcycle_nb.workspace import Workspace

workspace = Workspace.open(sys.argv[1])
development = workspace.development
development.models()
print("ready", flush=True)
for line in sys.stdin:
    try:
        print(repr(eval(line)).replace("\\n", " "), flush=True)
    except MLCycleError as refused:
        print(f"{type(refused).__name__}: {refused}", flush=True)
"""


class Person:
    """Somebody with a kernel of their own: evaluates one line at a time."""

    def __init__(self, name: str, home: Path, tracking: str, url: str, keys: Path) -> None:
        environment = {
            **os.environ,
            "MLCYCLE_WORKSPACE_ACTOR": name,
            "MLCYCLE_DATABASE_URL": url,
            "MLFLOW_TRACKING_URI": tracking,
            "MLCYCLE_KEYS": str(keys),
        }
        self.process = subprocess.Popen(
            [sys.executable, "-c", PERSON, str(home)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=environment,
        )  # fmt: skip

    def hear(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def say(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def ask(self, line: str) -> str:
        self.say(line)
        return self.hear()

    def leave(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)


@pytest.fixture
def shared(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch, keys_of_their_own: Path
) -> Iterator[Workspace]:
    """The workspace as the test itself sees it, with a model of four versions; on each kind of database."""
    from tests.process.development.test_processes import digest_of_a_package

    url = database_url or f"sqlite:///{tmp_path / 'shared' / 'workspace.db'}"
    monkeypatch.setenv("MLCYCLE_DATABASE_URL", url)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    workspace = Workspace.open(tmp_path / "tester")
    from mlcycle_nb.packages import PackageStore

    package = PackageStore(workspace.context.folder("packages")).open(digest_of_a_package(workspace.context))
    for _ in range(4):
        workspace.development.register_model("digits", package)
    yield workspace
    workspace.close()


@pytest.fixture
def people(shared: Workspace, tmp_path: Path) -> Iterator[tuple[Person, Person]]:
    settings = shared.settings.workspace
    found = [
        Person(
            f"{name}@{name}s-host",
            tmp_path / name,
            settings.tracking_uri,
            settings.database_url,
            tmp_path / f"k-{name}",
        )
        for name in ("alice", "bob")
    ]
    assert [person.hear() for person in found] == ["ready", "ready"]
    yield found[0], found[1]
    for person in found:
        person.leave()


def everybody_trusts(shared: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Count the signatures of alice and bob, as ``mlcycle audit trust`` does."""
    own = os.environ["MLCYCLE_KEYS"]
    for name in ("alice", "bob"):
        monkeypatch.setenv("MLCYCLE_KEYS", str(tmp_path / f"k-{name}"))
        public = public_bytes(signing_key(shared.context.workspace_id)).hex()
        monkeypatch.setenv("MLCYCLE_KEYS", own)
        trust(shared.context.workspace_id, public)


@pytest.mark.postgres
@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_two_people_work_on_one_model(
    people: tuple[Person, Person], shared: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice, bob = people

    assert "owned by alice, bob" in alice.ask("development.set_owners('digits', ['alice', 'bob'])")
    assert "owned by alice, bob" in bob.ask("development.owners('digits')")
    assert "reviewed by carol" in alice.ask("development.set_owners('digits', reviewers=['carol'])")
    assert bob.ask("development.set_owners('digits', ['bob'])").startswith(
        "Conflict: MLC-300: alice@alices-host changed it since you looked: owned by alice, bob, reviewed by carol"
    )
    assert "owned by bob" in bob.ask("development.set_owners('digits', ['bob'])")
    refused = alice.ask("development.delete_version('digits/4')")
    assert refused.startswith("Refused: MLC-400: digits is owned by bob: alice@alices-host cannot delete digits/4")

    assert "digits/3#1 alice@alices-host" in alice.ask("development.comment('digits/3', 'keep it?')")
    assert "digits/3#2 bob@bobs-host" in bob.ask("development.comment('digits/3', 'yes')")
    assert "cannot edit it" in bob.ask("development.edit_comment('digits/3#1', 'no')")
    assert "keep it?" in bob.ask("development.comments('digits')")

    alice.ask("development.set_alias('digits', 'champion', 4)")
    assert "refers to it: alias digits@champion" in bob.ask("development.delete_version('digits/4')")
    assert "Deletion" in bob.ask("development.delete_version('digits/1')")
    assert "digits/1 was deleted by bob@bobs-host" in alice.ask("development.get_version('digits/1')")

    everybody_trusts(shared, tmp_path, monkeypatch)
    assert verify(shared.store).intact
    assert {event["actor"] for event in events(shared.store)} >= {"alice@alices-host", "bob@bobs-host"}


def test_at_once_nothing_is_lost(people: tuple[Person, Person], shared: Workspace) -> None:
    """Both say twenty things, claim the model, and move one alias, at the same time."""
    for person, version in zip(people, (2, 3), strict=True):
        person.say("[development.comment('digits/2', f'remark {n}').id for n in range(20)]")
        person.say(f"development.set_owners('digits', ['{['alice', 'bob'][version - 2]}'])")
        person.say(f"development.set_alias('digits', 'champion', {version})")
    told = [[person.hear() for _ in range(3)] for person in people]

    assert len(shared.store.find(Comment)) == 40
    assert {comment.id for comment in shared.store.find(Comment)} == {f"digits/2#{n}" for n in range(1, 41)}
    owner = shared.store.get(Ownership, "digits").owners[0]
    loser = told[0] if owner == "bob" else told[1]
    assert f"digits is owned by {owner}" in loser[1], told
    held = shared.development.aliases("digits")["champion"]
    assert shared.development.tracking.aliases("digits") == {"champion": held}, "MLflow and the workspace agree"
    for one in told:
        assert one[2].startswith("digits/") or ("Conflict" in one[2] and "by somebody else meanwhile" in one[2])
    moves = [e["detail"]["to"] for e in events(shared.store) if e["event"] == "model.alias_set"]
    assert moves[-1] == held


@pytest.mark.postgres
@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_a_deletion_and_a_reference_at_once(people: tuple[Person, Person], shared: Workspace) -> None:
    """Whoever comes second is told; no alias ever names what is gone."""
    alice, bob = people
    bob.ask("development.set_alias('digits', 'champion', 1)")
    for version in (2, 3, 4):
        alice.say(f"development.delete_version('digits/{version}')")
        bob.say(f"development.set_alias('digits', 'champion', {version})")
        deleted, aliased = alice.hear(), bob.hear()
        gone = shared.store.maybe(Deletion, f"model_version:digits/{version}") is not None
        assert gone == deleted.startswith("Deletion"), deleted
        held = shared.development.aliases("digits")["champion"]
        assert (held == version) is not gone, (deleted, aliased)
        assert shared.development.tracking.aliases("digits") == {"champion": held}
        if gone:
            assert "was deleted by" in aliased
        else:
            assert deleted.startswith("Refused: MLC-400: digits/")


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_killed_between_mlflow_and_the_workspace(shared: Workspace, tmp_path: Path) -> None:
    """The workspace still knows the version, and deleting it again completes what was begun."""
    settings = shared.settings.workspace
    os.environ["MLCYCLE_CRASH_AT"] = "development.after_delete"
    try:
        carol = Person(
            "carol@x", tmp_path / "carol", settings.tracking_uri, settings.database_url, tmp_path / "k-carol"
        )
    finally:
        del os.environ["MLCYCLE_CRASH_AT"]
    assert carol.hear() == "ready"
    carol.say("development.delete_version('digits/4')")
    assert carol.process.wait(timeout=60) == -signal.SIGKILL

    assert shared.development.get_version("digits/4").version == 4
    assert shared.development.tracking.version("digits", 4) is None
    assert shared.development.delete_version("digits/4").about == "digits/4"
    assert [v.version for v in shared.development.versions("digits")] == [3, 2, 1]
    with pytest.raises(Refused, match="only a whole workspace"):
        ModelDevelopmentManager(shared.context).delete_version("digits/3")
