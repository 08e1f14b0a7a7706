"""Who is said to need an isolated environment."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from mlcycle_nb.context import Context
from mlcycle_nb.deployment.records import RETIREMENT_TAG, Revision, revision_id
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
                digest="sha256:0",
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
