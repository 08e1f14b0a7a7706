"""The access log is read whole: over torn lines, rotations and lines that are no record."""

from __future__ import annotations

import json

import pytest

from mlcycle_nb.errors import InvalidInput
from mlcycle_nb.serving.gateway.access_log import AccessLogReader, RequestTotals, rotate, totals
from mlcycle_nb.serving.gateway.bootstrap import ACCESS_LOG_FIELDS


def line(number=0, **fields):
    entry = {
        "time": f"1795418358.{number:06d}",
        "request_id": f"id-{number}",
        "route": "default:digits",
        "cluster": "digits/7",
        "answered_by": "digits/7",
        "consumer": "notebook",
        "method": "POST",
        "path": "/v2/models/digits/infer",
        "status": 200,
        "flags": "-",
        "details": "via_upstream",
        "duration_us": 1500,
        "attempts": 1,
        "bytes_received": 2,
        "bytes_sent": 3,
    }
    assert entry.keys() == ACCESS_LOG_FIELDS.keys()
    return json.dumps({**entry, **fields}) + "\n"


@pytest.fixture
def log(tmp_path):
    return tmp_path / "access.log"


@pytest.fixture
def reader(tmp_path):
    return AccessLogReader(tmp_path)


def ids(batch):
    return [row.request_id for row in batch.rows]


class TestReader:
    def test_no_log_yet(self, reader):
        """Nothing is there, nothing is missed."""
        batch = reader.read()
        assert (batch.rows, batch.unreadable, batch.missed) == ((), 0, False)

    def test_torn_last_line(self, reader, log):
        """A half-written line waits for its other half."""
        whole = line(0) + line(1)
        log.write_text(whole[:-20])
        first = reader.read()
        assert ids(first) == ["id-0"]
        log.write_text(whole)
        assert ids(reader.read(first.position)) == ["id-1"]

    def test_every_cut(self, reader, log):
        """Wherever the writer stopped, each row comes once and in order."""
        whole = line(0) + line(1) + line(2)
        for cut in range(len(whole)):
            log.write_text(whole[:cut])
            first = reader.read()
            log.write_text(whole)
            assert ids(first) + ids(reader.read(first.position)) == ["id-0", "id-1", "id-2"]

    def test_lines_that_are_no_record(self, reader, log):
        """They are counted and passed over."""
        log.write_text("not json\n" + line(0) + '{"time": 1}\n' + "null\n" + line(1, time="soon"))
        batch = reader.read()
        assert (ids(batch), batch.unreadable) == (["id-0"], 4)

    def test_limit(self, reader, log):
        """A large log is read in parts, each of whole lines."""
        log.write_text("".join(line(n) for n in range(10)))
        position, seen = None, []
        while batch := reader.read(position, limit_bytes=len(line(0)) * 3 + 5):
            if not batch.rows:
                break
            assert len(batch.rows) <= 3
            seen += ids(batch)
            position = batch.position
        assert seen == [f"id-{n}" for n in range(10)]

    @pytest.mark.parametrize("position", ["", "1", "1:-1", "a:b", "1:2:3", "1:٣"])
    def test_position_is_checked(self, reader, position):
        """A position from elsewhere is refused."""
        with pytest.raises(InvalidInput):
            reader.read(position)


