"""MLflow's errors become ours, each code on purpose."""

from __future__ import annotations

import logging
import resource
import shutil
from pathlib import Path

import pytest

from mlcycle_nb.context import Context
from mlcycle_nb.development.mlflow_entities import without_password
from mlcycle_nb.development.mlflow_errors import KINDS, translated
from mlcycle_nb.development.tracking import Tracking
from mlcycle_nb.errors import Conflict, EngineError, InvalidInput, InvalidSettings, MLCycleError

# Codes that say the server or its database failed, or that no call of ours can cause.
SERVER_FAILED = {
    "INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "IO_ERROR", "SERVICE_UNDER_MAINTENANCE",
    "WORKSPACE_TEMPORARILY_UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "RESOURCE_EXHAUSTED", "ABORTED",
    "ENDPOINT_NOT_FOUND", "FEATURE_DISABLED", "REQUEST_LIMIT_EXCEEDED", "UNPARSEABLE_HTTP_ERROR", "NOT_IMPLEMENTED",
    "DATA_LOSS", "COULD_NOT_ACQUIRE_LOCK", "QUOTA_EXCEEDED", "MAX_BLOCK_SIZE_EXCEEDED", "MAX_READ_SIZE_EXCEEDED",
    "PARTIAL_DELETE", "MAX_LIST_SIZE_EXCEEDED", "RESOURCE_LIMIT_EXCEEDED", "SEARCH_QUERY_TOO_LONG",
    "SEARCH_QUERY_TOO_SHORT",
}  # fmt: skip
ANOTHER_PRODUCT = (
    "DRY_RUN", "DIRECTORY", "MAX_NOTEBOOK", "MAX_CHILD", "MANAGED_RESOURCE", "PERMISSION_NOT_PROP", "DEPLOYMENT",
    "PRINCIPAL", "GIT_", "PROJECTS", "IPYNB", "INSECURE_PARTNER", "MALFORMED_PARTNER", "METASTORE", "DAC_", "CATALOG",
    "SCHEMA", "TABLE", "SHARE", "RECIPIENT", "STORAGE_CREDENTIAL", "PROVIDER", "EXTERNAL_LOCATION",
)  # fmt: skip


def codes() -> list[str]:
    from mlflow.protos.databricks_pb2 import ErrorCode

    return [code for code in ErrorCode.keys() if not code.startswith(ANOTHER_PRODUCT)]  # noqa: SIM118 - a protobuf enum


def test_every_code_was_thought_of() -> None:
    """A code that a new MLflow adds has to be given its class here."""
    assert sorted(set(codes()) - SERVER_FAILED - KINDS.keys()) == []


@pytest.mark.parametrize("code", sorted(KINDS.keys() - {"EXPERIMENT_DOES_NOT_EXIST"}))
def test_a_code_becomes_its_class(code: str) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import ErrorCode

    with pytest.raises(KINDS[code], match="broken - here"), translated("here"):
        raise MlflowException("broken\nstack", error_code=ErrorCode.Value(code))


@pytest.mark.parametrize(
    "said",
    [
        "(sqlite3.IntegrityError) UNIQUE constraint failed: registered_model_aliases.name",
        '(psycopg.errors.UniqueViolation) duplicate key value violates unique constraint "alias_pk"',
        "(pymysql.err.IntegrityError) (1062, \"Duplicate entry 'digits-champion' for key 'PRIMARY'\")",
    ],
)
def test_a_row_that_somebody_else_made_meanwhile_is_a_conflict(said: str) -> None:
    """MLflow passes on what its database says as a wrong value; the same words in a user's own value are one."""
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import BAD_REQUEST, INVALID_PARAMETER_VALUE

    with pytest.raises(Conflict, match="somebody else wrote the same at this moment - here"), translated("here"):
        raise MlflowException(said, error_code=BAD_REQUEST)
    with pytest.raises(InvalidInput), translated("here"):
        raise MlflowException(f"Invalid value for parameter: {said}", error_code=INVALID_PARAMETER_VALUE)


def test_any_other_failure_is_the_engine_s() -> None:
    from mlflow.exceptions import MlflowException

    with pytest.raises(EngineError, match="MLflow failed: disk I/O error"), translated("here"):
        raise MlflowException("disk I/O error")


def test_a_file_error_is_the_engine_s() -> None:
    with pytest.raises(EngineError, match="No space left"), translated("here"):
        raise OSError(28, "No space left on device")


def test_our_own_errors_pass() -> None:
    with pytest.raises(InvalidSettings), translated("here"):
        raise InvalidSettings("ours")


def test_an_unreachable_database_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").mkdir()
    with pytest.raises(MLCycleError) as refused:
        Tracking(tmp_path).experiments()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("postgresql://me:secret@db:5432/mlflow", "postgresql://me:***@db:5432/mlflow"),
        ("https://u:p@host/path", "https://u:***@host/path"),
        ("sqlite:////x/mlflow.db", "sqlite:////x/mlflow.db"),
    ],
)
def test_passwords_are_not_shown(uri: str, shown: str) -> None:
    assert without_password(uri) == shown


def test_a_full_disk_is_told_once(context: Context, mlflow_database: Path, caplog: pytest.LogCaptureFixture) -> None:
    """MLflow logs a page of traceback beside what it raises; other words of its logger are left alone."""
    shutil.copy(mlflow_database, context.home / "mlflow.db")
    tracking = Tracking(context.home)
    tracking.experiments()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        with pytest.raises(EngineError, match=r"MLflow failed: .*mlflow\.db"):
            tracking.experiment("digits")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    logging.getLogger("mlflow.store.db.utils").warning("something else")

    assert [record.getMessage() for record in caplog.records] == ["something else"]
