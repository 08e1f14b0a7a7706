"""Owners, comments and deletion: who may do what, and what each leaves in the audit trail."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from mlcycle_nb.context import Context
from mlcycle_nb.development.comments import Comment
from mlcycle_nb.development.ownership import Ownership
from mlcycle_nb.development.records import RegisteredVersion, version_subject
from mlcycle_nb.development.service import ModelDevelopmentManager
from mlcycle_nb.errors import Conflict, InvalidInput, NotFound, Refused
from mlcycle_nb.stage_knowledge import stage_knowledge
from mlcycle_nb.store.audit import events, verify
from mlcycle_nb.store.deletion import Deletion
from mlcycle_nb.testing import FakeClock
from mlcycle_nb.validation.records import Evidence, Validation


def seat(development: ModelDevelopmentManager, actor: str) -> ModelDevelopmentManager:
    """Return the same workspace as somebody else sees it."""
    return ModelDevelopmentManager(replace(development.context, actor=actor), stage_knowledge)


@pytest.fixture
def alice(development: ModelDevelopmentManager) -> ModelDevelopmentManager:
    return seat(development, "alice@one")


@pytest.fixture
def bob(development: ModelDevelopmentManager) -> ModelDevelopmentManager:
    return seat(development, "bob@two")


@pytest.fixture
def digits(alice: ModelDevelopmentManager, package: Any) -> str:
    """A model with two versions; the first has a run."""
    with alice.start_run(run_name="first") as run:
        run.log_metrics({"loss": 0.5})
    alice.register_model("digits", package, run_id=run.id)
    alice.register_model("digits", package)
    return "digits"


class TestOwners:
    def test_a_model_without_owners_is_claimed(
        self, digits: str, alice: ModelDevelopmentManager, bob: ModelDevelopmentManager
    ) -> None:
        assert alice.owners(digits).owners == ()
        assert alice.set_owners(digits, ["alice"], reviewers=["carol@three"]).owners == ("alice",)
        assert bob.owners(digits).reviewers == ("carol@three",)

    def test_only_owners_hand_it_over(
        self, digits: str, alice: ModelDevelopmentManager, bob: ModelDevelopmentManager
    ) -> None:
        alice.set_owners(digits, ["alice"])
        with pytest.raises(Refused, match="owned by alice: bob@two cannot hand it over"):
            bob.set_owners(digits, ["bob"])
        with pytest.raises(InvalidInput, match="--force needs a reason"):
            bob.set_owners(digits, ["bob"], force=True)
        assert alice.owners(digits).owners == ("alice",)

        assert bob.set_owners(digits, ["bob"], force=True, reason="alice left").owners == ("bob",)
        last = events(alice.context.store, subject="ownership:digits")[-1]
        assert (last["actor"], last["reason"], last["detail"]["forced"]) == ("bob@two", "alice left", True)
        assert last["detail"]["before"] == {"owners": ["alice"]}

    def test_an_owner_on_one_host_is_nobody_on_another(
        self, digits: str, alice: ModelDevelopmentManager, development: ModelDevelopmentManager
    ) -> None:
        alice.set_owners(digits, ["alice@one"])
        with pytest.raises(Refused):
            seat(development, "alice@elsewhere").set_owners(digits, ["bob"])

    def test_a_change_that_somebody_else_made_meanwhile_is_not_lost(
        self, digits: str, alice: ModelDevelopmentManager, bob: ModelDevelopmentManager
    ) -> None:
        alice.set_owners(digits, ["alice", "bob"])
        bob.owners(digits)
        alice.set_owners(digits, ["alice", "bob", "carol"])
        with pytest.raises(Conflict, match="alice@one changed it since you looked: owned by alice, bob, carol"):
            bob.set_owners(digits, ["bob"])
        assert alice.owners(digits).owners == ("alice", "bob", "carol")
        assert bob.set_owners(digits, ["bob"]).owners == ("bob",)  # having been told, bob means it

    def test_the_same_again_changes_nothing(self, digits: str, alice: ModelDevelopmentManager) -> None:
        alice.set_owners(digits, ["alice"])
        count = len(events(alice.context.store))
        alice.set_owners(digits, ["alice"])

        assert len(events(alice.context.store)) == count

    @pytest.mark.parametrize("names", [["a b"], [""], ["a@"], ["@b"], ["a\n"], ["x" * 70], [str(n) for n in range(51)]])
    def test_bad_names_are_refused(self, digits: str, alice: ModelDevelopmentManager, names: list[str]) -> None:
        with pytest.raises(InvalidInput):
            alice.set_owners(digits, names)
        assert alice.context.store.maybe(Ownership, digits) is None

    def test_a_model_that_is_not_there(self, digits: str, alice: ModelDevelopmentManager) -> None:
        with pytest.raises(NotFound, match="did you mean 'digits'"):
            alice.set_owners("digit", ["alice"])


class TestComments:
    def test_said_by_whom_and_when(
        self, digits: str, alice: ModelDevelopmentManager, bob: ModelDevelopmentManager, fake_clock: FakeClock
    ) -> None:
        first = alice.comment("digits/1", "looks good")
        fake_clock.advance(timedelta(minutes=1))
        second = bob.comment("digits/1", "not to me")

        assert [c.id for c in alice.comments("digits/1")] == ["digits/1#1", "digits/1#2"]
        assert (first.author, second.author) == ("alice@one", "bob@two")
        assert (second.created_at - first.created_at).total_seconds() == 60
        assert "looks good" in repr(bob.comments("digits"))
        assert bob.comments("digits/2") == []

    def test_on_a_run(self, digits: str, alice: ModelDevelopmentManager) -> None:
        run = alice.runs()[0]
        made = alice.comment("first", "a run")

        assert made.about == f"run:{run.id}"
        assert [c.id for c in alice.comments(run.id[:8])] == [f"{run.id}#1"]
        assert alice.edit_comment(f"{run.id[:8]}#1", "still a run").text == "still a run"

    def test_only_the_author_changes_it(
        self, digits: str, alice: ModelDevelopmentManager, bob: ModelDevelopmentManager
    ) -> None:
        alice.comment("digits/1", "secret words")
        with pytest.raises(Refused, match="is by alice@one: bob@two cannot edit it"):
            bob.edit_comment("digits/1#1", "x")
        with pytest.raises(Refused, match="cannot delete it"):
            bob.delete_comment("digits/1#1")
        assert alice.edit_comment("digits/1#1", "other words").phase == "edited"

        alice.delete_comment("digits/1#1")
        stone = alice.comments("digits/1")[0]
        assert (stone.text, stone.author, stone.phase) == ("", "alice@one", "deleted")
        assert "deleted by its author" in repr(alice.comments("digits/1"))
        told = [e for e in events(alice.context.store) if e["subject"] == "comment:digits/1#1"]
        assert [e["event"] for e in told] == ["comment.posted", "comment.edited", "comment.deleted"]
        assert "words" not in str(told)
        with pytest.raises(Refused, match="deleted already"):
            alice.edit_comment("digits/1#1", "back")
        assert alice.comment("digits/1", "new").id == "digits/1#2"  # the number of a deleted one is not used again

    @pytest.mark.parametrize(
        ("id", "kind", "words"),
        [
            ("digits/1#9", NotFound, "no comment of this id"),
            ("digits/1", InvalidInput, "not the id of a comment"),
            ("digits/1#x", InvalidInput, "not the id of a comment"),
            ("digits/9#1", NotFound, "no version 9"),
        ],
    )
    def test_bad_ids(
        self, digits: str, alice: ModelDevelopmentManager, id: str, kind: type[Exception], words: str
    ) -> None:
        with pytest.raises(kind, match=words):
            alice.delete_comment(id)

    @pytest.mark.parametrize("text", ["", "  ", "x" * 10_001])
    def test_bad_texts(self, digits: str, alice: ModelDevelopmentManager, text: str) -> None:
        with pytest.raises(InvalidInput):
            alice.comment("digits/1", text)
        assert alice.context.store.find(Comment) == []


class TestDeletion:
    def test_a_version_that_nobody_refers_to(self, digits: str, alice: ModelDevelopmentManager, package: Any) -> None:
        gone = alice.delete_version("digits/2", reason="a test")

        assert [v.version for v in alice.versions(digits)] == [1]
        assert (gone.by, gone.reason, gone.facts["package"]) == ("alice@one", "a test", package.digest)
        with pytest.raises(NotFound, match=r"digits/2 was deleted by alice@one at .*: a test"):
            alice.get_version("digits/2")
        assert package.path.is_dir(), "the package stays"
        assert alice.history(digits).versions == (1,)
        assert alice.tracking.version(digits, 2) is None
        assert alice.register_model(digits, package).version == 3, "a number is not used twice"
        assert verify(alice.context.store).intact

    def test_an_alias_keeps_it(self, digits: str, alice: ModelDevelopmentManager) -> None:
        alice.set_alias(digits, "champion", 2)
        with pytest.raises(Refused, match=r"1 thing refers to it: alias digits@champion"):
            alice.delete_version("digits/2", force=True, reason="force does not help")
        assert str(alice.referrers("digits/2")[0]) == "alias digits@champion (set)"
        assert alice.get_version("digits/2").version == 2

    def test_a_child_version_keeps_it(self, digits: str, alice: ModelDevelopmentManager, package: Any) -> None:
        alice.register_model("finer", package, tags={"parent": "digits/2"})
        with pytest.raises(Refused, match="version finer/1"):
            alice.delete_version("digits/2")
        with pytest.raises(NotFound):
            alice.register_model("finer", package, tags={"parent": "digits/9"})

    def test_others_cannot(self, digits: str, alice: ModelDevelopmentManager, bob: ModelDevelopmentManager) -> None:
        alice.set_owners(digits, ["alice"])
        with pytest.raises(Refused, match="bob@two cannot delete digits/2"):
            bob.delete_version("digits/2")
        assert bob.delete_version("digits/2", force=True, reason="cleaning").facts["forced"] is True

    def test_a_run_is_kept_by_its_version(self, digits: str, alice: ModelDevelopmentManager) -> None:
        with pytest.raises(Refused, match=r"run first .* is not deleted: 1 thing refers to it: version digits/1"):
            alice.delete_run("first")
        alice.delete_version("digits/1")
        gone = alice.delete_run("first", reason="old")

        assert gone.facts["metrics"] == {"loss": "0.5"}
        assert alice.runs() == []
        with pytest.raises(NotFound, match="was deleted by alice@one"):
            alice.run(gone.about)

    def test_a_run_is_kept_by_its_children_and_while_it_runs(self, alice: ModelDevelopmentManager) -> None:
        with alice.start_run(run_name="parent") as parent, pytest.raises(Refused, match="is running"):
            alice.delete_run(parent.id)
        with alice.start_run(run_name="child", tags={"mlflow.parentRunId": parent.id}):
            pass
        with pytest.raises(Refused, match="run child"):
            alice.delete_run(parent.id)
        alice.delete_run("child")
        assert alice.delete_run(parent.id).facts["name"] == "parent"

    def test_nothing_begins_to_refer_to_what_is_gone(
        self, digits: str, alice: ModelDevelopmentManager, context: Context
    ) -> None:
        """The half of a race that comes second is told so, whichever it is."""
        alice.delete_version("digits/2")
        late = Validation(
            id="late", phase="running", created_at=context.clock.now(), model="digits", model_version=2,
            evidence=Evidence(package="p", data="d", gates="g", code="c"), gates=(),
        )  # fmt: skip
        with (
            pytest.raises(Conflict, match="digits/2 was deleted by alice@one"),
            context.store.transaction("bob") as transaction,
        ):
            transaction.insert(late, event="validation.started")
        assert context.store.find(Validation) == []

    def test_a_deleted_run_is_no_origin(self, alice: ModelDevelopmentManager, package: Any) -> None:
        with alice.start_run() as run:
            pass
        alice.delete_run(run.id)
        with pytest.raises(Conflict, match="was deleted by"):
            alice.register_model("digits", package, run_id=run.id)
        assert alice.models() == []

    def test_a_service_that_knows_no_other_stage_deletes_nothing(
        self, digits: str, development: ModelDevelopmentManager
    ) -> None:
        with pytest.raises(Refused, match="only a whole workspace can delete"):
            development.delete_version("digits/2")

    def test_records_of_an_unknown_kind_keep_everything(self, digits: str, alice: ModelDevelopmentManager) -> None:
        from mlcycle_nb.testing.records import Note

        with alice.context.store.transaction("x") as transaction:
            transaction.insert(Note(id="n", phase="open", created_at=alice.context.clock.now()), event="note.made")
        with pytest.raises(Refused, match="a kind that is not known here: note"):
            alice.delete_version("digits/2")

    def test_what_mlflow_had_deleted_already_is_completed(self, digits: str, alice: ModelDevelopmentManager) -> None:
        """As after a kill between both."""
        alice.tracking.delete_version(digits, 2)
        assert alice.get_version("digits/2").version == 2
        alice.delete_version("digits/2")
        assert alice.context.store.maybe(RegisteredVersion, "digits/2") is None
        assert alice.context.store.get(Deletion, version_subject(digits, 2)).by == "alice@one"
