"""Approvals: given by one person for what another made, bound to digests, void when anything changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from mlcycle_nb.context import Context
from mlcycle_nb.development.provenance import text_digest
from mlcycle_nb.development.records import ModelVersion, audit_subject
from mlcycle_nb.errors import InvalidInput, NotFound, Refused, did_you_mean
from mlcycle_nb.lifecycle.records import Approval
from mlcycle_nb.store.audit import events
from mlcycle_nb.store.record import encode

if TYPE_CHECKING:
    from mlcycle_nb.validation.records import Validation


class Registry(Protocol):
    """What approvals ask of development."""

    def get_version(self, ref: str) -> ModelVersion:
        """Return the version that a reference names."""
        ...


class Verdicts(Protocol):
    """What approvals ask of validation."""

    def is_valid_for(self, ref: str, environment: str) -> tuple[bool, str]:
        """Return whether a version has a verdict that opens an environment, and why or why not."""
        ...

    def validations(self, name: str | None = None) -> Sequence[Validation]:
        """Return validations, newest first."""
        ...


class Approvals:
    """The approvals of one workspace.

    Parameters
    ----------
    context : Context
    development : Registry
    validation : Verdicts
    """

    def __init__(self, context: Context, development: Registry, validation: Verdicts) -> None:
        self._context = context
        self._development = development
        self._validation = validation

    def approve(self, ref: str, environment: str, *, reason: str = "") -> Approval:
        """Approve a version for an environment.

        Raises
        ------
        Refused
            When its gates have not passed, or when the one who approves also registered it and the workspace is not
            a single user's.
        """
        self._check_environment(environment)
        version = self._development.get_version(ref)
        valid, why = self._validation.is_valid_for(version.reference, environment)
        if not valid:
            raise Refused(
                f"{version.reference} cannot be approved for {environment}: {why}",
                remedy=f"%validate {version.reference}",
            )
        own = self.registered_by(version) == self._context.actor
        if own and not self.single_user:
            raise Refused(
                f"{version.reference} was registered by {self._context.actor}, who cannot approve it too",
                remedy="ask somebody else, or set workspace.single_user = 'yes'",
            )
        verdict = self.deciding_verdict(version, environment)
        assert verdict is not None  # is_valid_for is true only when there is one
        earlier = self.given(version.reference, environment)
        approval = Approval(
            id=f"{version.reference}@{environment}/{1 + len(earlier)}",
            phase="given",
            created_at=self._context.clock.now(),
            model=version.name,
            model_version=version.version,
            environment=environment,
            package_digest=version.package_digest,
            verdict=verdict.id,
            verdict_digest=text_digest(encode(verdict)),
            approver=self._context.actor,
            reason=reason,
            single_user=own,
        )
        detail = {"package": approval.package_digest, "verdict": approval.verdict_digest, "single_user": own}
        with self._context.store.transaction(actor=self._context.actor) as transaction:
            return transaction.insert(approval, event="approval.given", detail=detail, reason=reason)

    def withdraw(self, ref: str, environment: str, *, reason: str) -> list[Approval]:
        """Take back the approvals of a version for an environment."""
        if not reason.strip():
            raise InvalidInput("taking back an approval needs a reason", where="--reason")
        version = self._development.get_version(ref)
        standing = [a for a in self.given(version.reference, environment) if a.phase == "given"]
        if not standing:
            raise NotFound(f"{version.reference} has no approval for {environment}")
        with self._context.store.transaction(actor=self._context.actor) as transaction:
            return [
                transaction.update(replace(a, phase="withdrawn"), event="approval.withdrawn", reason=reason)
                for a in standing
            ]

    def given(self, reference: str, environment: str | None = None) -> list[Approval]:
        """Return the approvals of a version, newest first, whatever became of them."""
        found = self._context.store.find(Approval, name=reference.partition("/")[0])
        return [a for a in found if a.reference == reference and (environment is None or a.environment == environment)]

    def standing(self, ref: str, environment: str, *, requester: str | None = None) -> tuple[Approval | None, str]:
        """Return the approval that counts now, or None, and why.

        Parameters
        ----------
        requester : str, optional
            Who asks for the step; their own approval counts only in a single user's workspace.
        """
        version = self._development.get_version(ref)
        why = f"nobody has approved {version.reference} for {environment}"
        for approval in self.given(version.reference, environment):
            problem = self.void(approval, version)
            if not problem and approval.approver == requester and not self.single_user:
                problem = f"it is {requester}'s own, who also asks for the step"
            if not problem:
                return approval, f"approved by {approval.approver}"
            why = f"the approval of {approval.approver} does not count: {problem}"
        return None, why

    def void(self, approval: Approval, version: ModelVersion) -> str:
        """Return why an approval counts for nothing now; empty when it counts."""
        if approval.phase != "given":
            return f"it was {approval.phase}"
        if approval.package_digest != version.package_digest:
            return "the package is another one"
        valid, why = self._validation.is_valid_for(version.reference, approval.environment)
        if not valid:
            return why
        verdict = self.deciding_verdict(version, approval.environment)
        if verdict is None or verdict.id != approval.verdict or text_digest(encode(verdict)) != approval.verdict_digest:
            return "there is another verdict since"
        return ""

    def deciding_verdict(self, version: ModelVersion, environment: str) -> Validation | None:
        """Return the verdict that decides about an environment: the newest finished one that applies to it."""
        for verdict in self._validation.validations(version.name):
            applies = not verdict.environments or environment in verdict.environments
            if verdict.model_version == version.version and verdict.finished and applies:
                return verdict
        return None

    def registered_by(self, version: ModelVersion) -> str:
        """Return who registered a version, as the audit trail has it."""
        subject = audit_subject(version.name, version.version)
        made = [body for body in events(self._context.store, subject=subject) if body["event"] == "model.registered"]
        return str(made[0]["actor"]) if made else ""

    @property
    def single_user(self) -> bool:
        """Whether one person may approve what they made themselves."""
        chosen = self._context.settings.workspace.single_user
        return chosen == "yes" or (chosen == "auto" and not self._context.settings.workspace.database_url)

    def needed(self, environment: str) -> bool:
        """Whether an environment takes only what somebody approved."""
        return environment in self._context.settings.lifecycle.approvals

    def _check_environment(self, environment: str) -> None:
        known = self._context.settings.deployment.environments
        if environment not in known:
            raise InvalidInput(
                "there is no environment of this name",
                value=environment,
                where="--stage",
                remedy=f"{did_you_mean(environment, known)}known: {', '.join(known)}",
            )


class ApprovingGatekeeper:
    """Validation's gate with the approval behind it: what deployment asks before it moves anything."""

    def __init__(self, context: Context, approvals: Approvals, validation: Verdicts) -> None:
        self._context = context
        self._approvals = approvals
        self._validation = validation

    def is_valid_for(self, ref: str, environment: str) -> tuple[bool, str]:
        """Return whether a version may go to an environment, and why or why not."""
        valid, why = self._validation.is_valid_for(ref, environment)
        if not valid or not self._approvals.needed(environment):
            return valid, why
        approval, said = self._approvals.standing(ref, environment, requester=self._context.actor)
        if approval is None:
            return False, f"{said}; %approve {ref} --stage {environment}"
        return True, f"{why}; {said}"
