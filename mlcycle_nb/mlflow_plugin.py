"""``mlflow deployments -t mlcycle``: the deployment service behind MLflow's own interface.

MLflow looks this module up by the entry point ``mlflow.deployments``; it wants a subclass of its client,
``target_help`` and ``run_local``.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mlflow.deployments import BaseDeploymentClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    INTERNAL_ERROR,
    INVALID_PARAMETER_VALUE,
    RESOURCE_ALREADY_EXISTS,
    RESOURCE_CONFLICT,
    RESOURCE_DOES_NOT_EXIST,
)

from mlcycle_nb.errors import Conflict, InvalidInput, MLCycleError, NotFound, did_you_mean

if TYPE_CHECKING:
    import pandas as pd

    from mlcycle_nb.workspace import Workspace

TARGET = "mlcycle"
_OPTIONS = (
    *("strategy", "replicas", "steps", "interval", "min_requests", "mirror", "deadline", "duration", "compare"),
    *("warm", "reason"),
)
_WHOLE_NUMBERS = ("replicas", "min_requests", "compare")
_OWN = ("environment", "wait", "timeout", "force")
_WAIT_SECONDS = 600.0


class MLCycleDeployments(BaseDeploymentClient):
    """MLflow's deployment client for a workspace.

    Parameters
    ----------
    target_uri : str
        ``mlcycle`` for the workspace that ``MLCYCLE_HOME`` or the working directory names, or
        ``mlcycle:/path/of/.mlcycle``.
    """

    def __init__(self, target_uri: str) -> None:
        super().__init__(target_uri)
        path = urllib.parse.urlparse(target_uri).path
        self._home = path if path and path != TARGET else None

    def create_deployment(
        self,
        name: str,
        model_uri: str,
        flavor: str | None = None,
        config: Mapping[str, Any] | None = None,
        endpoint: str | None = None,
    ) -> dict[str, Any]:
        """Deploy a version of a model that is not deployed in the environment yet.

        Parameters
        ----------
        name : str
            The model's name: a service is named after its model.
        model_uri : str
            ``models:/digits/7``, ``models:/digits@champion``, or without ``models:/``.
        flavor : str, optional
            Unused; the format is the package's.
        config : mapping, optional
            Options of ``%deploy``, and ``environment``, ``wait``, ``timeout`` (seconds) and ``force``.
        endpoint : str, optional
            The environment; another way to give ``config["environment"]``.
        """
        with self._workspace() as workspace:
            environment, _ = _options(config, endpoint)
            if _service(workspace, name, environment) is not None:
                raise MlflowException(
                    f"{name} is deployed in {environment} already; update_deployment brings another version",
                    error_code=RESOURCE_ALREADY_EXISTS,
                )
            return _deploy(workspace, name, model_uri, flavor, config, endpoint)

    def update_deployment(
        self,
        name: str,
        model_uri: str | None = None,
        flavor: str | None = None,
        config: Mapping[str, Any] | None = None,
        endpoint: str | None = None,
    ) -> dict[str, Any]:
        """Bring another version of a deployed model, by the strategy that `config` names.

        It waits for the end of the rollout, except for a canary's, which takes as long as its requests do;
        ``wait`` in `config` says otherwise.
        """
        with self._workspace() as workspace:
            environment, _ = _options(config, endpoint)
            _known(workspace, name, environment)
            if model_uri is None:
                raise InvalidInput("an update needs a model version", where="model_uri", remedy=f"models:/{name}/2")
            return _deploy(workspace, name, model_uri, flavor, config, endpoint)

    def delete_deployment(
        self, name: str, config: Mapping[str, Any] | None = None, endpoint: str | None = None
    ) -> None:
        """Take a model out of service; deleting what is not there is harmless."""
        with self._workspace() as workspace:
            environment, options = _options(config, endpoint)
            service = _service(workspace, name, environment)
            if service is not None and service.split:
                workspace.deployment.undeploy(name, environment, reason=str(options.get("reason", "")))

    def list_deployments(self, endpoint: str | None = None) -> list[dict[str, Any]]:
        """Return every deployed model, of one environment or of all."""
        with self._workspace() as workspace:
            found = workspace.deployment.services()
            return [
                _described(workspace, service.model, service.environment)
                for service in found
                if service.split and endpoint in (None, service.environment)
            ]

    def get_deployment(self, name: str, endpoint: str | None = None) -> dict[str, Any]:
        """Return one deployment: its versions with their weights, and the gateway's address."""
        with self._workspace() as workspace:
            environment, _ = _options(None, endpoint)
            _known(workspace, name, environment)
            return _described(workspace, name, environment)

    def predict(
        self, deployment_name: str | None = None, inputs: Any = None, endpoint: str | None = None
    ) -> pd.DataFrame:
        """Return one row of answers for each row of `inputs`, through the gateway.

        Columns are ``label`` and ``probabilities``, or ``value`` for a regressor; then ``version``, which answered,
        and ``prediction_id``, by which a label can follow later. MLflow's command line gives one name only: there
        ``production/digits`` names the environment too.
        """
        import numpy as np
        import pandas as pd

        with self._workspace() as workspace:
            name, place = _name_and_place(deployment_name, endpoint)
            environment, _ = _options(None, place)
            _known(workspace, name, environment)
            rows = inputs.to_numpy() if hasattr(inputs, "to_numpy") else np.asarray(inputs)
            with workspace.deployment.client(name, environment, "mlflow") as client:
                answer = client.predict(rows)
        columns: dict[str, Any] = {}
        if answer.labels is not None:
            columns["label"] = answer.labels
        if answer.probabilities is not None:
            columns["probabilities"] = answer.probabilities.tolist()
        if answer.values is not None:
            columns["value"] = answer.values
        return pd.DataFrame({**columns, "version": answer.version, "prediction_id": answer.prediction_ids})

    @contextmanager
    def _workspace(self) -> Iterator[Workspace]:
        from mlcycle_nb.workspace import Workspace

        try:
            with Workspace.open(self._home) as workspace:
                yield workspace
        except MLCycleError as error:
            raise MlflowException(str(error), error_code=_code(error)) from None


