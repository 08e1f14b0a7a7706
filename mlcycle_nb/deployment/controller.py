"""What the supervisor runs for deployment."""

from __future__ import annotations

import logging

from mlcycle_nb.context import Context
from mlcycle_nb.deployment.gateway_controller import GatewayController
from mlcycle_nb.deployment.revision_controller import RevisionController
from mlcycle_nb.deployment.rollout_controller import RolloutController
from mlcycle_nb.supervisor.controller import Controller


def build(context: Context) -> list[Controller]:
    """Return the controllers of gateways, revisions and rollouts."""
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it would log every self-test of a replica
    return [GatewayController(context), RevisionController(context), RolloutController(context)]
