"""A consumer's key works from the moment it is shown."""

from __future__ import annotations

import httpx

from tests.e2e.conftest import ENVIRONMENT, MODEL, Served


def test_five_new_keys_are_taken_at_once(served: Served) -> None:
    """No first request is refused because the gateway had not heard of the key yet."""
    path = f"{served.url}/v2/models/{MODEL}"
    for number in range(5):
        made = served.workspace.deployment.add_consumer(f"newcomer-{number}", ENVIRONMENT)
        answer = httpx.get(path, headers={"authorization": f"Bearer {made.key}"}, trust_env=False)
        assert answer.status_code == 200
        served.workspace.deployment.revoke_consumer(made.name, ENVIRONMENT)
    assert httpx.get(path, headers={"authorization": "Bearer nobody"}, trust_env=False).status_code == 401
