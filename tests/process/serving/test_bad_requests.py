"""Bad requests to a real replica: always a 4xx with its reason, never a 500, and the replica goes on."""

from __future__ import annotations

import json
import socket
import struct
import time
from typing import Any

import numpy as np
import pytest

from .conftest import Replica

pytestmark = pytest.mark.timeout(120)
URL = "/v2/models/digits/infer"
ROW = ["0.5"] * 64


def request(data: str | None = None, **changes: Any) -> bytes:
    """Return an infer body whose data is the given JSON text."""
    tensor = {"name": "input", "datatype": "FP32", "shape": [1, 64], "data": "@", **changes.pop("tensor", {})}
    text = json.dumps({"inputs": [tensor], **changes})
    return text.replace('"@"', data if data is not None else "[" + ",".join(ROW) + "]").encode()


def row(value: str, at: int = 3) -> str:
    return "[" + ",".join([*ROW[:at], value, *ROW[at + 1 :]]) + "]"


@pytest.fixture(autouse=True)
def still_serving(replica: Replica) -> Any:
    """After each bad request a good one is answered, and no error was the replica's own."""
    yield
    assert replica.infer(np.ones((1, 64))).status_code == 200
    text = replica.http.get("/metrics").text
    assert 'status="500"' not in text


BODIES = {
    "43 NaN": (request(row("NaN")), 422, "not_finite", "$.inputs[0].data[3]"),
    "43 Infinity": (request(row("Infinity")), 422, "not_finite", "$.inputs[0].data[3]"),
    "43 -Infinity": (request(row("-Infinity")), 422, "not_finite", "$.inputs[0].data[3]"),
    "43 1e999": (request(row("1e999")), 422, "not_finite", "$.inputs[0].data[3]: 1e999"),
    "43 text nan": (request(row('"nan"')), 422, "wrong_type", "$.inputs[0].data[3]: a text is not a number"),
    "43 beyond float32": (request(row("1e39")), 422, "not_finite", "row 0, value 3"),
    "44 5000 digits": (request(row("9" * 5000)), 422, "not_finite", "$.inputs[0].data[3]"),
    "45 deep": (b"[" * 100_000, 400, "too_deep", "deeper than 32"),
    "45 deep and closed": (b"[" * 33 + b"]" * 33, 400, "too_deep", "deeper than 32"),
    "45 deep objects": (b'{"a":' * 40 + b"1" + b"}" * 40, 400, "too_deep", "deeper than 32"),
    "45 deep, brackets in texts": (
        request(id="]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]", parameters={"a": "#"}).replace(
            b'"#"', b"[" * 40 + b"]" * 40
        ), 400, "too_deep", "deeper than 32",
    ),
    "46 duplicate key": (request().replace(b'"shape"', b'"name": "input", "shape"'), 400, "duplicate_key", "'name'"),
    "46 duplicate key in a row": (request(row('{"a":1,"a":2}')), 400, "duplicate_key", "'a'"),
    "46 duplicate key, escaped": (
        request().replace(b'"shape"', b'"n\\u0061me": "x", "shape"'), 400, "duplicate_key", "name",
    ),
    "47 invalid UTF-8": (request(id="x").replace(b'"x"', b'"\xff"'), 400, "bad_encoding", "UTF-8"),
    "47 lone surrogate": (request(id="x").replace(b'"x"', b'"\\ud800"'), 400, "bad_encoding", "surrogate"),
    "47 empty": (b"", 400, "empty_body", "empty"),
    "47 blank": (b" \n", 400, "empty_body", "empty"),
    "47 byte-order mark": (b"\xef\xbb\xbf" + request(), 400, "bad_json", "JSON"),
    "not JSON": (b'{"inputs": ', 400, "bad_json", "line 1"),
    "not an object": (b"[]", 400, "bad_request", "object"),
    "52 63 features": (
        request("[" + ",".join(ROW[:63]) + "]", tensor={"shape": [1, 63]}), 422, "wrong_shape", "[1, 64]",
    ),
    "52 65 features": (request("[" + ",".join([*ROW, "1"]) + "]"), 422, "wrong_shape", "[1, 64]"),
    "52 shape and data differ": (request(tensor={"shape": [2, 64]}), 422, "wrong_shape", "[2, 64]"),
    "52 ragged": (request(f"[{row('1')},[1,2]]", tensor={"shape": [2, 64]}), 422, "wrong_shape", "data[1]"),
    "52 no rows": (request("[]", tensor={"shape": [0, 64]}), 422, "no_rows", "shape"),
    "52 a million rows": (request(tensor={"shape": [1_000_000, 64]}), 422, "too_many_rows", "4096"),
    "52 negative rows": (request(tensor={"shape": [-1, 64]}), 422, "no_rows", "shape"),
    "52 rows as true": (request(tensor={"shape": [True, 64]}), 422, "no_rows", "shape"),
    "52 rows as float": (request(tensor={"shape": [1.0, 64]}), 422, "no_rows", "shape"),
    "52 true for a float": (request(row("true")), 422, "wrong_type", "data[3]: true is not a number"),
    "52 true in a nested row": (request(f"[{row('false')}]"), 422, "wrong_type", "data[0][3]: false is not a number"),
    "52 null for a float": (request(row("null")), 422, "wrong_type", "data[3]: null is not a number"),
    "52 text for a float": (request(row('"1.5"')), 422, "wrong_type", "data[3]: a text is not a number"),
    "52 object for a float": (request(row("{}")), 422, "wrong_type", "data[3]: an object is not a number"),
    "52 data is a text": (request('"1,2"'), 422, "wrong_type", "a list"),
    "wrong datatype": (request(tensor={"datatype": "FP64"}), 422, "wrong_datatype", "FP32"),
    "wrong tensor name": (request(tensor={"name": "x"}), 422, "wrong_inputs", "'input'"),
    "two tensors": (request(inputs=[{}, {}]), 422, "wrong_inputs", "one tensor"),
    "no inputs": (b"{}", 422, "wrong_inputs", "one tensor"),
    "unknown field": (request(imputs=[]), 422, "unknown_field", "'imputs'"),
    "unknown tensor field": (request(tensor={"size": 1}), 422, "unknown_field", "'size'"),
    "unknown output": (request(outputs=[{"name": "logits"}]), 422, "wrong_outputs", "label, probabilities"),
    "number as id": (request(id=7), 422, "wrong_type", "$.id"),
    "binary size without binary": (
        request(tensor={"parameters": {"binary_data_size": 256}}), 400, "bad_binary", "binary",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BODIES)
def test_body(replica: Replica, name: str) -> None:
    """Each bad body gives its status, its reason and its place."""
    body, status, reason, words = BODIES[name]
    answer = replica.http.post(URL, content=body, headers={"content-type": "application/json"})
    problem = answer.json()

    assert (answer.status_code, problem["reason"]) == (status, reason), problem
    assert words in problem["detail"]
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["code"].startswith("MLC-")
    assert problem["error"] == problem["detail"]
    assert "/" not in problem["detail"].replace("application/json", "")


@pytest.mark.parametrize(
    ("headers", "status", "reason"),
    [
        ({"content-type": "text/plain"}, 415, "wrong_content_type"),
        ({"content-type": "application/x-www-form-urlencoded"}, 415, "wrong_content_type"),
        ({"content-type": "multipart/form-data; boundary=x"}, 415, "wrong_content_type"),
        ({"content-type": "application/json; charset=utf-16"}, 415, "wrong_content_type"),
        ({"content-type": "application/octet-stream"}, 415, "wrong_content_type"),
        ({"content-type": "application/json", "content-encoding": "gzip"}, 415, "wrong_encoding"),
    ],
)
def test_content_type(replica: Replica, headers: dict[str, str], status: int, reason: str) -> None:
    """49, 51: only JSON and binary tensors are read; compressed bodies are not."""
    answer = replica.http.post(URL, content=request(), headers=headers)

    assert (answer.status_code, answer.json()["reason"]) == (status, reason)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "TRACE", "OPTIONS"])
