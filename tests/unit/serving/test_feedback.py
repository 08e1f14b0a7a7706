"""Labels over HTTP: read strictly, refused by item, stored once."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mlcycle_nb.clock import SystemClock
from mlcycle_nb.serving import label_desk, labels
from mlcycle_nb.serving.feedback import ITEMS, read_feedback
from mlcycle_nb.serving.intake import IntakeApp
from mlcycle_nb.serving.label_desk import LabelDesk
from mlcycle_nb.serving.labels import Label, LabelStore, as_index, same_label
from mlcycle_nb.serving.limits import Limits
from mlcycle_nb.serving.refusals import Problem
from mlcycle_nb.testing.predictions import PredictionFeed

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
PATH = "/v2/models/credit/feedback"


def body(*items: Any) -> bytes:
    return json.dumps({"feedback": list(items)}).encode()


class TestReading:
    def test_what_may_be_said(self) -> None:
        found = read_feedback(
            body(
                {"id": "a", "label": "yes"},
                {"id": "b", "label": 1, "row": 3},
                {"id": "c", "label": 0.5, "at": "2026-03-01T10:00:00+01:00"},
                {"id": "d", "label": True},
            ),
            NOW,
        )

        assert found == [
            Label("a", 0, "yes"),
            Label("b", 3, "1"),
            Label("c", 0, "0.5", datetime(2026, 3, 1, 9, tzinfo=UTC)),
            Label("d", 0, "1"),
        ]

    @pytest.mark.parametrize(
        ("text", "status", "detail"),
        [
            (b"", 400, "empty"),
            (b"{", 400, "not JSON"),
            (b'{"feedback": [], "feedback": []}', 400, "given twice"),
            (b"[1]", 422, "send an object"),
            (b'{"feedbak": []}', 422, "did you mean 'feedback'"),
            (b'{"feedback": []}', 422, "at least one label"),
            (b'{"feedback": {"a": 1}}', 422, "at least one label"),
            (b'{"feedback": ["a"]}', 422, "is not an object"),
            (b'{"feedback": [{"id": "a", "label": NaN}]}', 422, "no finite number"),
            (body({"id": "a"}), 422, "feedback[0].label: is missing"),
            (body({"label": 1}), 422, "feedback[0].id: is missing"),
            (body({"id": "a", "label": 1, "lable": 1}), 422, "did you mean 'label'"),
            (body({"id": 1, "label": 1}), 422, "is not a text"),
            (body({"id": "a\nb", "label": 1}), 422, "characters that no prediction id has"),
            (body({"id": "a", "label": 1}, {"id": " ", "label": 1}), 422, "feedback[1]: an empty cell"),
            (body({"id": "a", "label": None}), 422, "no text, number"),
            (body({"id": "a", "label": [1]}), 422, "no text, number"),
            (body({"id": "a", "label": "nan"}), 422, "not a label"),
            (body({"id": "a", "label": "x" * 201}), 422, "over 200"),
            (body({"id": "a", "label": 1, "row": -1}), 422, "whole number"),
            (body({"id": "a", "label": 1, "row": True}), 422, "whole number"),
            (body({"id": "a", "label": 1, "row": 2**31}), 422, "whole number"),
            (body({"id": "a", "label": 1, "at": 5}), 422, "time as text"),
            (body({"id": "a", "label": 1, "at": ""}), 422, "time as text"),
            (body({"id": "a", "label": 1, "at": "yesterday"}), 422, "at is not a time"),
            (body({"id": "a", "label": 1, "at": "0001-01-01T00:00:00+14:00"}), 422, "at is not a time"),
            (body({"id": "a", "label": 1, "at": "2026-03-01T10:00:00"}), 422, "no offset"),
            (body({"id": "a", "label": 1, "at": "2026-03-01T13:00:00Z"}), 422, "in the future"),
        ],
    )
    def test_one_fault_refuses_the_whole_request(self, text: bytes, status: int, detail: str) -> None:
        with pytest.raises(Problem) as caught:
            read_feedback(text, NOW)

        assert caught.value.status == status
        assert detail in json.loads(caught.value.body())["detail"]

    def test_too_many_items(self) -> None:
        with pytest.raises(Problem, match="over 10000 labels"):
            read_feedback(body(*[{"id": "a", "label": 1}] * (ITEMS + 1)), NOW)

    def test_equal_numbers_are_one_label(self) -> None:
        assert same_label("1", "1.0")
        assert not same_label("1", "yes")
        assert as_index("3.0", ("3", "5")) == as_index("3", ("3", "5")) == 0.0
        assert as_index("1", ("3", "5")) == 1.0


@pytest.fixture
def logged(tmp_path: Path) -> list[str]:
    """Ids of twenty logged predictions of version 1 and five of version 2."""
    ids: list[str] = []
    for version, count in ((1, 20), (2, 5)):
        feed = PredictionFeed(tmp_path, "production", "credit", version)
        names = [f"v{version}-{number}" for number in range(count)]
        feed.send(np.zeros((count, 2), np.float32), {"label": np.zeros(count, np.int64)}, ids=names)
        ids += names
    return ids


@pytest.fixture
def desk(tmp_path: Path) -> LabelDesk:
    return LabelDesk(tmp_path, "production", SystemClock())


def stored(home: Path) -> dict[tuple[str, int], str]:
    table = LabelStore(home / "labels", "production", "credit").all()
    assert table is not None
    keys = zip(table["prediction_id"].to_pylist(), table["row"].to_pylist(), strict=True)
    return dict(zip(keys, table["truth"].to_pylist(), strict=True))


class TestDesk:
    def test_sent_twice_is_recorded_once(self, desk: LabelDesk, tmp_path: Path, logged: list[str]) -> None:
        sent = [Label(key, 0, "1") for key in logged]
        [first] = desk.take("credit", [sent])
        [again] = desk.take("credit", [sent])
        [elsewhere] = LabelDesk(tmp_path, "production", SystemClock()).take("credit", [sent])

        assert (first.recorded, first.repeated, first.unknown, first.status) == (25, 0, [], 200)
        assert (again.recorded, again.repeated, elsewhere.repeated) == (0, 25, 25)
        assert len(list((tmp_path / "labels" / "production" / "credit").iterdir())) == 1

    def test_unknown_predictions_are_kept_and_said(self, desk: LabelDesk, tmp_path: Path, logged: list[str]) -> None:
        [found] = desk.take("credit", [[Label("v1-0", 0, "1"), Label("v1-0", 7, "1"), Label("nobody", 0, "0")]])

        assert found.to_json() == {
            "recorded": 3, "repeated": 0, "refused": 0, "unknown": 2,
            "unknown_ids": ["nobody", "v1-0"], "conflicts": [],
        }  # fmt: skip
        assert stored(tmp_path)["nobody", 0] == "0"

    def test_a_conflict_refuses_the_item_alone(self, desk: LabelDesk, tmp_path: Path, logged: list[str]) -> None:
        desk.take("credit", [[Label("v1-0", 0, "1")]])
        [found] = desk.take("credit", [[Label("v1-1", 0, "1"), Label("v1-0", 0, "0"), Label("v1-0", 0, "1.0")]])
        [torn] = desk.take("credit", [[Label("v1-2", 0, "0"), Label("v1-2", 0, "1")]])

        assert (found.recorded, found.refused, found.status) == (1, 2, 207)
        assert found.to_json()["conflicts"][0]["item"] == "feedback[1]"
        assert (torn.recorded, torn.refused, torn.status) == (0, 2, 409)
        assert stored(tmp_path) == {("v1-0", 0): "1", ("v1-1", 0): "1"}

    def test_requests_that_wait_together_are_stored_together(
        self, desk: LabelDesk, tmp_path: Path, logged: list[str]
    ) -> None:
        first, other, same = desk.take(
            "credit", [[Label("v1-0", 0, "1")], [Label("v1-0", 0, "0")], [Label("v1-0", 0, "1"), Label("v2-1", 0, "1")]]
        )

        assert (first.status, other.status, same.status) == (200, 409, 200)
        assert (same.recorded, same.repeated) == (1, 1)
        assert len(list((tmp_path / "labels" / "production" / "credit").iterdir())) == 1

    def test_a_correction_by_file_is_what_counts_afterwards(self, desk: LabelDesk, tmp_path: Path) -> None:
        desk.take("credit", [[Label("a", 0, "1")]])
        LabelStore(tmp_path / "labels", "production", "credit").add([Label("a", 0, "0")], NOW)
        [found] = desk.take("credit", [[Label("a", 0, "0")]])

        assert found.repeated == 1

    @pytest.mark.parametrize("mapped", [0, 1, 100])
    def test_many_files_are_read_as_one(
        self, desk: LabelDesk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mapped: int
    ) -> None:
        """Copied, or mapped anew after they were folded, or mapped one by one."""
        monkeypatch.setattr(label_desk, "_FILES_KEPT", 3)
        monkeypatch.setattr(label_desk, "_MAPPED", mapped)
        monkeypatch.setattr(labels, "FOLD_FILES", 2)
        store = LabelStore(tmp_path / "labels", "production", "credit")
        for number in range(10):
            desk.take("credit", [[Label(f"p{number}", 0, "1")]])
            if mapped == 1:
                store.fold(store.names()[-1])
        [found] = desk.take("credit", [[Label(f"p{number}", 0, "1") for number in range(10)]])

        assert found.repeated == 10

    def test_stored_labels_are_not_kept_in_memory(self, desk: LabelDesk, tmp_path: Path) -> None:
        """They are mapped: fifty bytes a label would be half a gigabyte for ten million."""
        store = LabelStore(tmp_path / "labels", "production", "credit")
        store.add([Label(f"prediction-{number}", 0, "1") for number in range(100_000)], NOW)
        before = pa.total_allocated_bytes()
        [found] = desk.take("credit", [[Label("prediction-77", 0, "0")]])

        assert found.refused == 1
        assert pa.total_allocated_bytes() - before < 100_000

    def test_the_time_that_was_told_is_the_label_s(self, desk: LabelDesk, tmp_path: Path) -> None:
        desk.take("credit", [[Label("a", 0, "1", NOW), Label("b", 0, "1")]])
        table = LabelStore(tmp_path / "labels", "production", "credit").all()
        assert table is not None
        at = dict(zip(table["prediction_id"].to_pylist(), table["received_at"].to_pylist(), strict=True))

        assert at["a"] == NOW
        assert abs(at["b"] - datetime.now(UTC)) < timedelta(minutes=1)


async def ask(
    app: IntakeApp, content: bytes, method: str = "POST", path: str = PATH, **headers: str
) -> tuple[int, Any]:
    sent: list[Any] = []
    messages = [{"type": "http.request", "body": content, "more_body": False}]

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    await app({"type": "http", "method": method, "path": path, "headers": raw}, receive, send)
    return sent[0]["status"], json.loads(sent[1]["body"])


class TestAnswers:
    def test_refusals(self, desk: LabelDesk) -> None:
        app = IntakeApp(desk, SystemClock(), Limits(body_bytes=200))
        good = body({"id": "a", "label": 1})
        for answer, status in [
            (ask(app, good, path="/v2/models/credit/infer"), 404),
            (ask(app, good, path="/v2/models/../feedback"), 404),
            (ask(app, good, method="GET"), 405),
            (ask(app, good, content_type="text/csv"), 415),
            (ask(app, good, content_encoding="gzip"), 415),
            (ask(app, good + b" " * 200), 413),
            (ask(app, b"{}"), 422),
        ]:
            assert asyncio.run(answer)[0] == status

    def test_a_disk_that_cannot_be_written_is_said_and_the_next_turn_tries_again(
        self, desk: LabelDesk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def turn() -> list[Any]:
            app = IntakeApp(desk, SystemClock())
            with monkeypatch.context() as patch:
                patch.setattr(LabelStore, "add", _full)
                failed = await asyncio.gather(*(ask(app, body({"id": f"p{n}", "label": 1})) for n in range(5)))
            return [*failed, await ask(app, body({"id": "p0", "label": 1}))]

        *failed, good = asyncio.run(turn())

        assert {status for status, _ in failed} == {503}
        assert failed[0][1]["reason"] == "not_stored"
        assert (good[0], good[1]["recorded"]) == (200, 1)

    def test_what_arrives_together_is_answered_one_by_one(self, desk: LabelDesk, tmp_path: Path) -> None:
        async def turn() -> list[Any]:
            app = IntakeApp(desk, SystemClock())
            return await asyncio.gather(*(ask(app, body({"id": f"p{n}", "label": n})) for n in range(200)))

        answers = asyncio.run(turn())

        assert {(status, form["recorded"]) for status, form in answers} == {(200, 1)}
        assert len(stored(tmp_path)) == 200
        assert len(list((tmp_path / "labels" / "production" / "credit").iterdir())) < 20


def _full(*_: Any) -> str:
    raise OSError(28, "No space left on device")
