"""A whole retirement with the real supervisor, gateway and replicas: four weeks in seconds."""

from __future__ import annotations

import pytest

from mlcycle_nb.errors import NotFound, Refused
from tests.process.retirement.conftest import ENVIRONMENT, Served, until


@pytest.mark.timeout(600)
def test_pinned_calls_ramp_to_the_replacement_then_410_and_the_archive_answers(served: Served) -> None:
    """Every share is seen in real answers; a kill -9 of the supervisor on the way changes nothing."""
    ws = served.workspace
    assert served.answers(20) == {"1": 20}
    until(lambda: bool(ws.retirement._traffic.callers(ENVIRONMENT, "digits", 1)))
    plan = ws.retirement.plan_retirement(
        "digits/1", environment=ENVIRONMENT, replacement="digits/2", reason="version 2 is better", notify=["log"]
    )
    assert [one.name for one in plan.consumers] == ["billing"]
    id = ws.retirement.execute_retirement(plan.id).id
    served.until_in_force(id, 10_000)
    answer = served.ask()[0]
    assert answer.headers["deprecation"].startswith("@")
    assert answer.headers["sunset"].endswith("GMT")
    assert answer.headers["link"] == '</v2/models/digits/versions/2>; rel="successor-version"'
    with pytest.raises(Refused, match="retire"):
        ws.deployment.deploy_model("digits/1", ENVIRONMENT)

    served.pass_time(days=7)
    until(lambda: served.record(id).phase == "paused")
    assert served.answers(40) == {"1": 40}
    ws.retirement.acknowledge(id, "billing", note="moving")

    for week, (share, expected) in enumerate([(7500, 50), (5000, 100), (2500, 150)]):
        if week:
            served.pass_time(days=7)
        if week == 2:
            served.kill_supervisor()
        served.until_in_force(id, share)
        found = served.answers(200)
        # Five standard deviations of a fair draw are at most 36 of 200.
        assert abs(found["2"] - expected) < 36, (share, found)
    served.pass_time(days=7)
    served.until_in_force(id, 0)
    last = served.ask(50)
    assert {(a.status_code, a.headers.get("x-model-version")) for a in last} <= {(200, "2"), (410, None)}

    until(lambda: served.ask()[0].status_code == 410)
    gone = served.ask()[0]
    assert gone.json()["successor"] == "digits/2"
    assert "successor-version" in gone.headers["link"]

    until(lambda: served.record(id).phase == "handover")
    ws.retirement.note(id, "migration", "call version 2: same inputs and outputs")
    ws.retirement.note(id, "contact", "the digits team")
    until(lambda: served.record(id).phase == "clearing", 60)
    receipt = served.record(id).archive
    assert receipt is not None
    assert receipt.verified_at is not None
    assert receipt.golden_rows > 0
    until(lambda: not ws.context.processes.names(f"replica-{ENVIRONMENT}.digits.1."), 60)

    served.pass_time(days=7)
    record = ws.retirement.handle(id).wait(60)
    assert record.phase == "completed"
    verification = ws.retirement.verify(id)
    assert verification.passed, verification
    assert ws.verify_audit().intact
    assert (ws.home / "logs" / "alerts.log").read_text().count("retirement") >= 4
    with pytest.raises((NotFound, Refused)):
        ws.deployment.deploy_model("digits/1", ENVIRONMENT)

    restored = ws.retirement.restore(id, reason="an auditor wants to see it answer").wait(90)
    assert restored.phase == "restored", restored
    assert served.answers(10) == {"1": 10}


@pytest.mark.timeout(600)
def test_a_cancelled_ramp_gives_the_address_back(served: Served) -> None:
    """Split and headers are as before, seen in real answers."""
    ws = served.workspace
    id = ws.retirement.plan_retirement(
        "digits/1", environment=ENVIRONMENT, replacement="digits/2", reason="too early, as it turns out"
    ).id
    ws.retirement.execute_retirement(id)
    served.until_in_force(id, 10_000)
    served.pass_time(days=7)
    served.until_in_force(id, 7500)
    record = ws.retirement.cancel(id, reason="too early").wait(60)

    assert record.phase == "cancelled"
    assert served.answers(30) == {"1": 30}
    assert "sunset" not in served.ask()[0].headers
    ws.deployment.deploy_model("digits/1", ENVIRONMENT).wait(60)
