"""What people see: magic, panel, charts, tables."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from IPython.testing.globalipapp import start_ipython

from mlcycle_nb.errors import InvalidInput
from mlcycle_nb.notebook.charts import spec, to_svg
from mlcycle_nb.retirement import charts
from mlcycle_nb.retirement.magic import RetirementMagics
from mlcycle_nb.retirement.panel import RetirementPanel
from tests.unit.retirement.conftest import Retiring


@pytest.fixture
def magic(retiring: Retiring) -> RetirementMagics:
    """The magics over the scripted world."""
    shell = start_ipython() or __import__("IPython").get_ipython()
    development = SimpleNamespace(models=list, versions=lambda name: [])
    workspace = SimpleNamespace(retirement=retiring.service, development=development, context=retiring.context)
    return RetirementMagics(shell, lambda: workspace)


class TestMagic:
    def test_a_retirement_from_plan_to_cancel(self, magic: RetirementMagics, retiring: Retiring) -> None:
        """Each verb is one line."""
        retiring.call("billing")
        plan = magic.retire('plan digits/1 --replacement digits/2 --over 28d --steps 75,50,25,0 --reason "better one"')
        assert plan.record.phase == "planned"
        assert "billing" in repr(plan)
        magic.retire("execute digits/1 --env production --no-wait")
        retiring.settle(plan.id)
        assert "not acknowledged yet by billing" in repr(magic.retire("status digits/1 --no-wait"))
        assert magic.retire("ack digits/1 --consumer billing --by ada").consumers[0].by == "ada"
        assert magic.retire('note digits/1 --field migration --text "call 2"').record.notes == {"migration": "call 2"}
        assert "call 2" in magic.retire("handover digits/1")
        assert [one.id for one in magic.retire("list digits")] == [plan.id]
        magic.retire('cancel digits/1 --reason "not yet" --no-wait')
        retiring.settle(plan.id)
        assert magic.retire("status digits/1 --no-wait").record.phase == "cancelled"

    @pytest.mark.parametrize(
        ("line", "says"),
        [
            ("plan", "needs NAME/VERSION"),
            ("plan digits/1", "needs a reason"),
            ("plan digits/1 --over 3 fortnights --reason x", "unrecognized arguments|not a number"),
            ("plan digits/1 --over 0s --reason x", "out of range"),
            ("plna digits/1", "did you mean 'plan'"),
            ("plan digits/1 --replacment digits/2", "did you mean '--replacement'"),
            ("ack digits/1", "needs --consumer"),
            ("note digits/1", "needs --field"),
        ],
    )
    def test_slips_are_refused_in_one_line(
        self, magic: RetirementMagics, retiring: Retiring, line: str, says: str
    ) -> None:
        """With the option, the value and what to do."""
        with pytest.raises(InvalidInput, match=says) as refused:
            magic.retire(line)

        assert "\n" not in str(refused.value)


class TestFaces:
    def test_the_panel_has_text_html_and_charts(self, retiring: Retiring) -> None:
        """What users typed is inert in HTML."""
        retiring.call("billing")
        id = retiring.start(reason="<script>alert(1)</script>").id
        retiring.settle(id)
        panel = RetirementPanel(retiring.service, id)
        html = panel.to_html()

        assert "<script>" not in html
        assert "billing" in html
        assert "ramp to 75 %" in repr(panel)
        assert "waits for: ramp to 75 %, not before 2026-01-08 00:00:00; not acknowledged yet by billing" in repr(panel)
        assert len(panel.charts(panel.snapshot())) == 2
        assert [action.label for action in panel.actions(panel.snapshot())] == ["Cancel"]

    def test_the_ramp_shows_plan_and_progress(self, retiring: Retiring) -> None:
        """Two lines; the done one ends now."""
        id = retiring.start().id
        retiring.settle(id)
        retiring.pass_time(id, days=7)
        rows = spec(charts.ramp(retiring.record(id), retiring.clock.now()))["data"]["values"]

        assert [row["share"] for row in rows if row["line"] == "planned"] == [100, 75, 50, 25, 0, 0]
        assert [row["share"] for row in rows if row["line"] == "done"] == [100, 75, 75]
        assert to_svg(charts.ramp(retiring.record(id), retiring.clock.now())).startswith("<svg")

    def test_a_finished_retirement_shows_its_proof(self, retiring: Retiring) -> None:
        """Archive, golden rows, clean-up; and no buttons any more."""
        record = retiring.finish(retiring.start().id)
        panel = RetirementPanel(retiring.service, record.id)

        assert "golden rows answered" in repr(panel)
        assert panel.finished(panel.snapshot())
        assert panel.actions(panel.snapshot()) == ()
        assert "passed" in repr(retiring.service.verify(record.id))
        assert "passed" in retiring.service.verify(record.id)._repr_html_()

    def test_the_status_is_plain_json(self, retiring: Retiring) -> None:
        """For the command line and the side bar."""
        import json

        status = retiring.service.status(retiring.start().id)

        assert json.loads(json.dumps(status.to_dict()))["record"]["phase"] == "ramping"