def run_local(
    target: str, name: str, model_uri: str, flavor: str | None = None, config: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Deploy a version in ``dev`` on this machine; it is the same as ``create_deployment`` there."""
    return MLCycleDeployments(target).create_deployment(name, model_uri, flavor, config, endpoint="dev")


def target_help() -> str:
    """Return what MLflow prints for ``mlflow deployments help -t mlcycle``."""
    return (
        "Target mlcycle: replicas behind a gateway on this machine, declared in a workspace.\n\n"
        "  mlcycle                        the workspace of MLCYCLE_HOME or of the working directory\n"
        "  mlcycle:/path/of/.mlcycle      that workspace\n\n"
        "The name of a deployment is its model's name; the endpoint is the environment (default production).\n"
        f"Options (-C name=value): {', '.join((*_OPTIONS, *_OWN))}.\n"
        "  mlflow deployments create -t mlcycle --name digits -m models:/digits/1 --endpoint dev\n"
        "  mlflow deployments update -t mlcycle --name digits -m models:/digits/2 --endpoint dev -C strategy=canary\n"
        "  mlflow deployments predict -t mlcycle --name dev/digits -I rows.json"
    )


def _deploy(
    workspace: Workspace,
    name: str,
    model_uri: str,
    flavor: str | None,
    config: Mapping[str, Any] | None,
    endpoint: str | None,
) -> dict[str, Any]:
    from mlcycle_nb.deployment.records import DeploymentStrategy
    from mlcycle_nb.references import ModelReference

    environment, options = _options(config, endpoint)
    reference = ModelReference.parse(model_uri.removeprefix("models:/"))
    if reference.name != name:
        raise InvalidInput(
            "a deployment is named after its model", value=name, where=model_uri, remedy=f"--name {reference.name}"
        )
    wanted = {key: value for key, value in options.items() if key in _OPTIONS}
    wanted |= {name: _number(wanted[name], name, int) for name in _WHOLE_NUMBERS if name in wanted}
    force = _flag(options.get("force", False), "force")
    handle = workspace.deployment.deploy_model(str(reference), environment, force=force, **wanted)
    watched = (DeploymentStrategy.CANARY, DeploymentStrategy.SHADOW)  # they last as long as their traffic takes
    canary = handle.record.strategy in watched and handle.record.base is not None
    if _flag(options.get("wait", not canary), "wait"):
        record = handle.wait(_number(options.get("timeout", _WAIT_SECONDS), "timeout", float))
        if record.phase != "completed" and record.verdict != "passed":
            raise MlflowException(f"{reference} {record.place.replace('_', ' ')}: {record.reason}")
    return {**_described(workspace, name, environment), "flavor": flavor, "rollout": handle.id}


def _described(workspace: Workspace, name: str, environment: str) -> dict[str, Any]:
    status = workspace.deployment.status(name, environment).to_dict()
    return {"name": name, "endpoint": environment, "flavor": None, **status}


def _service(workspace: Workspace, name: str, environment: str) -> Any:
    found = [s for s in workspace.deployment.services() if (s.environment, s.model) == (environment, name)]
    return found[0] if found and found[0].split else None


def _known(workspace: Workspace, name: str, environment: str) -> None:
    if _service(workspace, name, environment) is None:
        known = [f"{s.environment}/{s.model}" for s in workspace.deployment.services() if s.split]
        raise NotFound(f"{name} is not deployed in {environment}", remedy=f"deployed: {', '.join(known) or 'nothing'}")


def _options(config: Mapping[str, Any] | None, endpoint: str | None) -> tuple[str, dict[str, Any]]:
    """Return the environment and the options; MLflow's command line gives all values as text."""
    options = dict(config or {})
    for name in options:
        if name not in (*_OPTIONS, *_OWN):
            known = (*_OPTIONS, *_OWN)
            raise InvalidInput(
                "unknown option", value=name, where="config",
                remedy=f"{did_you_mean(name, known)}known: {', '.join(known)}",
            )  # fmt: skip
    environment = options.pop("environment", None)
    if endpoint is not None and environment not in (None, endpoint):
        raise InvalidInput("the endpoint is the environment, and both are given", value=[endpoint, environment])
    return str(endpoint or environment or "production"), options


def _name_and_place(name: str | None, endpoint: str | None) -> tuple[str, str | None]:
    if name is None:
        raise InvalidInput("predict needs the name of a deployment", remedy="--name digits")
    place, slash, model = name.partition("/")
    return (model, place) if slash and endpoint is None else (name, endpoint)


def _number(value: Any, what: str, kind: type) -> Any:
    try:
        return kind(value)
    except (TypeError, ValueError):
        raise InvalidInput(f"{what} must be a number", value=value, where="config") from None


def _flag(value: Any, what: str) -> bool:
    text = str(value).lower()
    if text not in ("true", "false", "1", "0", "yes", "no"):
        raise InvalidInput(f"{what} is true or false", value=value, where="config")
    return text in ("true", "1", "yes")


def _code(error: MLCycleError) -> int:
    if isinstance(error, NotFound):
        return int(RESOURCE_DOES_NOT_EXIST)
    if isinstance(error, InvalidInput):
        return int(INVALID_PARAMETER_VALUE)
    return int(RESOURCE_CONFLICT if isinstance(error, Conflict) else INTERNAL_ERROR)
