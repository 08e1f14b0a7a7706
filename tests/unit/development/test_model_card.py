"""The model card: every fact from a record, and a check that finds any number that is not the recorded one."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from mlcycle_nb.development.card.check import CardCheck
from mlcycle_nb.development.service import ModelDevelopmentManager
from mlcycle_nb.errors import InvalidInput, Refused
from mlcycle_nb.outcomes import Outcome
from mlcycle_nb.stage_knowledge import stage_knowledge
from mlcycle_nb.store.audit import events, verify
from mlcycle_nb.testing import FakeClock
from mlcycle_nb.validation.records import FINISHED, Evidence, GateResult, Validation


@pytest.fixture
def development(development: ModelDevelopmentManager) -> ModelDevelopmentManager:
    return ModelDevelopmentManager(development.context, stage_knowledge)


def judged(development: ModelDevelopmentManager, number: int, accuracy: float) -> None:
    """Store a finished verdict on digits/1."""
    now = development.context.clock.now()
    gates = (
        GateResult(
            check="accuracy",
            family="performance",
            outcome=Outcome.PASSED,
            required=True,
            reason="",
            bound=">= 0.9",
            value=accuracy,
            low=accuracy - 0.0123456,
            high=accuracy + 0.01,
            n=400,
        ),
        GateResult(
            check="equalized_odds_difference",
            family="fairness",
            outcome=Outcome.INCONCLUSIVE,
            required=False,
            reason="group b has 7 rows",
            bound="<= 0.1",
            value=0.0512,
            low=0.01,
            high=0.2,
            n=400,
        ),
    )
    record = Validation(
        id=f"digits-1-{number}",
        phase=FINISHED,
        created_at=now,
        model="digits",
        model_version=1,
        rows=400,
        evidence=Evidence(package="p", data="sha256:da", gates="sha256:ga", code="c"),
        gates=(),
        results=gates,
        outcome=Outcome.PASSED,
        finished_at=now,
    )
    with development.context.store.transaction("tester") as transaction:
        transaction.insert(record, event="validation.finished")


@pytest.fixture
def version(development: ModelDevelopmentManager, package: Any, fake_clock: FakeClock) -> str:
    with development.start_run(data={"rows | of <b>": [1, 2]}, seeds={"numpy": 7}, cell="fit()") as run:
        run.log_hyperparameters({"lr": 0.1, "odd": "a|b <!-- fact:run/metrics.val_loss --> [x](y) _z_ `q` \\"})
        run.log_metrics({"val_loss": 0.123456789, "val_accuracy": 0.9342})
    made = development.register_model("digits", package, run_id=run.id)
    development.set_owners("digits", ["alice", "tester"])
    fake_clock.advance(timedelta(hours=1))
    judged(development, 1, 0.9342)
    fake_clock.advance(timedelta(hours=1))
    return made.reference


Change = Callable[[str], str]


@pytest.fixture(params=[".md", ".html"])
def check(
    request: pytest.FixtureRequest, version: str, development: ModelDevelopmentManager, tmp_path: Path
) -> Callable[[Change], CardCheck]:
    """Checks the card after its text was changed."""
    file = tmp_path / f"card{request.param}"

    def checked(change: Change) -> CardCheck:
        development.model_card(version).save(file)
        before = file.read_text()
        after = change(before)
        assert after != before or change is unchanged
        file.write_text(after)
        return development.check_card(version, file)

    return checked


def unchanged(text: str) -> str:
    return text


class TestEvidence:
    def test_what_is_in_it(self, version: str, development: ModelDevelopmentManager) -> None:
        card = development.model_card(version)

        assert card.fact("run/metrics.val_loss").text == "0.123457"
        assert card.fact("digits-1-1/1-accuracy/value").text == "0.9342 [0.921854, 0.9442]"
        assert card.fact("digits-1-1/1-accuracy/value").source == "validation digits-1-1, gate 1, 400 observations"
        assert card.fact("digits-1-1/2-equalized_odds_difference/value").section == "Fairness"
        assert card.fact("digits-1-1/2-equalized_odds_difference/limit").text == "group b has 7 rows"
        assert card.fact("people/owners").text == "alice, tester"
        assert card.fact("run/data.rows | of <b>").text.startswith("sha256:")
        assert card.fact("run/seed.numpy").text == "7"
        assert card.fact("version/registered-by").text == "tester@here"
        assert card.fact("deployment/none").text == "none"
        assert all(fact.source for fact in card.facts)
        assert "<b>" not in card.to_html().replace("<body>", "")

    def test_as_it_was_at_a_time(
        self, version: str, development: ModelDevelopmentManager, fake_clock: FakeClock
    ) -> None:
        """A card from then says what was recorded then."""
        judged(development, 2, 0.5)
        development.set_alias("digits", "champion", 1)
        then, now = development.model_card(version, "30m ago"), development.model_card(version)

        assert {fact.key for fact in now.facts} > {fact.key for fact in then.facts}
        assert (then.fact("version/aliases").text, now.fact("version/aliases").text) == ("none", "champion")
        with pytest.raises(InvalidInput, match="was registered only at"):
            development.model_card(version, "3h ago")

    def test_a_version_without_a_run_says_so(self, development: ModelDevelopmentManager, package: Any) -> None:
        development.register_model("digits", package)
        card = development.model_card("digits/1")

        assert "without a run" in card.fact("run/none").text
        assert card.fact("validation/none").section == "Known limits"
        card, place = development.publish_card("digits/1")
        assert (development.context.home / "cards" / "digits-1.md").read_text() == card.to_markdown()
        assert "cards/digits-1" in place

    def test_a_service_alone_makes_none(self, version: str, development: ModelDevelopmentManager) -> None:
        with pytest.raises(Refused, match="only a whole workspace"):
            ModelDevelopmentManager(development.context).model_card(version)

    def test_published_with_the_run(self, version: str, development: ModelDevelopmentManager) -> None:
        card, _ = development.publish_card(version)
        run_id = str(development.get_version(version).run_id)

        assert development.tracking.read_text(run_id, "model_card/digits-1.md") == card.to_markdown()
        assert "model_card/digits-1.html" in development.tracking.artifact_files(run_id)
        last = events(development.context.store, subject="model:digits/1")[-1]
        assert card.digest == f"sha256:{last['detail']['sha256']}"
        assert verify(development.context.store).intact


class TestCheck:
    def test_the_card_as_made_passes(self, check: Callable[[Change], CardCheck]) -> None:
        found = check(unchanged)

        assert (found.passed, found.problems) == (True, ())
        assert found.rows > 30

    def test_every_number_is_bound(self, version: str, development: ModelDevelopmentManager, tmp_path: Path) -> None:
        """Changed one at a time, each number of the evidence is found, on its line."""
        text = development.model_card(version).to_markdown()
        lines = text.split("\n")
        first, last = lines.index("<!-- evidence begins -->"), lines.index("<!-- evidence ends -->")
        file = tmp_path / "card.md"
        tried = 0
        for place in range(first, last):
            value = lines[place].split(" | ")[1] if lines[place].count(" | ") == 2 else ""
            for number in re.finditer(r"\d+(\.\d+)?", value):
                other = value[: number.start()] + str(float(number[0]) + 1) + value[number.end() :]
                changed = [*lines]
                changed[place] = changed[place].replace(f" | {value} | ", f" | {other} | ")
                file.write_text("\n".join(changed))
                found = development.check_card(version, file)
                assert [one.line for one in found.problems] == [place + 1], lines[place]
                tried += 1
        assert tried > 30

    def test_the_number_its_line_and_what_is_recorded(self, check: Callable[[Change], CardCheck]) -> None:
        found = check(lambda text: text.replace("0.9342 [0.921854, 0.9442]", "0.9342 [0.921854, 0.9542]"))
        (problem,) = found.problems

        assert found.outcome is Outcome.FAILED
        assert problem.what == "accuracy"
        assert problem.says.startswith("0.9542 in ")
        assert problem.recorded.startswith("0.9442 in ")
        assert problem.source.startswith("validation digits-1-1, gate 1")
        assert problem.line > 10

    @pytest.mark.parametrize(
        ("pattern", "instead", "words"),
        [
            (r"(?m)^.*fact[:=\"]+run/metrics\.val_accuracy\b.*\n", "", "nothing"),  # a row left out
            (r"fact([:=\"]+)run/metrics\.val_accuracy", r"fact\1run/metrics.other", "nothing under this key"),
            (r"(\| alice, tester|<td>alice, tester)", r"\1, mallory", "alice, tester, mallory"),
            (r"(## Owners|<h2>Owners</h2>)", r"\1\nThe accuracy is 0.99.", "this among the evidence"),
            (r"(gate accuracy (?:&gt;|>)= 0).9", r"\1.95", "0.95"),
            (r"(?m)^(.*fact[:=\"]+people/owners\b.*\n)", r"\1\1", "a second time"),
        ],
    )
    def test_other_lies(self, check: Callable[[Change], CardCheck], pattern: str, instead: str, words: str) -> None:
        found = check(lambda text: re.sub(pattern, instead, text, count=1))

        assert found.outcome is Outcome.FAILED
        assert words in " ".join(str(one) for one in found.problems)

    def test_later_evidence_does_not_spoil_an_old_card(
        self, version: str, development: ModelDevelopmentManager, tmp_path: Path, fake_clock: FakeClock
    ) -> None:
        file = development.model_card(version).save(tmp_path / "card.md")
        fake_clock.advance(timedelta(minutes=1))
        judged(development, 2, 0.5)
        development.set_alias("digits", "champion", 1)
        development.set_owners("digits", ["tester"])

        assert development.check_card(version, file).passed

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda text: "# hello", "not a model card of this package"),
            (lambda text: text.replace("version digits/1", "version digits/2"), "of another version"),
            (lambda text: re.sub(r"workspace \w+;", "workspace abc;", text), "of another workspace"),
            (lambda text: re.sub(r"; at 20\d\d", "; at 2999", text), "has not come yet"),
            (lambda text: re.sub(r"; at \S+", "; at noon", text), "time cannot be read"),
            (
                lambda text: text.replace("evidence ends", "").replace('data-card="evidence"', ""),
                "does not begin or end",
            ),
        ],
    )
    def test_what_is_no_card_of_this(self, check: Callable[[Change], CardCheck], change: Change, words: str) -> None:
        with pytest.raises(InvalidInput, match=words):
            check(change)


class TestWhatPeopleSay:
    def test_it_is_kept_apart(self, version: str, development: ModelDevelopmentManager, tmp_path: Path) -> None:
        development.describe(version, "Intended_use", "For\n<!-- evidence begins -->\n| a | 1 | b <!-- fact:x --> |")
        card = development.describe(version, "licence", "Apache-2.0")
        text = card.to_markdown()

        assert [(one.title, one.author) for one in card.texts] == [
            ("intended use", "tester@here"),
            ("licence", "tester@here"),
        ]
        assert text.index("evidence ends") < text.index("### Licence") < text.index("### Intended use")
        assert text.count("<!-- evidence begins -->") == 1
        for name in ("card.md", "card.html"):
            assert development.check_card(version, card.save(tmp_path / name)).passed

    def test_a_bound_number(self, version: str, development: ModelDevelopmentManager, tmp_path: Path) -> None:
        card = development.describe(version, "notes", "Loss [[run/metrics.val_loss]], good.")
        for name, pattern in (("card.md", r"0\.123457(<!--)"), ("card.html", r"0\.123457(</span>)")):
            file = card.save(tmp_path / name)
            assert development.check_card(version, file).passed
            file.write_text(re.sub(pattern, r"0.1\1", file.read_text()))
            (problem,) = development.check_card(version, file).problems
            assert (problem.says, problem.recorded) == ("0.1", "0.123457")
        with pytest.raises(InvalidInput, match=r"did you mean 'run/metrics\.val_loss'"):
            development.describe(version, "notes", "[[run/metrics.val_los]]")

    @pytest.mark.parametrize(
        ("text", "passes"),
        [
            ("It has accuracy 0.93 on our data.", True),
            ("It has accuracy of 93.4 %.", True),
            ("val accuracy: 0.9342", True),
            ("The accuracy is 0.99.", False),
            ("Accuracy = 94 %", False),
            ("val_loss 0.1235, measured in 2026 with 12 people", True),
            ("inaccuracy 0.5 and version 3", True),
        ],
    )
    def test_a_claim_about_a_measured_number(
        self, text: str, passes: bool, version: str, development: ModelDevelopmentManager, tmp_path: Path
    ) -> None:
        """Rounded it may be; another one it may not."""
        card = development.describe(version, "notes", f"First line.\n{text}")
        found = {
            suffix: development.check_card(version, card.save(tmp_path / f"card{suffix}"))
            for suffix in (".md", ".html")
        }

        assert {suffix: one.passed for suffix, one in found.items()} == {".md": passes, ".html": passes}
        if not passes:
            (problem,) = found[".md"].problems
            line = (tmp_path / "card.md").read_text().split("\n")[problem.line - 1]
            assert text in line
            assert problem.recorded == "0.9342 [0.921854, 0.9442]"

    def test_two_people_write_two_sections(self, version: str, development: ModelDevelopmentManager) -> None:
        bob = ModelDevelopmentManager(replace(development.context, actor="bob@two"), stage_knowledge)
        development.describe(version, "notes", "one")
        assert [t.title for t in bob.describe(version, "limitations", "two").texts] == ["notes", "limitations"]
        assert [t.author for t in development.describe(version, "limitations", "").texts] == ["tester@here"]

    @pytest.mark.parametrize(
        ("title", "text", "words"),
        [
            ("intendet use", "x", "did you mean 'intended use'"),
            ("licence", "<b>", "not a licence expression"),
            ("notes", "x" * 20_001, "at most 20,000"),
        ],
    )
    def test_refused(
        self, title: str, text: str, words: str, version: str, development: ModelDevelopmentManager
    ) -> None:
        with pytest.raises(InvalidInput, match=words):
            development.describe(version, title, text)

    def test_files_of_another_kind(self, version: str, development: ModelDevelopmentManager, tmp_path: Path) -> None:
        card = development.model_card(version)
        with pytest.raises(InvalidInput, match="cannot tell the kind of card"):
            card.save(tmp_path / "card.txt")
        with pytest.raises(InvalidInput, match="no such folder"):
            card.save(tmp_path / "no" / "card.md")
        with pytest.raises(InvalidInput, match="no such file"):
            development.check_card(version, tmp_path / "card.md")
