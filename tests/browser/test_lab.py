"""Magics and panels in a real JupyterLab."""

from __future__ import annotations

from mlcycle_nb.workspace import Workspace
from tests.browser.conftest import Lab


def test_the_doctor_shows_its_table(lab: Lab) -> None:
    """A newcomer's first call shows an HTML table and asks no other host."""
    lab.open("first.ipynb", ["%load_ext mlcycle_nb", "%mlcycle doctor"])
    lab.run(0)
    lab.run(1)

    lab.wait_for_text("Envoy")

    assert lab.output(1).get_by_role("table").count() == 1
    assert lab.outside == []


def test_a_refusal_is_one_line(lab: Lab) -> None:
    """A wrong word shows our one line and no stack of ours."""
    lab.open("refused.ipynb", ["%load_ext mlcycle_nb", "%mlcycle statsu"])
    lab.run(0)
    lab.run(1, wait=False)

    lab.wait_for_text("did you mean 'status'")

    assert "Traceback" not in lab.output(1).inner_text()
    with Workspace.open(lab.root / ".mlcycle") as workspace:
        assert workspace.verify_audit().intact
