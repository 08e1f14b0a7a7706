"""The gateway's own answers, as RFC 9457 problems.

Texts tell the caller what to do and name nothing that only we should know: an unknown key reads the same for a model
that exists and for one that does not.
"""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any

from mlcycle_nb.errors import EngineError, InvalidInput, NotFound, Refused

CONTENT_TYPE = "application/problem+json"
_RESPONSES = {
    400: (InvalidInput, "the request is not well formed; escaped slashes and repeated lengths are refused"),
    401: (Refused, "send 'Authorization: Bearer KEY' with the API key of a consumer; %consumer makes one"),
    403: (Refused, "requests from this origin are refused"),
    404: (NotFound, "there is no such address; models are at /v2/models/NAME"),
    405: (InvalidInput, "use GET, HEAD or POST"),
    408: (InvalidInput, "the request took too long to arrive"),
    413: (InvalidInput, "the request body is over the limit; send fewer rows in one request"),
    421: (Refused, "this server does not answer for that Host; use the address that the deployment shows"),
    426: (InvalidInput, "only HTTP/1.1 is answered"),
    431: (InvalidInput, "the request has too many or too long headers"),
    502: (EngineError, "the replica's answer could not be read; the gateway tried the other replicas too"),
    503: (EngineError, "no replica could answer; the deployment's status shows which are healthy"),
    504: (EngineError, "the replica did not answer in time"),
}
MADE_BY_ENVOY = (400, 401, 408, 413, 426, 431, 502, 503, 504)


def problem(status: int, detail: str | None = None, **members: str) -> dict[str, Any]:
    """Return the members of one problem."""
    error, text = _RESPONSES.get(status, (NotFound, ""))
    return {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "code": error.code,
        "detail": detail or text,
        **members,
    }


def direct(status: int, detail: str | None = None, **members: str) -> dict[str, Any]:
    """Return the route fields that answer with a problem and ask no replica."""
    return {
        "direct_response": {
            "status": status,
            "body": {"inline_string": json.dumps(problem(status, detail, **members))},
        },
        "response_headers_to_add": [set_header("content-type", CONTENT_TYPE)],
    }


def set_header(name: str, value: str) -> dict[str, Any]:
    """Return a header that replaces any of its name; ``%`` starts a command in Envoy and is doubled."""
    return {
        "header": {"key": name, "value": value.replace("%", "%%")},
        "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
    }


def local_replies() -> dict[str, Any]:
    """Return the mapping that turns what Envoy answers by itself into problems."""
    return {"mappers": [_mapper(status) for status in MADE_BY_ENVOY]}


def _mapper(status: int) -> dict[str, Any]:
    # json_format would turn the status into text, so the body is written out; % starts a command in it.
    mapper: dict[str, Any] = {
        "filter": {
            "status_code_filter": {
                "comparison": {
                    "op": "EQ",
                    "value": {"default_value": status, "runtime_key": f"mlcycle.local_reply_{status}"},
                }
            }
        },
        "body_format_override": {
            "text_format_source": {"inline_string": json.dumps(problem(status)).replace("%", "%%")},
            "content_type": CONTENT_TYPE,
        },
    }
    if status == 401:
        mapper["headers_to_add"] = [set_header("www-authenticate", 'Bearer realm="mlcycle"')]
    return mapper
