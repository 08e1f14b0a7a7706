"""Production with the real registry and the real gates."""

from __future__ import annotations

import pytest

from mlcycle_nb.errors import Refused
from mlcycle_nb.packages import PackageStore
from mlcycle_nb.workspace import Workspace

from .conftest import Built, Deployed

pytestmark = pytest.mark.timeout(200)


def test_promotion_moves_the_champion(workspace: Workspace, deployed: Deployed, built: Built) -> None:
    """Without a verdict production is closed; forced with a reason, the alias follows what serves."""
    packages = PackageStore(workspace.context.folder("packages"))
    for version in (1, 2):
        workspace.development.register_model("digits", packages.open(built.digests[version]))
    manager = workspace.deployment
    with pytest.raises(Refused, match=r"digits/1 may not go to production: .*no verdict"):
        manager.deploy_model("digits/1", "production")

    for version in (1, 2):
        record = manager.deploy_model(
            f"digits/{version}", "production", "all-at-once", replicas=1, force=True, reason="rehearsal"
        ).wait(90)
        assert record.phase == "completed", record.reason
        assert workspace.development.get_version("digits@champion").version == version

    manager.rollback_deployment("digits").wait(60)

    assert workspace.development.get_version("digits@champion").version == 1
    with manager.client("digits") as client:
        assert client.predict(built.rows[:1]).version == 1
