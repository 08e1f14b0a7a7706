"""What people do with runs and versions besides making them: own, comment, describe, delete."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from mlcycle_nb.context import Context
from mlcycle_nb.development.comments import Comment, CommentList, Comments
from mlcycle_nb.development.moments import parse_moment
from mlcycle_nb.development.ownership import Owners, Ownership
from mlcycle_nb.development.records import ModelVersion, Run, run_subject, version_subject
from mlcycle_nb.errors import InvalidInput, InvalidName, NotFound, did_you_mean
from mlcycle_nb.references import ModelReference, check_name

if TYPE_CHECKING:
    from mlcycle_nb.development.card.card import ModelCard
    from mlcycle_nb.development.card.cards import Cards
    from mlcycle_nb.development.card.check import CardCheck
    from mlcycle_nb.development.deletion import Deletions
    from mlcycle_nb.development.history import ModelHistory
    from mlcycle_nb.development.knowledge import StageKnowledge
    from mlcycle_nb.development.referrers import Referrer
    from mlcycle_nb.development.tracking import Tracking
    from mlcycle_nb.store.deletion import Deletion


class TeamVerbs:
    """The part of `ModelDevelopmentManager` that several people share."""

    context: Context
    _learn: Callable[[], StageKnowledge] | None

    if TYPE_CHECKING:

        @property
        def tracking(self) -> Tracking: ...
        def run(self, run_id: str) -> Run: ...
        def models(self) -> list[str]: ...
        def versions(self, name: str) -> list[ModelVersion]: ...
        def get_version(self, ref: str | ModelReference) -> ModelVersion: ...

    @cached_property
    def knowledge(self) -> StageKnowledge | None:
        """What the other stages told; None in a service that was made without the rest of the workspace."""
        return None if self._learn is None else self._learn()

    # -- owners ----------------------------------------------------------------------------------------------

    @cached_property
    def _owners(self) -> Owners:
        return Owners(self.context)

    def owners(self, name: str) -> Ownership:
        """Return the owners and reviewers of a model."""
        return self._owners.of(self._known_model(name))

    def set_owners(
        self,
        name: str,
        owners: Sequence[str] | None = None,
        *,
        reviewers: Sequence[str] | None = None,
        force: bool = False,
        reason: str = "",
    ) -> Ownership:
        """Name the owners or the reviewers of a model, or both; None leaves them.

        Parameters
        ----------
        owners, reviewers : sequence of str
            ``alice`` on any host, or ``alice@host``. A model without owners is anybody's to claim.
        force : bool
            Do it although somebody else owns the model; needs a `reason`, and stays in the audit trail.

        Raises
        ------
        Refused
            When somebody else owns the model.
        Conflict
            When it was changed by somebody else since this process last looked.
        """
        return self._owners.change(
            self._known_model(name), owners=owners, reviewers=reviewers, force=force, reason=reason
        )

    # -- comments --------------------------------------------------------------------------------------------

    @cached_property
    def _comments(self) -> Comments:
        return Comments(self.context)

    def comment(self, target: str, text: str) -> Comment:
        """Comment on a run (its id, the first characters of it, or its name) or on a version such as ``digits/3``."""
        subject, shown = self._subject(target)
        return self._comments.post(subject, shown, text)

    def edit_comment(self, comment_id: str, text: str) -> Comment:
        """Say a comment in other words; only its author can."""
        return self._comments.edit(self._comment_id(comment_id), text)

    def delete_comment(self, comment_id: str, *, reason: str = "") -> Comment:
        """Take the words of a comment away; only its author can. That there was one stays."""
        return self._comments.delete(self._comment_id(comment_id), reason=reason)

    def comments(self, target: str) -> CommentList:
        """Return the comments on a run, on a version, or on all versions of a model; oldest first."""
        try:
            reference = ModelReference.parse(target)
        except InvalidName:
            return self._comments.about([self._subject(target)[0]])
        if reference.version is None and reference.alias is None and reference.name in self.models():
            versions = self.versions(reference.name)
            return self._comments.about([version_subject(v.name, v.version) for v in versions])
        return self._comments.about([self._subject(target)[0]])

    # -- deletion --------------------------------------------------------------------------------------------

    @cached_property
    def _deletions(self) -> Deletions:
        from mlcycle_nb.development.deletion import Deletions

        kinds = None if self.knowledge is None else self.knowledge.record_kinds
        return Deletions(self.context, self.tracking, self._owners, kinds)

    def referrers(self, target: str) -> list[Referrer]:
        """Return who refers to a run or version and so keeps it from being deleted."""
        return self._deletions.referrers(self._subject(target)[0])

    def delete_version(self, ref: str, *, force: bool = False, reason: str = "") -> Deletion:
        """Delete a version that nobody refers to; its package stays in the store.

        Parameters
        ----------
        force : bool
            Although somebody else owns the model; needs a `reason`. What is referred to is never deleted.

        Raises
        ------
        Refused
            Naming who refers to it, or who owns the model.
        """
        return self._deletions.delete_version(self.get_version(ref), force=force, reason=reason)

    def delete_run(self, run_id: str, *, reason: str = "") -> Deletion:
        """Delete a run that has ended and that nobody refers to; MLflow keeps it restorable until its clean-up."""
        return self._deletions.delete_run(self.run(run_id), reason=reason)

    # -- history and model card ------------------------------------------------------------------------------

    def history(
        self,
        name: str,
        at: datetime | str | None = None,
        *,
        since: datetime | str | None = None,
        until: datetime | str | None = None,
    ) -> ModelHistory:
        """Return what was registered, aliased and deployed, and how that stood at a time; now by default.

        Parameters
        ----------
        at, until : datetime or str
            The time that is asked about: ``2026-01-31T12:00`` (UTC unless it says), ``2d ago``, ``... local``.
        since : datetime or str
            List only changes from then on; the state still counts all before.

        Raises
        ------
        InvalidInput
            When a time cannot be read, or `since` is after it.
        """
        from mlcycle_nb.development.history import model_history

        if at is not None and until is not None:
            raise InvalidInput("--at and --until both say when it ends", value=str(until), remedy="give one of them")
        now = self.context.clock.now()
        end = at if at is not None else until
        moment = now if end is None else parse_moment(end, now=now, where="--at" if at is not None else "--until")
        start = None if since is None else parse_moment(since, now=now, where="--since")
        if start is not None and start > moment:
            raise InvalidInput("--since is after the end", value=f"{start:%Y-%m-%d %H:%M:%S}", where="%model history")
        return model_history(self.context.store, check_name(name, "model name"), moment, since=start)

    @cached_property
    def _cards(self) -> Cards:
        from typing import cast

        from mlcycle_nb.development.card.cards import Cards
        from mlcycle_nb.development.service import ModelDevelopmentManager

        return Cards(cast(ModelDevelopmentManager, self))

    def model_card(self, ref: str, at: datetime | str | None = None) -> ModelCard:
        """Return the model card of a version, made from what was recorded by a time; now by default."""
        moment = None if at is None else parse_moment(at, now=self.context.clock.now())
        return self._cards.make(self.get_version(ref), moment)

    def describe(self, ref: str, title: str, text: str) -> ModelCard:
        """Set a section of free text of a version's card, or its ``licence``; an empty text takes it away.

        ``[[run/metrics.loss]]`` in the text stands for the recorded value of that fact.
        """
        version = self.get_version(ref)
        self._cards.say(version, title, text)
        return self._cards.make(version)

    def publish_card(self, ref: str) -> tuple[ModelCard, str]:
        """Keep the card as Markdown and HTML with the run that made the version; return it and where it lies."""
        return self._cards.publish(self.get_version(ref))

    def check_card(self, ref: str, path: Path | str) -> CardCheck:
        """Compare a card's file (``.md`` or ``.html``) with what was recorded; any number that differs fails."""
        return self._cards.check(self.get_version(ref), path)

    # -- parts -----------------------------------------------------------------------------------------------

    def _known_model(self, name: str) -> str:
        models = self.models()
        if check_name(name, "model name") not in models:
            listed = ", ".join(models) or "none yet"
            raise NotFound(
                "there is no model of this name", value=name, remedy=f"{did_you_mean(name, models)}known: {listed}"
            )
        return name

    def _subject(self, target: str) -> tuple[str, str]:
        """Return the subject that a run or version is known by, and what it is called."""
        if "/" in target or "@" in target:
            version = self.get_version(target)
            return version_subject(version.name, version.version), version.reference
        if target in self.models():
            version = self.get_version(target)  # says which versions there are, when there are several
            return version_subject(version.name, version.version), version.reference
        run = self.run(target)
        return run_subject(run.id), run.id

    def _comment_id(self, text: str) -> str:
        about, mark, number = text.rpartition("#")
        if not mark or not number.isdigit() or not about:
            raise InvalidInput("not the id of a comment", value=text, remedy="write such as digits/3#1; see %comments")
        return f"{self._subject(about)[1]}#{int(number)}"
