"""Making, publishing and checking model cards."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from mlcycle_nb.development.card import collect
from mlcycle_nb.development.card.card import ModelCard
from mlcycle_nb.development.card.check import CardCheck, check_card
from mlcycle_nb.development.card.document import CardHead
from mlcycle_nb.development.card.facts import Fact, in_order
from mlcycle_nb.development.card.reading import read_card
from mlcycle_nb.development.card.texts import LICENCE, CardText, CardTexts, check_licence, check_said, check_title
from mlcycle_nb.development.history import model_history
from mlcycle_nb.development.records import ModelVersion, audit_subject
from mlcycle_nb.errors import InvalidInput, MLCycleError, NotFound, Refused
from mlcycle_nb.files import write_atomically

if TYPE_CHECKING:
    from mlcycle_nb.development.service import ModelDevelopmentManager

ARTIFACT_FOLDER = "model_card"


class Cards:
    """The model cards of one workspace."""

    def __init__(self, manager: ModelDevelopmentManager) -> None:
        self._manager = manager
        self._context = manager.context

    def make(self, version: ModelVersion, at: datetime | None = None) -> ModelCard:
        """Return the card of a version from what was recorded by a time; now by default."""
        moment = self._context.clock.now() if at is None else at
        if moment < version.created_at:
            raise InvalidInput(
                f"{version.reference} was registered only at {version.created_at:%Y-%m-%d %H:%M:%S} UTC",
                value=f"{moment:%Y-%m-%d %H:%M:%S}",
                where="--at",
            )
        texts = self._context.store.maybe(CardTexts, version.reference)
        head = CardHead(self._context.workspace_id, version.reference, moment)
        return ModelCard(head, tuple(in_order(self._facts(version, moment))), () if texts is None else texts.sections)

    def say(self, version: ModelVersion, title: str, text: str) -> CardTexts:
        """Set a section of free text, or the licence; an empty text takes it away."""
        if title == LICENCE:
            checked = check_licence(text)
        else:
            title = check_title(title)
            checked = check_said(text, {fact.key for fact in self.make(version).facts})
        said = CardText(title=title, text=checked, author=self._context.actor, at=self._context.clock.now())
        with self._context.store.transaction(actor=self._context.actor) as transaction:
            current = transaction.maybe(CardTexts, version.reference)
            if current is None:
                fresh = CardTexts(id=version.reference, phase="said", created_at=self._context.clock.now())
                return transaction.insert(fresh.saying(said), event="card.said", detail={"title": title})
            before = current.section(title)
            if (before.text if before else "") == checked:
                return current
            detail = {"title": title, "before": before.author if before else ""}
            return transaction.update(current.saying(said), event="card.said", detail=detail)

    def publish(self, version: ModelVersion) -> tuple[ModelCard, str]:
        """Keep the card as Markdown and HTML beside what the version was made from; return it and where it is.

        That is the run's artifacts; a version without a run keeps its card in the workspace folder.
        """
        card = self.make(version)
        name = f"{version.name}-{version.version}"
        files = {f"{name}.md": card.to_markdown(), f"{name}.html": card.to_html()}
        if version.run_id is not None:
            for file, content in files.items():
                self._manager.tracking.log_text(version.run_id, content, f"{ARTIFACT_FOLDER}/{file}")
            place = f"run {version.run_id[:8]}, {ARTIFACT_FOLDER}/{name}.md and .html"
        else:
            folder = self._context.folder("cards")
            for file, content in files.items():
                write_atomically(folder / file, content)
            place = f"{folder / name}.md and .html"
        with self._context.store.transaction(actor=self._context.actor) as transaction:
            transaction.note(
                "model.card_published",
                subject=audit_subject(version.name, version.version),
                detail={"sha256": card.digest.partition(":")[2], "where": place},
            )
        return card, place

    def check(self, version: ModelVersion, path: Path | str) -> CardCheck:
        """Compare a card's file with what was recorded by the time that it names."""
        found = read_card(Path(path))
        for what, theirs, ours in (
            ("workspace", found.head.workspace, self._context.workspace_id),
            ("version", found.head.reference, version.reference),
        ):
            if theirs != ours:
                raise InvalidInput(
                    f"the card is of another {what}", value=theirs, where=str(path), remedy=f"not {ours}"
                )
        if found.head.at > self._context.clock.now():
            raise InvalidInput("the card's time has not come yet", value=found.head.at.isoformat(), where=str(path))
        return check_card(found, self.make(version, found.head.at).facts)

    # -- parts -----------------------------------------------------------------------------------------------

    def _facts(self, version: ModelVersion, at: datetime) -> Iterable[Fact]:
        from mlcycle_nb.packages import PackageStore

        sources = self._manager.knowledge
        if sources is None:
            raise Refused(
                "only a whole workspace makes a model card: this service does not know what other stages recorded",
                remedy="use Workspace.open(...).development",
            )
        history = model_history(self._context.store, version.name, at)
        yield from collect.version_facts(version, history)
        yield from collect.package_facts(version, PackageStore(self._context.folder("packages")))
        yield from collect.owner_facts(history)
        yield from self._run_facts(version)
        for source in sources.card_sources:
            yield from source(self._context.store, version, at)
        yield from collect.deployment_facts(version, history, at)

    def _run_facts(self, version: ModelVersion) -> Iterable[Fact]:
        if version.run_id is None:
            return collect.no_run_facts("none: the version was registered without a run")
        try:
            run = self._manager.run(version.run_id)
        except NotFound as absent:
            return collect.no_run_facts(f"cannot be read: {absent.problem}")
        try:
            return collect.run_facts(run, self._manager.provenance(run.id))
        except MLCycleError as failure:
            return collect.run_facts(run, failure)