class TestRotation:
    def test_rows_once_over_rotations(self, reader, log, tmp_path):
        """A reader that stopped in one file goes on in the next ones."""
        log.write_text(line(0) + line(1))
        first = reader.read(limit_bytes=len(line(0)))
        assert rotate(tmp_path, max_bytes=1, keep=8)
        log.write_text(line(2))
        assert rotate(tmp_path, max_bytes=1, keep=8)
        log.write_text(line(3))
        seen, position = ids(first), first.position
        for _ in range(4):
            batch = reader.read(position)
            assert not batch.missed
            seen += ids(batch)
            position = batch.position
        assert seen == ["id-0", "id-1", "id-2", "id-3"]

    def test_renamed_but_not_reopened(self, reader, log, tmp_path):
        """Until the new file is there, the old one still grows and is not left."""
        log.write_text(line(0))
        assert rotate(tmp_path, max_bytes=1, keep=8)
        first = reader.read()
        assert ids(first) == ["id-0"]
        assert reader.read(first.position).position == first.position
        with (tmp_path / "access.000001.log").open("a") as stream:
            stream.write(line(1))
        assert ids(reader.read(first.position)) == ["id-1"]

    def test_rotated_away(self, reader, log, tmp_path):
        """Rows that were deleted before they were read are said to be missed."""
        log.write_text(line(0))
        position = reader.read(limit_bytes=1).position
        for number in range(1, 5):
            assert rotate(tmp_path, max_bytes=1, keep=1)
            log.write_text(line(number))
        batch = reader.read(position.replace("0:", "1:", 1))
        assert batch.missed
        assert ids(batch)[0] != "id-0"

    def test_small_log_stays(self, log, tmp_path):
        """A log under the size is not set aside."""
        log.write_text(line(0))
        assert not rotate(tmp_path, max_bytes=10_000, keep=1)
        assert log.exists()


class TestRow:
    def row(self, reader, log, **fields):
        log.write_text(line(0, **fields))
        (row,) = reader.read().rows
        return row

    def test_served(self, reader, log):
        """Milliseconds, an aware time, and who answered."""
        row = self.row(reader, log)
        assert (row.model, row.version, row.answered_by, row.duration_ms) == ("digits", 7, 7, 1.5)
        assert row.time.isoformat() == "2026-11-23T07:19:18+00:00"
        assert row.from_replica
        assert not row.gateway_made
        assert not row.fell_back

    def test_fell_back(self, reader, log):
        """The chosen version is charged, the other one answered."""
        row = self.row(reader, log, cluster="digits/8~7", answered_by="digits/7", attempts=3)
        assert (row.version, row.answered_by, row.fell_back, row.gateway_made) == (8, 7, True, False)

    def test_gateway_made(self, reader, log):
        """No replica answered: the gateway's error, charged to the version that was chosen."""
        row = self.row(reader, log, status=503, details="no_healthy_upstream", flags="UH", answered_by=None)
        assert (row.version, row.answered_by, row.gateway_made, row.flags) == (7, None, True, "UH")

    def test_refused(self, reader, log):
        """A request that was refused before a replica was chosen is nobody's."""
        row = self.row(reader, log, status=401, details="missing_api_key", consumer=None, attempts=0, answered_by=None)
        assert (row.version, row.consumer, row.gateway_made) == (None, None, False)

    def test_unreadable_request(self, reader, log):
        """What Envoy could not parse has no names at all."""
        row = self.row(
            reader, log, status=400, details="http1.codec_error", route=None, cluster=None, answered_by=None,
            consumer=None, method=None, path=None, request_id=None, attempts=0, duration_us=None,
        )  # fmt: skip
        assert (row.route, row.model, row.version, row.duration_ms, row.request_id) == ("none", None, None, None, "")

    def test_pinned(self, reader, log):
        """The version in the address is kept beside the one that answered."""
        row = self.row(reader, log, route="pinned:digits:6")
        assert (row.route, row.requested_version, row.version) == ("pinned", 6, 7)

    def test_totals(self, reader, log):
        """Errors of the model, of the gateway and of the caller are counted apart."""
        log.write_text(
            line(0)
            + line(1, status=500)
            + line(2, status=422)
            + line(3, status=503, details="no_healthy_upstream")
            + line(4, cluster="digits/8~7")
            + line(5, status=401, attempts=0, details="missing_api_key")
        )
        assert totals(reader.read().rows) == {
            ("digits", 7): RequestTotals(requests=4, model_errors=1, gateway_errors=1, client_errors=1),
            ("digits", 8): RequestTotals(requests=1, fell_back=1),
        }