def test_method(replica: Replica, method: str) -> None:
    """53: only POST asks for predictions."""
    assert replica.http.request(method, URL).status_code == 405


def test_post_to_a_get_route(replica: Replica) -> None:
    """53: and only GET asks for health."""
    assert replica.http.post("/v2/health/live").status_code == 405


RAW = {
    "53 unknown method": (b"FOO / HTTP/1.1\r\nhost: x\r\n\r\n", 400),
    "53 doubled slash": (b"GET //v2 HTTP/1.1\r\nhost: x\r\n\r\n", 400),
    "53 escaped dots": (b"GET /%2e%2e/ HTTP/1.1\r\nhost: x\r\n\r\n", 400),
    "53 dots": (b"GET /v2/../metrics HTTP/1.1\r\nhost: x\r\n\r\n", 400),
    "53 NUL": (b"GET /a%00b HTTP/1.1\r\nhost: x\r\n\r\n", 400),
    "53 3 KiB path": (b"GET /" + b"a" * 3000 + b" HTTP/1.1\r\nhost: x\r\n\r\n", 414),
    "53 9 KiB path": (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nhost: x\r\n\r\n", 414),
    "54 both lengths": (
        b"POST /v2/models/digits/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n"
        b"0\r\n\r\n", 400,
    ),
    "54 two lengths": (
        b"POST /v2/models/digits/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\nabcde", 400,
    ),
    "54 bare LF": (b"GET /v2 HTTP/1.1\nhost: x\n\n", 400),
    "54 folded header": (b"GET /v2 HTTP/1.1\r\nhost: x\r\nx-a: b\r\n c\r\n\r\n", 400),
    "54 negative length": (b"POST /v2 HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n", 400),
    "not HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "200 headers": (
        b"GET /v2 HTTP/1.1\r\nhost: x\r\n" + b"".join(b"x-%d: y\r\n" % i for i in range(200)) + b"\r\n", 431,
    ),
    "a header without end": (b"GET /v2 HTTP/1.1\r\nhost: x\r\nx-a: " + b"a" * 200_000, 431),
}  # fmt: skip


