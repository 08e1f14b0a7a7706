"""The magics: every bad line has its one clear error, every good one does what its Python call does."""

from __future__ import annotations

import pytest
from IPython.core.interactiveshell import InteractiveShell

from mlcycle_nb.deployment.consumers import NewConsumer
from mlcycle_nb.deployment.magic import DeploymentMagics
from mlcycle_nb.deployment.records import WHOLE, DeploymentStrategy, Rollout, Weight
from mlcycle_nb.errors import MLCycleError
from mlcycle_nb.notebook.arguments import HelpShown
from mlcycle_nb.store.audit import events


class Opened:
    """A workspace that has only deployment."""

    def __init__(self, world) -> None:
        self.context = world.context
        self.store = world.context.store
        self.deployment = world.deployment

    class development:
        @staticmethod
        def models() -> list[str]:
            return []


@pytest.fixture
def magics(world):
    shell = InteractiveShell.instance()
    yield DeploymentMagics(shell, lambda: Opened(world))
    InteractiveShell.clear_instance()


BAD_LINES = [
    ("deploy", "", r"%deploy needs MODEL/VERSION.*known: none yet"),
    ("deploy", "digits v1 --strategy canry", r"unknown strategy 'canry'.*did you mean 'canary'"),
    ("deploy", "digits v1 --canry", r"unknown option --canry.*did you mean '--canary'"),
    ("deploy", "digits v1 --steps 5,10,25,50", r"steps must end at 100"),
    ("deploy", "digits/1 --steps 50,10,100", r"steps must strictly increase in \(0,100\]"),
    ("deploy", "digits/1 --steps=-5,100", r"steps must strictly increase"),
    ("deploy", "digits/1 --steps 5,5,100", r"steps must strictly increase"),
    ("deploy", "digits/1 --steps nan,100", r"steps must strictly increase"),
    ("deploy", "digits/1 --steps 33.333,100", r"at most two decimals"),
    ("deploy", 'digits/1 --reason "a', r"unclosed quote at column 19"),
    ("deploy", "$undefined", r"variable not defined: \$undefined"),
    ("deploy", "{model}", r"variable not defined: \{model\}"),
    ("deploy", "digits/1 --interval 0s", r"--interval is out of range"),
    ("deploy", "digits/1 --interval 3 fortnights", r"unrecognized arguments: fortnights"),
    ("deploy", "digits/1 --min-requests 0 --canary", r"would judge on no data"),
    ("deploy", "digits/1 --min-requests x", r"invalid int value: 'x'"),
    ("deploy", "digits/1 --replicas 0", r"--replicas must be a whole number from 1 to 64"),
    ("deploy", "digits/1 --mirror 101", r"--mirror must be a percentage"),
    ("deploy", "digits/1 --env prod", r"unknown environment"),
    ("deploy", "digits/1 --env produktion", r"did you mean 'production'"),
    ("deploy", "digits/1 --canary --rolling", r"choose one strategy"),
    ("deploy", "digits/1 --force", r"--force needs a reason"),
    ("deploy", "digits/1 --rolling --steps 5,100", r"--steps belong to a canary, not to rolling"),
    ("deploy", "digits/0", r"whole number from 1"),
    ("deploy", "Digits/1", r"U\+0044 at position 0"),
    ("deploy", "../x/1", r"model name"),
    ("deploy", "digits", r"needs MODEL/VERSION or MODEL@ALIAS"),
    ("deploy", "digits/99", r"no such version.*digits/99"),
    ("deploy", "digits/1 \u202e", r"contains U\+202E at 9"),
    ("deploy", "x" * 70_000, r"over 64 KiB"),
    ("rollback", "digits", r"digits is not deployed in production.*none yet"),
    ("rollback", "", r"%rollback needs a model"),
    ("promote", "", r"no such rollout is running"),
    ("abort", "production/digits/r7", r"no such rollout is running"),
    ("consumer", "add", r"%consumer add needs a name"),
    ("consumer", "ad alice", r"invalid choice: 'ad'.*did you mean 'add'"),
    ("consumer", "add Alice", r"U\+0041 at position 0"),
    ("consumer", "revoke nobody", r"no consumer of this name in production"),
]


@pytest.mark.parametrize(("name", "line", "message"), BAD_LINES)
def test_a_bad_line_is_refused_in_one_line_and_changes_nothing(world, magics, name, line, message):
    with pytest.raises(MLCycleError, match=message) as refused:
        getattr(magics, name)(line)

    assert "\n" not in str(refused.value)
    assert world.context.store.find(Rollout) == []


