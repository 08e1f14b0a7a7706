"""What is exported: a version, the plan of its rollout, and where the cluster finds things."""

from __future__ import annotations

from dataclasses import dataclass

from mlcycle_nb.deployment.analysis import judged_metrics
from mlcycle_nb.deployment.export.names import object_name, whole_seconds
from mlcycle_nb.deployment.records import WHOLE, DeploymentStrategy, RolloutPolicy
from mlcycle_nb.errors import InvalidInput, did_you_mean

TARGETS = ("argo", "flagger", "kserve")
PROMETHEUS = "http://prometheus.istio-system:9090"
IMAGE_REGISTRY = "registry.invalid"
"""A name that never resolves: an image nobody named must not be fetched from a registry that somebody else holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportWish:
    """Everything that the manifests are made of.

    Parameters
    ----------
    base : int, optional
        The version that is stable in the environment here.
    package_format : str
        Of the package: ``onnx``, ``python`` or a plug-in's.
    threads : int
        Threads that one prediction may use.
    trusted_keys : tuple of str
        Public keys whose signature lets a replica load a ``python`` package.
    namespace, image, prometheus, storage : str
        Where the cluster finds things; an empty `image` or `storage` was not given.
    """

    model: str
    version: int
    environment: str
    digest: str
    package_format: str
    strategy: DeploymentStrategy
    policy: RolloutPolicy
    replicas: int
    base: int | None = None
    threads: int = 1
    body_bytes: int = 1_048_576
    trusted_keys: tuple[str, ...] = ()
    namespace: str = ""
    image: str = ""
    prometheus: str = PROMETHEUS
    storage: str = ""

    @property
    def name(self) -> str:
        """The name of the objects, one for all versions of the model in the environment."""
        return object_name(self.model, self.environment)

    @property
    def reference(self) -> str:
        """The version, such as ``digits/7``."""
        return f"{self.model}/{self.version}"

    @property
    def container_image(self) -> str:
        """The image, or one that cannot be fetched."""
        return self.image or f"{IMAGE_REGISTRY}/{self.name}:v{self.version}"

    @property
    def interval(self) -> int:
        """Seconds that a step is held at least."""
        return whole_seconds(self.policy.interval_seconds)

    @property
    def deadline(self) -> int:
        """Seconds that an undecided step is held at most."""
        return max(whole_seconds(self.policy.deadline_seconds), self.interval + 1)

    @property
    def judges(self) -> bool:
        """Whether the strategy judges anything."""
        at_once = self.strategy is DeploymentStrategy.ALL_AT_ONCE
        return not at_once and not (self.strategy is DeploymentStrategy.CANARY and not self.weights)

    @property
    def weights(self) -> tuple[int, ...]:
        """Percent of the requests at each step before the last, which is 100.

        Raises
        ------
        InvalidInput
            When a step is no whole number of percent.
        """
        broken = next((step for step in self.policy.steps if step % 100), None)
        if broken is not None and self.strategy is DeploymentStrategy.CANARY:
            raise InvalidInput(
                "a cluster's controllers take whole percentages only", value=f"{broken / 100:g}", where="--steps"
            )
        return tuple(step // 100 for step in self.policy.steps if step < WHOLE)

    @property
    def metrics(self) -> tuple[str, ...]:
        """What a rollout here is judged by, as options name it."""
        return judged_metrics(self.strategy, self.policy)

    def judged(self, metric: str) -> str:
        """Return a metric's mode: required, optional or watched."""
        if metric in self.policy.watched:
            return "watched"
        return "optional" if metric in self.policy.optional else "required"


def check_target(text: str) -> str:
    """Return the name of a cluster's controller."""
    word = str(text).strip().lower()
    if word not in TARGETS:
        raise InvalidInput(
            "unknown target",
            value=text,
            where="--export",
            remedy=f"{did_you_mean(word, TARGETS)}known: {', '.join(TARGETS)}",
        )
    return word
