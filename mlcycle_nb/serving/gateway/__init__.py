"""The gateway: one Envoy for each environment, driven by files that it watches."""

from mlcycle_nb.serving.gateway.access_log import AccessBatch, AccessLogReader, AccessRow, RequestTotals, totals
from mlcycle_nb.serving.gateway.gateway import Applied, Gateway
from mlcycle_nb.serving.gateway.plan import WHOLE, GatewayPlan, PinnedPlan, RevisionCluster, ServicePlan

__all__ = [
    "WHOLE",
    "AccessBatch",
    "AccessLogReader",
    "AccessRow",
    "Applied",
    "Gateway",
    "GatewayPlan",
    "PinnedPlan",
    "RequestTotals",
    "RevisionCluster",
    "ServicePlan",
    "totals",
]