class TestDeploy:
    """`%deploy` and the verbs."""

    def test_options_reach_the_rollout(self, world, magics):
        handle = magics.deploy(
            "digits/2 --env production --canary --steps 10,100 --interval 5s --min-requests 50 --replicas 3 "
            "--mirror 40 --max-disagreement 0.2 --warm 1m --no-wait"
        )

        record = handle.record
        assert (record.target, record.environment, record.replicas) == (2, "production", 3)
        assert record.strategy is DeploymentStrategy.CANARY
        policy = record.policy
        assert (policy.steps, policy.interval_seconds, policy.min_requests) == ((1000, WHOLE), 5.0, 50)
        assert (policy.mirror, policy.max_disagreement, policy.warm_seconds) == (4000, 0.2, 60.0)

    @pytest.mark.parametrize(
        ("line", "strategy"),
        [
            ("digits/1", "all-at-once"), ("digits/1 --env production", "canary"), ("digits/1 --env staging", "rolling"),
            ("digits/1 --blue-green", "blue-green"), ("digits v1 --strategy blue_green", "blue-green"),
            ("digits/1 --steps 5,100", "canary"),
        ],
    )  # fmt: skip
    def test_strategies(self, magics, line, strategy):
        assert magics.deploy(f"{line} --no-wait").record.strategy == strategy

    def test_a_shadow_and_its_disagreements(self, world, magics):
        world.deploy(1)
        world.settle(20)
        handle = magics.deploy(
            "digits/2 --env production --shadow --mirror 10% --duration 2m --compare 500 --max-shift 5% --no-wait"
        )
        policy = handle.record.policy

        assert handle.record.strategy is DeploymentStrategy.SHADOW
        assert (policy.mirror, policy.deadline_seconds, policy.compared) == (1000, 120.0, 500)
        assert len(magics.disagreements("digits")) == 0
        assert magics.disagreements("--env production").rollout == handle.id

    def test_into_binds_the_handle(self, magics):
        magics.deploy("digits/1 --no-wait --into rollout --quiet")
        assert magics.shell.user_ns["rollout"].id == "dev/digits/r1"

    def test_help(self, magics):
        with pytest.raises(HelpShown, match="--max-disagreement"):
            magics.deploy("--help")

    def test_verbs(self, world, magics):
        world.deploy(1)
        world.settle(20)
        handle = magics.deploy("digits/2 --env production --interval 30m --no-wait")
        world.settle(8)
        assert magics.pause("digits").record.phase == "paused"
        assert magics.resume("digits --no-wait").record.phase == "progressing"
        world.settle(3)
        assert magics.promote("--reason now --no-wait").record.phase == "promoting"
        world.settle(10)
        assert handle.record.phase == "completed"

        assert magics.rollback("--no-wait").record.target == 1
        world.settle(10)
        assert world.service().split == (Weight(1, WHOLE),)

    def test_abort(self, world, magics):
        world.deploy(1)
        world.settle(20)
        magics.deploy("digits/2 --env production --no-wait")
        world.settle(8)
        handle = magics.abort('--reason "second thoughts" --no-wait')
        world.settle(10)
        assert (handle.record.phase, handle.record.reason) == ("aborted", "second thoughts")


class TestConsumer:
    """Keys are shown once and never stored in the database or the audit trail."""

    def test_a_key_is_shown_once(self, world, magics):
        made = magics.consumer("add alice --env production")
        assert isinstance(made, NewConsumer)
        assert made.key in repr(made)

        (listed,) = magics.consumer("list --env production")
        assert (listed.name, listed.phase, listed.requests) == ("alice", "active", 0)
        stored = (
            (world.context.home / "mlcycle.db").read_bytes() if (world.context.home / "mlcycle.db").exists() else b""
        )
        assert made.key.encode() not in stored
        assert all(made.key not in str(entry) for entry in events(world.context.store))

    def test_twice_is_a_conflict(self, magics):
        magics.consumer("add alice")
        with pytest.raises(MLCycleError, match="alice of production exists already"):
            magics.consumer("add alice")

    def test_a_revoked_one_comes_back_with_another_key(self, magics):
        first = magics.consumer("add alice")
        magics.consumer("revoke alice")
        second = magics.consumer("add alice")
        assert first.key != second.key