@pytest.mark.parametrize("name", RAW)
def test_raw_bytes(replica: Replica, name: str) -> None:
    """53, 54: what is no well-formed request is refused and, where framing is in doubt, the connection closed."""
    content, status = RAW[name]
    answer = replica.raw(content, timeout=3.0)

    assert answer.startswith(b"HTTP/1.1 %d " % status), answer[:200]
    if (status != 414 and not name.startswith("53")) or name == "53 unknown method":
        assert b"connection: close" in answer


class TestSize:
    """48: bodies over the limit are refused before they are read."""

    def test_announced(self, replica: Replica) -> None:
        """A length over the limit is answered with nothing of the body sent."""
        answer = replica.raw(f"POST {URL} HTTP/1.1\r\nhost: x\r\ncontent-length: 20000000\r\n\r\n".encode())

        assert answer.startswith(b"HTTP/1.1 413")

    def test_sent_whole(self, replica: Replica) -> None:
        """20 MB are not taken in."""
        before = replica.metric("mlcycle_replica_memory_bytes")
        head = f"POST {URL} HTTP/1.1\r\nhost: x\r\ncontent-length: 20000000\r\n\r\n".encode()
        replica.raw(head + b" " * 20_000_000, timeout=5.0)

        assert replica.metric("mlcycle_replica_memory_bytes") - before < 8_000_000

    def test_endless_chunks(self, replica: Replica) -> None:
        """Chunks without end stop at the limit."""
        head = f"POST {URL} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n".encode()
        chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"

        assert replica.raw(head + chunk * 40, timeout=5.0).startswith(b"HTTP/1.1 413")

    def test_length_that_lies(self, replica: Replica) -> None:
        """A body that stays shorter than announced is answered 408 in its time."""
        head = f"POST {URL} HTTP/1.1\r\nhost: x\r\ncontent-length: 500\r\n\r\n".encode()

        assert replica.raw(head + b"{", timeout=8.0).startswith(b"HTTP/1.1 408")

    def test_client_that_leaves(self, replica: Replica) -> None:
        """A client that hangs up in the middle of its body costs nothing."""
        head = f"POST {URL} HTTP/1.1\r\nhost: x\r\ncontent-length: 500\r\n\r\n".encode()
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(replica.socket))
            connection.sendall(head + b"{")


