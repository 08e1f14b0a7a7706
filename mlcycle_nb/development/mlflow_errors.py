"""MLflow's errors in our words; the only list of its error codes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mlcycle_nb.errors import Conflict, EngineError, InvalidInput, MLCycleError, NotFound, Refused

_ABSENT = ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND", "EXPERIMENT_DOES_NOT_EXIST")
_WRONG = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "MALFORMED_REQUEST")
_TAKEN = ("RESOURCE_ALREADY_EXISTS", "ALREADY_EXISTS", "RESOURCE_CONFLICT", "INVALID_STATE", "INVALID_STATE_TRANSITION")
_FORBIDDEN = ("PERMISSION_DENIED", "UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED")

KINDS: dict[str, type[MLCycleError]] = {
    **dict.fromkeys(_ABSENT, NotFound),
    **dict.fromkeys(_WRONG, InvalidInput),
    **dict.fromkeys(_TAKEN, Conflict),
    **dict.fromkeys(_FORBIDDEN, Refused),
}
"""Error code -> our class; every other code says that the tracking server failed."""

_TWO_WROTE = ("UNIQUE constraint failed", "UniqueViolation", "Duplicate entry")
"""How SQLite, PostgreSQL and MySQL say that a row exists by now, which MLflow passes on as a wrong value."""


@contextmanager
def translated(where: str) -> Iterator[None]:
    """Turn what MLflow raises into one of our errors; `where` names the tracking server or file."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except MlflowException as failure:
        code = str(getattr(failure, "error_code", ""))
        problem = (str(failure).splitlines() or [""])[0] or code
        if code == "BAD_REQUEST" and any(sign in problem for sign in _TWO_WROTE):
            raise Conflict("somebody else wrote the same at this moment", where=where) from failure
        if code in KINDS:
            raise KINDS[code](problem, where=where) from failure
        raise EngineError(
            f"MLflow failed: {problem}", where=where, remedy="check that it can be reached, then try again"
        ) from failure
    except (OSError, SQLAlchemyError) as failure:
        problem = str(failure).splitlines()[0]
        raise EngineError(f"MLflow's files cannot be used: {problem}", where=where) from failure
