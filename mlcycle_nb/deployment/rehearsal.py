"""From a wish and a recording to a simulation."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from mlcycle_nb.context import Context
from mlcycle_nb.deployment.records import DeploymentStrategy, Revision, Rollout, RolloutPolicy, Service, revision_id
from mlcycle_nb.errors import InvalidInput, Refused
from mlcycle_nb.references import parse_duration

if TYPE_CHECKING:
    import pyarrow as pa

    from mlcycle_nb.deployment.simulation import Simulation

SIMULATED = 200_000
"""Rows that a simulation takes at most, the newest ones."""


def rehearse(
    context: Context, service: Service, *, target: int, digest: str, policy: RolloutPolicy, recorded: str, replicas: int
) -> Simulation:
    """Simulate a canary of `target` on recorded requests of the service.

    Parameters
    ----------
    recorded : str
        A time such as ``24h``: the service's own prediction log; or a file of the same columns.

    Raises
    ------
    Refused
        When there is nothing to compare with, or a package runs code.
    InvalidInput
        When nothing was recorded, or it does not fit the models.
    """
    from mlcycle_nb.deployment.recorded import answer
    from mlcycle_nb.deployment.simulation import simulate
    from mlcycle_nb.packages import PackageStore

    if service.stable is None:
        raise Refused(f"nothing is stable in {service.environment}: a simulation compares two versions")
    if service.stable == target:
        raise Refused(f"{service.model}/{target} is stable in {service.environment} already", remedy="nothing to do")
    packages = PackageStore(context.folder("packages"))
    stable = context.store.get(Revision, revision_id(service.environment, service.model, service.stable))
    new = packages.open(digest)
    answered = answer(_table(context, service, recorded), {service.stable: packages.open(stable.digest), target: new})
    # How long a replica would have taken is only estimated, so it is shown and decides nothing.
    watched = tuple(dict.fromkeys((*policy.watched, "latency")))
    record = Rollout(
        id=f"{service.id}/simulated",
        phase="preparing",
        created_at=context.clock.now(),
        phase_since=context.clock.now(),
        environment=service.environment,
        model=service.model,
        target=target,
        digest=digest,
        strategy=DeploymentStrategy.CANARY,
        replicas=replicas,
        policy=replace(policy, watched=watched),
        actor=context.actor,
        pid=os.getpid(),
        base=service.stable,
        base_replicas=max(stable.replicas, 1),
    )
    return simulate(record, answered, classes=len(new.class_names))


def _table(context: Context, service: Service, recorded: str) -> pa.Table:
    from mlcycle_nb.deployment.recorded import read_file
    from mlcycle_nb.serving.prediction_log import read_predictions

    if recorded.endswith((".parquet", ".arrow")) or "/" in recorded:
        return read_file(Path(recorded).expanduser())
    try:
        span = parse_duration(recorded, what="--simulate")
    except InvalidInput as unread:
        raise InvalidInput(
            "--simulate takes a time such as 24h, or a recording", value=recorded, remedy=".parquet or .arrow"
        ) from unread
    # The log is stamped by the machine's clock, whatever the workspace's clock says.
    log = context.folder("predictions")
    table = read_predictions(log, service.environment, service.model, since=datetime.now(UTC) - span)
    return table.slice(max(table.num_rows - SIMULATED, 0))
