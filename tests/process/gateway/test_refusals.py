"""What the gateway refuses, over a real socket: each bad request has its one answer, as RFC 9457 JSON."""

from __future__ import annotations

import socket

import pytest

from mlcycle_nb.serving.gateway import WHOLE, Gateway
from mlcycle_nb.serving.gateway.limits import GatewayLimits

pytestmark = pytest.mark.timeout(240)
MANY = {f"h{number}": "1" for number in range(120)}


@pytest.fixture
def gateway(context):
    """A gateway that is impatient with slow senders."""
    opened = Gateway(context, "production", limits=GatewayLimits(header_seconds=1.0, body_seconds=2.0))
    yield opened
    opened.stop()


@pytest.fixture
def address(gateway):
    host, _, port = gateway.url.removeprefix("http://").partition(":")
    return host, int(port)


def raw(address, content: bytes) -> bytes:
    """Send bytes and return all that comes back until the gateway closes."""
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(content)
        answer = b""
        while part := connection.recv(65536):
            answer += part
    return answer


def test_keys(served, gateway, client, replicas):
    """Without a key, or with a wrong one, nothing tells an existing model from another."""
    served.ask()
    answers = [
        client(key).ask(path)
        for key in (None, "wrong-key-0123456789abcdef")
        for path in ("/v2/models/digits/infer", "/v2/models/nothing/infer", "/v2", "/v2/health/live", "/", "/metrics")
    ]
    assert {status for status, _, _ in answers} == {401}
    assert len({str(body) for _, _, body in answers}) == 1
    headers = answers[0][1]
    assert headers["content-type"] == "application/problem+json"
    assert headers["www-authenticate"].startswith("Bearer")
    assert len(replicas.seen()) == 1, "no refused request reached a replica"


def test_identity_is_not_the_callers_to_give(served, client):
    """The consumer comes from the key, the request id from the gateway, and the key stays here."""
    spoof = {"x-consumer": "admin", "X_Consumer": "admin", "x-request-id": "mine", "x-envoy-max-retries": "99"}
    _, headers, seen = served.ask(headers=spoof)
    received = {}
    for name, value in seen["headers"]:
        received.setdefault(name, []).append(value)
    assert received["x-consumer"] == ["notebook"]
    assert "x_consumer" not in received
    assert received["x-request-id"] == [headers["x-request-id"]] != ["mine"]
    assert "authorization" not in received
    assert "x-envoy-max-retries" not in received
    assert received["host"] == ["replica"]


BAD_REQUESTS = {
    "host": (421, {"headers": {"host": "evil.example"}}),
    "host without port": (421, {"headers": {"host": "127.0.0.1"}}),
    "host that resolves here": (421, {"headers": {"host": "127.0.0.1.nip.io:80"}}),
    "origin": (403, {"headers": {"origin": "http://evil.example"}}),
    "origin of another port": (403, {"headers": {"origin": "http://localhost:8888"}}),
    "origin null": (403, {"headers": {"origin": "null"}}),
    "unknown version": (404, {"path": "/v2/models/digits/versions/99/infer"}),
    "unknown tester version": (404, {"headers": {"x-mlcycle-version": "99"}}),
    "longer name": (404, {"path": "/v2/models/digitsx/infer"}),
    "double slash": (404, {"path": "//v2/models/digits/infer"}),
    "dots": (404, {"path": "/v2/models/%2e%2e/digits"}),
    "escaped slash": (400, {"path": "/v2%2Fmodels%2Fdigits"}),
    "escaped backslash": (400, {"path": "/v2%5Cmodels"}),
    "NUL": (400, {"path": "/a%00b"}),
    "DELETE": (405, {"method": "DELETE"}),
    "PUT": (405, {"method": "PUT"}),
    "TRACE": (405, {"method": "TRACE"}),
    "OPTIONS": (405, {"method": "OPTIONS"}),
    "FOO": (400, {"method": "FOO"}),
    "body": (413, {"body": b"x" * 1_100_000}),
    "header count": (431, {"headers": MANY}),
    "header size": (431, {"headers": {"long": "x" * 20_000}}),
    "path size": (431, {"path": "/" + "x" * 20_000}),
}


def test_bad_requests(served, replicas):
    """Each has its status and its problem, and no replica hears of it."""
    answers = {name: served.ask(**request) for name, (_, request) in BAD_REQUESTS.items()}
    assert {name: answer[0] for name, answer in answers.items()} == {name: row[0] for name, row in BAD_REQUESTS.items()}
    for name, (status, headers, problem) in answers.items():
        assert headers["content-type"] == "application/problem+json", name
        assert problem["status"] == status, name
        assert problem["code"].startswith("MLC-"), name
    assert not replicas.seen()


def test_smuggling(served, address):
    """A request that two servers could read differently is refused, and the connection closed."""
    for content in (
        b"POST /v2 HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v2 HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"GET /v2 HTTP/1.1\r\nHost: x\r\nA : b\r\n\r\n",
    ):
        answer = raw(address, content)
        assert answer.startswith(b"HTTP/1.1 400"), content
        assert answer.count(b"HTTP/1.1 ") == 1, content


def test_folded_header(served, address, replicas):
    """A header folded over two lines reaches the replica as one line, so both read the same."""
    here, key = f"{address[0]}:{address[1]}", served.headers["authorization"]
    head = f"GET /v2/models/digits HTTP/1.1\r\nHost: {here}\r\nAuthorization: {key}\r\nConnection: close\r\n"
    answer = raw(address, head.encode() + b"A: b\r\n x-consumer: admin\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200")
    (seen,) = replicas.seen()
    headers = dict(seen["headers"])
    assert headers["a"] == "b x-consumer: admin"
    assert headers["x-consumer"] == "notebook"


@pytest.mark.parametrize(
    "content",
    [
        b"POST /v2/models/digits/infer HTTP/1.1\r\nHost: ",
        b"POST /v2/models/digits/infer HTTP/1.1\r\nHost: HERE\r\nX-Api-Key: KEY\r\nContent-Length: 9\r\n\r\nab",
    ],
    ids=["head", "body"],
)
def test_slow_senders(served, address, replicas, content):
    """A head or a body that does not arrive in time is answered with 408 and closed."""
    here = f"{address[0]}:{address[1]}".encode()
    answer = raw(address, content.replace(b"HERE", here).replace(b"KEY", served.headers["authorization"][7:].encode()))
    assert answer.startswith(b"HTTP/1.1 408")
    assert not replicas.seen()


def test_unreachable_version(served, planner, replicas, access_rows):
    """When no replica of any allowed version lives, the answer is a problem, and the log charges the gateway."""
    sockets = {7: [replicas.start(7, 0)]}
    planner.apply({7: WHOLE}, sockets)
    replicas.signal(7, 0)
    replicas.signal(7, 1)
    status, headers, problem = served.ask()
    assert (status, problem["code"]) == (503, "MLC-700")
    assert headers["content-type"] == "application/problem+json"
    (row,) = access_rows(1)
    assert row.gateway_made
    assert not row.from_replica
    assert (row.version, row.answered_by, row.consumer) == (7, None, "notebook")


def test_errors_of_the_model_are_its_own(served, access_rows, gateway):
    """A replica's 500 is passed on once, not retried, and not counted as the gateway's."""
    status, _, seen = served.ask(body={"status": 500})
    assert (status, seen["version"]) == (500, "7")
    (row,) = access_rows(1)
    assert row.from_replica
    assert not row.gateway_made
    assert row.attempts == 1
    assert gateway.healthy("digits", 7) == 2, "an error that the model made ejects no replica"
