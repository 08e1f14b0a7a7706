"""What a replica answers when it cannot answer: RFC 9457 problems."""

from __future__ import annotations

from http import HTTPStatus

import orjson

from mlcycle_nb.errors import EngineError, InvalidInput, NotFound, Refused

CONTENT_TYPE = b"application/problem+json"


class Problem(Exception):
    """A request that ends without a prediction.

    Parameters
    ----------
    status : int
        HTTP status.
    reason : str
        One word for programs, such as ``wrong_shape``.
    detail : str
        What was wrong and what to do, for people; names nothing internal.
    where : str
        Place in the request: ``inputs[0].data[3]``.
    close : bool
        Whether the connection ends with this answer, because the rest of the request is not read.
    """

    def __init__(self, status: int, reason: str, detail: str, *, where: str = "", close: bool = False) -> None:
        super().__init__(detail)
        self.status = status
        self.reason = reason
        self.detail = detail
        self.where = where
        self.close = close

    def body(self) -> bytes:
        """Return the JSON body."""
        detail = f"{self.where}: {self.detail}" if self.where else self.detail
        return orjson.dumps(
            {
                "type": "about:blank",
                "title": HTTPStatus(self.status).phrase,
                "status": self.status,
                "code": _code(self.status),
                "reason": self.reason,
                "detail": detail,
                # Open Inference Protocol clients read this member.
                "error": detail,
            }
        )


def _code(status: int) -> str:
    if status == 404:
        return NotFound.code
    if status >= 500:
        return EngineError.code
    return InvalidInput.code if status in {400, 408, 413, 414, 415, 422, 431} else Refused.code


def unprocessable(reason: str, detail: str, where: str = "") -> Problem:
    """Return the problem of a request that is well formed and breaks the model's contract."""
    return Problem(422, reason, detail, where=where)


def malformed(reason: str, detail: str, where: str = "") -> Problem:
    """Return the problem of a request that cannot be read."""
    return Problem(400, reason, detail, where=where)
