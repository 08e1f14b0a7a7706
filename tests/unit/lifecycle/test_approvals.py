"""Approvals are bound to digests, given by somebody else, and void when anything changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mlcycle_nb.context import Context, open_context
from mlcycle_nb.development.records import ModelVersion, audit_subject
from mlcycle_nb.errors import InvalidInput, NotFound, Refused
from mlcycle_nb.lifecycle.approvals import Approvals, ApprovingGatekeeper
from mlcycle_nb.lifecycle.records import Approval
from mlcycle_nb.outcomes import Outcome
from mlcycle_nb.settings import load_settings
from mlcycle_nb.store.audit import events, verify
from mlcycle_nb.testing import FakeClock
from mlcycle_nb.validation.records import Evidence, Validation

from .conftest import StoredVerdicts, Versions

Office = Callable[[str], Approvals]


@pytest.fixture
def registry(fake_clock: FakeClock) -> Versions:
    return Versions(
        ModelVersion(name="digits", version=1, package_digest="sha256:p", run_id=None, created_at=fake_clock.now())
    )


@pytest.fixture
def opened(tmp_path: Path, fake_clock: FakeClock) -> Iterator[Callable[[str], Context]]:
    """Opens one workspace of several people, as whom a test says."""
    contexts = []

    def open_as(actor: str, single_user: str = "no") -> Context:
        settings = load_settings(
            environ={},
            overrides={"workspace": {"single_user": single_user}, "lifecycle": {"approvals": ["production"]}},
        )
        contexts.append(open_context(tmp_path / ".mlcycle", settings, actor=actor, clock=fake_clock))
        return contexts[-1]

    yield open_as
    for context in contexts:
        context.store.close()


@pytest.fixture
def office(opened: Callable[[str], Context], registry: Versions) -> Office:
    """Returns the approvals as one of these people sees them; ann has registered digits/1."""
    ann = opened("ann")
    with ann.store.transaction(actor="ann") as transaction:
        transaction.note("model.registered", subject=audit_subject("digits", 1))

    def of(person: str) -> Approvals:
        context = opened(person)
        return Approvals(context, registry, StoredVerdicts(context.store))

    validate(ann)
    return of


def validate(context: Context, outcome: Outcome = Outcome.PASSED) -> None:
    earlier = context.store.find(Validation)
    verdict = Validation(
        id=f"digits-1-{1 + len(earlier)}",
        phase="finished",
        created_at=context.clock.now(),
        model="digits",
        model_version=1,
        evidence=Evidence(package="sha256:p", data="d", gates="g", code="c"),
        gates=(),
        outcome=outcome,
    )
    with context.store.transaction(actor="ann") as transaction:
        transaction.insert(verdict, event="validation.finished")


class TestGiving:
    def test_somebody_else_may(self, office: Office) -> None:
        approval = office("bob").approve("digits/1", "production", reason="looks right")
        found, why = office("ann").standing("digits/1", "production", requester="ann")

        assert found == approval
        assert why == "approved by bob"
        assert approval.package_digest == "sha256:p"
        assert verify(office("ann")._context.store).intact

    def test_who_registered_it_may_not(self, office: Office) -> None:
        with pytest.raises(Refused, match="registered by ann, who cannot approve it too"):
            office("ann").approve("digits/1", "production")

    def test_a_single_user_may_and_it_is_recorded(
        self, opened: Callable[..., Context], office: Office, registry: Versions
    ) -> None:
        alone = opened("ann", single_user="yes")
        approval = Approvals(alone, registry, StoredVerdicts(alone.store)).approve("digits/1", "production")

        assert approval.single_user
        assert events(alone.store, subject=f"approval:{approval.id}")[0]["detail"]["single_user"] is True

    @pytest.mark.parametrize("outcome", [o for o in Outcome if o is not Outcome.PASSED])
    def test_only_what_has_passed(self, opened: Callable[[str], Context], office: Office, outcome: Outcome) -> None:
        validate(opened("ann"), outcome)
        with pytest.raises(Refused, match="cannot be approved"):
            office("bob").approve("digits/1", "production")

    def test_only_for_an_environment_there_is(self, office: Office) -> None:
        with pytest.raises(InvalidInput, match="did you mean 'production'"):
            office("bob").approve("digits/1", "producton")

    def test_only_a_version_there_is(self, office: Office) -> None:
        with pytest.raises(NotFound):
            office("bob").approve("digits/9", "production")


class TestCounting:
    def test_without_one_nothing_stands(self, office: Office) -> None:
        assert office("ann").standing("digits/1", "production") == (
            None,
            "nobody has approved digits/1 for production",
        )

    def test_one_for_another_environment_does_not_count(self, office: Office) -> None:
        office("bob").approve("digits/1", "staging")
        assert office("ann").standing("digits/1", "production")[0] is None

    def test_another_package_voids_it(self, office: Office, registry: Versions) -> None:
        office("bob").approve("digits/1", "production")
        registry.known["digits/1"] = replace(registry.known["digits/1"], package_digest="sha256:q")

        assert "the package is another one" in office("ann").standing("digits/1", "production")[1]

    def test_a_newer_verdict_voids_it_even_when_it_passed(
        self, opened: Callable[[str], Context], office: Office
    ) -> None:
        office("bob").approve("digits/1", "production")
        validate(opened("ann"))

        assert "another verdict" in office("ann").standing("digits/1", "production")[1]

    def test_a_failed_verdict_voids_it(self, opened: Callable[[str], Context], office: Office) -> None:
        office("bob").approve("digits/1", "production")
        validate(opened("ann"), Outcome.FAILED)

        assert office("ann").standing("digits/1", "production")[0] is None

    def test_an_edited_verdict_voids_it(self, opened: Callable[[str], Context], office: Office) -> None:
        office("bob").approve("digits/1", "production")
        store = opened("eve").store
        with store.transaction(actor="eve") as transaction:
            edited = replace(store.get(Validation, "digits-1-1"), seed=7)
            transaction.update(edited, event="validation.edited")

        assert "another verdict" in office("ann").standing("digits/1", "production")[1]

    def test_a_withdrawn_one_does_not_count(self, office: Office) -> None:
        office("bob").approve("digits/1", "production")
        with pytest.raises(InvalidInput, match="needs a reason"):
            office("bob").withdraw("digits/1", "production", reason=" ")
        office("bob").withdraw("digits/1", "production", reason="I misread it")

        assert "it was withdrawn" in office("ann").standing("digits/1", "production")[1]
        with pytest.raises(NotFound, match="no approval"):
            office("bob").withdraw("digits/1", "production", reason="again")

    def test_it_does_not_count_for_the_one_who_gave_it(self, office: Office) -> None:
        """Bob cannot both approve the version and take it to production."""
        office("bob").approve("digits/1", "production")

        assert "bob's own" in office("bob").standing("digits/1", "production", requester="bob")[1]
        assert office("bob").standing("digits/1", "production", requester="ann")[0] is not None

    def test_a_later_good_one_counts_after_a_void_one(
        self, opened: Callable[[str], Context], office: Office, fake_clock: FakeClock
    ) -> None:
        from datetime import timedelta

        office("bob").approve("digits/1", "production")
        fake_clock.advance(timedelta(minutes=1))
        validate(opened("ann"))
        second = office("bob").approve("digits/1", "production")

        assert office("ann").standing("digits/1", "production")[0] == second
        assert len(opened("ann").store.find(Approval)) == 2


class TestGatekeeper:
    def gatekeeper(self, office: Office) -> ApprovingGatekeeper:
        approvals = office("ann")
        return ApprovingGatekeeper(approvals._context, approvals, approvals._validation)

    def test_deployment_is_held_until_somebody_approves(self, office: Office) -> None:
        assert self.gatekeeper(office).is_valid_for("digits/1", "production") == (
            False,
            "nobody has approved digits/1 for production; %approve digits/1 --stage production",
        )
        office("bob").approve("digits/1", "production")
        assert self.gatekeeper(office).is_valid_for("digits/1", "production")[0]

    def test_an_environment_without_approvals_is_left_to_validation(self, office: Office) -> None:
        assert self.gatekeeper(office).is_valid_for("digits/1", "staging")[0]

    def test_an_approval_does_not_replace_a_verdict(self, opened: Callable[[str], Context], office: Office) -> None:
        office("bob").approve("digits/1", "production")
        validate(opened("ann"), Outcome.FAILED)

        assert not self.gatekeeper(office).is_valid_for("digits/1", "production")[0]


@pytest.mark.parametrize(
    ("single_user", "url", "allowed"),
    [("yes", "", True), ("no", "", False), ("auto", "", True), ("yes", "postgresql://x/y", True),
     ("auto", "postgresql://x/y", False)],
)  # fmt: skip
def test_auto_means_yes_on_sqlite_only(context: Context, single_user: str, url: str, allowed: bool) -> None:
    settings = load_settings(environ={}, overrides={"workspace": {"single_user": single_user, "database_url": url}})
    approvals = Approvals(replace(context, settings=settings), Versions(), StoredVerdicts(context.store))

    assert approvals.single_user is allowed