class TestSlow:
    """55: slow headers are cut off; others are served meanwhile."""

    def test_dripping_headers(self, replica: Replica) -> None:
        """One byte at a time does not hold a connection beyond the limit."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(0.2)
            connection.connect(str(replica.socket))
            begun, received = time.monotonic(), b""
            while time.monotonic() - begun < 8.0 and not received:
                try:
                    connection.sendall(b"G" if time.monotonic() == begun else b"E")
                except (BrokenPipeError, ConnectionResetError):
                    break
                try:
                    received = connection.recv(4096)
                except TimeoutError:
                    continue
                except ConnectionResetError:
                    break

        assert time.monotonic() - begun < 8.0

    def test_silent_connection(self, replica: Replica) -> None:
        """A connection that says nothing is closed."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(8.0)
            connection.connect(str(replica.socket))

            assert connection.recv(10) == b""

    def test_header_never_ends(self, replica: Replica) -> None:
        """A request line without the rest is answered 408."""
        assert replica.raw(b"GET /v2 HTTP/1.1\r\nhost: x\r\n", timeout=8.0).startswith(b"HTTP/1.1 408")

    def test_idle_keep_alive_is_not_slow(self, replica: Replica) -> None:
        """A connection that has been answered may wait longer than a request may take."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5.0)
            connection.connect(str(replica.socket))
            for _ in range(2):
                connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n")
                assert connection.recv(4096).startswith(b"HTTP/1.1 200")
                time.sleep(2.5)


class TestBinary:
    """The binary tensor extension keeps the same contract."""

    def ask(self, replica: Replica, tensor: bytes, *, size: int | None = None, length: str | None = None) -> Any:
        head = request(tensor={"parameters": {"binary_data_size": len(tensor) if size is None else size}})
        head = head.replace(b', "data": [' + ",".join(ROW).encode() + b"]", b"")
        headers = {
            "content-type": "application/octet-stream",
            "inference-header-content-length": str(len(head)) if length is None else length,
        }
        return replica.http.post(URL, content=head + tensor, headers=headers)

    def test_sound(self, replica: Replica) -> None:
        """64 little-endian floats are a row."""
        assert self.ask(replica, struct.pack("<64f", *range(64))).status_code == 200

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_not_finite(self, replica: Replica, value: float) -> None:
        """Bytes can hold NaN; the contract still refuses it, with its place."""
        answer = self.ask(replica, struct.pack("<64f", *([1.0] * 10 + [value] + [1.0] * 53)))

        assert (answer.status_code, answer.json()["reason"]) == (422, "not_finite")
        assert "row 0, value 10 (f10)" in answer.json()["detail"]

    @pytest.mark.parametrize(
        ("size", "length", "status"),
        [(255, None, 400), (None, "99999", 400), (None, "-1", 400), (None, "x", 400), (None, "5", 400)],
    )
    def test_lengths_that_lie(self, replica: Replica, size: int | None, length: str | None, status: int) -> None:
        """Sizes that do not fit the bytes are refused."""
        assert self.ask(replica, bytes(256), size=size, length=length).status_code == status

    def test_short_tensor(self, replica: Replica) -> None:
        """Fewer bytes than the shape says."""
        assert self.ask(replica, bytes(252)).json()["reason"] == "wrong_shape"


SCORING = {
    "two forms": ({"inputs": [[1]], "instances": [[1]]}, "wrong_inputs", "exactly one"),
    "no form": ({}, "wrong_inputs", "exactly one"),
    "missing feature": ({"dataframe_split": {"columns": ["f1"], "data": [[1]]}}, "missing_feature", "'f0'"),
    "extra feature": (
        {"dataframe_records": [{**{f"f{i}": 1 for i in range(64)}, "extra": 2}]}, "unknown_feature", "'extra'",
    ),
    "ragged split": (
        {"dataframe_split": {"columns": [f"f{63 - i}" for i in range(64)], "data": [[1]]}}, "wrong_shape", "data[0]",
    ),
    "true in a record": ({"dataframe_records": [{f"f{i}": i == 5 for i in range(64)}]}, "wrong_type", "not a number"),
    "wrong width": ({"inputs": [[1, 2, 3]]}, "wrong_shape", "[1, 64]"),
    "no rows": ({"instances": []}, "no_rows", "at least one row"),
    "unknown params": ({"inputs": [[0] * 64], "params": {"temperature": 1}}, "unknown_field", "output"),
}  # fmt: skip


@pytest.mark.parametrize("name", SCORING)
def test_scoring_body(replica: Replica, name: str) -> None:
    """MLflow's forms keep the same contract."""
    body, reason, words = SCORING[name]
    answer = replica.http.post("/invocations", json=body)

    assert (answer.status_code, answer.json()["reason"]) == (422, reason), answer.text
    assert words in answer.json()["detail"]


@pytest.mark.parametrize(
    "path", ["/", "/v2/models/other", "/v2/models/digits/versions/8", "/v2/models/digits/versions/8/infer", "/admin"]
)
def test_unknown_path(replica: Replica, path: str) -> None:
    """Another model or version reads as nothing here."""
    assert replica.http.get(path).status_code == 404
