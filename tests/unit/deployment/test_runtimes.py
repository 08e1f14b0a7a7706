"""Who is said to need an isolated environment, and what becomes of replicas whose environment is gone."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from mlcycle_nb.context import Context
from mlcycle_nb.deployment.records import RETIREMENT_TAG, Revision, revision_id
from mlcycle_nb.deployment.replicas import CRASHES_TOLERATED
from mlcycle_nb.deployment.revision_controller import RevisionController, Start
from mlcycle_nb.deployment.runtimes import users
from mlcycle_nb.development.records import RegisteredVersion, version_id


def register(context: Context, tags: Mapping[str, str] | None = None) -> None:
    with context.store.transaction(actor="test") as transaction:
        transaction.insert(
            RegisteredVersion(
                id=version_id("digits", 1),
                phase="registered",
                created_at=context.clock.now(),
                model="digits",
                number=1,
                package_digest="sha256:0",
                run_id=None,
                tags=dict(tags or {}),
            ),
            event="version.registered",
        )


def serve(context: Context, phase: str) -> None:
    with context.store.transaction(actor="test") as transaction:
        transaction.insert(
            Revision(
                id=revision_id("production", "digits", 1),
                phase=phase,
                created_at=context.clock.now(),
                environment="production",
                model="digits",
                model_version=1,
                digest="sha256:" + "0" * 64,
                replicas=1,
                runtime="old",
            ),
            event="revision.starting",
        )


@pytest.mark.parametrize(
    ("phase", "tags", "counted"),
    [
        ("running", {}, True),
        ("running", {RETIREMENT_TAG: "retirement-1"}, True),
        ("stopped", {}, True),
        ("stopped", {RETIREMENT_TAG: ""}, True),
        ("stopped", {RETIREMENT_TAG: "retirement-1"}, False),
        ("stopped", None, False),
    ],
    ids=["runs", "runs-and-retires", "may-return", "retirement-cancelled", "retired", "deleted"],
)
def test_what_can_be_brought_back_counts(
    context: Context, phase: str, tags: dict[str, str] | None, counted: bool
) -> None:
    """A version that is retired or deleted is never served again, and its environment may go."""
    if tags is not None:
        register(context, tags)
    serve(context, phase)

    assert bool(users(context, "old")) is counted
    assert users(context, "another") == []


def test_replicas_of_an_environment_that_is_gone(context: Context) -> None:
    """The controller goes on looking at the others; it tries again, and says why when it has tried for long."""
    serve(context, "ready")
    record = context.store.get(Revision, revision_id("production", "digits", 1))
    controller = RevisionController(context)
    problems = []
    for _ in range(CRASHES_TOLERATED):
        observation = controller.observe(record)
        problems.append(context.store.observed(Revision, record.id)["problem"])
        controller.act(Start(0), record, observation)
    observation = controller.observe(record)

    assert problems == [""] * CRASHES_TOLERATED
    assert not observation.replicas[0].may_start
    noted = context.store.observed(Revision, record.id)
    python = context.home / "environments" / "old" / "current" / "bin" / "python"
    assert noted["problem"] == f"replica 0 of digits/1: {python} cannot be started: No such file or directory"
    assert noted["restarts"] == CRASHES_TOLERATED
