"""The names that users and extensions rely on: added on purpose, and not lost by accident."""

from __future__ import annotations

import importlib
import inspect

import pytest

import mlcycle_nb

EXPORTS = {
    "mlcycle_nb": ["Workspace", "__version__", "load_ipython_extension", "unload_ipython_extension"],
    "mlcycle_nb.store": ["Record", "Store", "Transaction"],
    "mlcycle_nb.packages": [
        *("Package", "PackageStore", "Signature", "TensorSpec"),
        *("build_package", "check_golden", "load_runtime", "open_package"),
    ],
    "mlcycle_nb.training": [
        *("EarlyStopping", "accelerator", "batches", "checkpoint", "current"),
        *("epochs", "fit", "log", "params", "save_model"),
    ],
    "mlcycle_nb.testing": ["Answer", "FakeClock", "ScriptedWorld", "Traffic"],
}
SERVICES = {
    "development.service:ModelDevelopmentManager": (
        "create_experiment start_run log_model_config log_hyperparameters log_metrics log_artifacts register_model "
        "get_version versions models set_alias runs"
    ),
    "training.service:TrainingManager": "train_model train_script search",
    "validation.service:ModelValidator": "validate_model latest_verdict is_valid_for",
    "deployment.service:ModelDeploymentManager": (
        "deploy_model rollback_deployment promote abort pause resume status client add_consumer disagreements"
    ),
    "monitoring.service:ModelMonitor": "start_monitoring alerts",
    "retirement.service:ModelRetirementManager": "plan_retirement execute_retirement",
    "lifecycle.service:ModelLifecycleManager": "create_model_lifecycle progress_to_stage get_lifecycle_status",
}
WORKSPACE = (
    "open close home store settings clock status doctor verify_audit down "
    "development training validation deployment monitoring retirement lifecycle"
)


@pytest.mark.parametrize("module", EXPORTS)
def test_exports(module: str) -> None:
    """Exactly these, and each of them is there."""
    found = importlib.import_module(module)

    assert sorted(found.__all__) == sorted(EXPORTS[module])
    assert [name for name in found.__all__ if not hasattr(found, name)] == []


def test_a_name_that_is_not_there() -> None:
    """Lazy names do not make up others."""
    with pytest.raises(AttributeError, match="no attribute 'Workspaec'"):
        _ = mlcycle_nb.Workspaec


@pytest.mark.parametrize("place", SERVICES)
def test_services_have_their_verbs(place: str) -> None:
    """Each with a docstring that says what it does."""
    module, _, name = place.partition(":")
    service = getattr(importlib.import_module(f"mlcycle_nb.{module}"), name)
    verbs = {verb: getattr(service, verb, None) for verb in SERVICES[place].split()}

    assert [verb for verb, found in verbs.items() if not callable(found)] == []
    assert [verb for verb, found in verbs.items() if not inspect.getdoc(found)] == []


def test_the_workspace_has_the_seven_services() -> None:
    """And what concerns it as a whole."""
    workspace = mlcycle_nb.Workspace

    assert [name for name in WORKSPACE.split() if not hasattr(workspace, name)] == []
    public = {name for name in vars(workspace) if not name.startswith("_")}
    assert public - set(WORKSPACE.split()) == set()
