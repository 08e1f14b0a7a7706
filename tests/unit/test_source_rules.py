"""Rules of the source that remove whole classes of mistakes; each exception is listed with its reason."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import mlcycle_nb

ROOT = Path(mlcycle_nb.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
TREES = {str(file.relative_to(ROOT)): ast.parse(file.read_text()) for file in FILES}

CODE_ON_LOAD = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "_pickle"}
HEAVY = {"torch", "mlflow", "altair", "pandas", "numpy", "sqlalchemy", "ipywidgets", "onnxruntime", "pyarrow", "duckdb"}
HEAVY |= {"alibi_detect", "scipy", "sklearn", "onnx", "fairlearn", "accelerate", "httpx", "uvicorn", "vl_convert"}

# Where a catch of everything is right: foreign code is called there, or one object's trouble must not stop the others.
CATCHES_EVERYTHING = {
    "errors.py": "a foreign __repr__ may raise anything; the error being built matters more",
    "doctor.py": "whatever is wrong with the gateway's program, the doctor's answer is the same",
    "supervisor/loop.py": "one object's trouble must not stop the others; it is shown on the object",
    "files.py": "cleans up and raises again",
    "store/database.py": "closes the engine and raises again",
    "packages/build.py": "pickling calls into the model's own classes",
    "packages/exporters/graph_edit.py": "checker and protobuf have private error trees",
    "packages/exporters/sklearn_estimator.py": "converters raise whatever they meet",
    "packages/exporters/torch_module.py": "the exporter runs the model's own forward",
    "packages/formats/onnx.py": "onnxruntime raises a private tree",
    "packages/formats/python.py": "the package's own code runs here",
    "serving/intake.py": "whoever waits for a label to be stored must be told that it was not",
    "monitoring/delivery.py": "a channel is a plug-in; the delivery is tried again and says why",
    "monitoring/channels/__init__.py": "a channel is a plug-in; one that fails keeps no other from being told",
    "monitoring/worker.py": "a plug-in may raise anything; the caller is told, the worker stays",
    "validation/evaluate.py": "a check is a plug-in and the model foreign code",
    "training/worker.py": "the user's cell may raise anything, KeyboardInterrupt and SystemExit included",
    "training/script_worker.py": "the user's script may raise anything, KeyboardInterrupt and SystemExit included",
    "training/service.py": "cleans up and raises again",
    "training/reproduce.py": "cleans up and raises again",
    "training/retrain.py": "cleans up and raises again",
    "training/search/service.py": "cleans up and raises again",
    "training/packaging.py": "the model's own code runs here",
    "training/carry.py": "__reduce__ of foreign objects raises anything",
    "training/checkpoints.py": "cleans up and raises again",
    "training/checkpoint_files.py": "cleans up and raises again",
    "training/checkpointer.py": "the writing thread hands every error on to the training thread",
    "training/nodes.py": "cleans up and raises again",
    "training/node_agent.py": "torchrun ends in errors of many kinds, SystemExit included; the other hosts are told",
    "training/node_rendezvous.py": "the store's connection ends in errors of no common kind",
    "notebook/live_view.py": "a panel that cannot read says so and tries again",
    "serving/prediction_segments.py": "cleans up and raises again",
    "retirement/archive.py": "cleans up and raises again",
}
# Where objects of the user's own code are carried: from the notebook to its workers, and into `python` packages.
CARRIES_CODE = {
    "packages/build.py": "writes a `python` package",
    "packages/formats/python.py": "reads one that this workspace signed, in a replica's own process",
    "training/carry.py": "the notebook's names for its workers",
    "training/hand_over.py": "the trained model, from the worker to the packaging process",
}


def imports(tree: ast.AST, *, top_only: bool = False) -> Iterator[str]:
    """Yield the packages that a module imports; at its top level only, or anywhere."""
    nodes = _top_level(tree) if top_only else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)


def _top_level(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            continue
        yield child
        yield from _top_level(child)


def calls(tree: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def test_no_command_goes_through_a_shell() -> None:
    """Commands are lists of arguments."""
    found = [
        f"{place}:{call.lineno}"
        for place, tree in TREES.items()
        for call in calls(tree)
        if any(
            k.arg == "shell" and not (isinstance(k.value, ast.Constant) and not k.value.value) for k in call.keywords
        )
        or ast.unparse(call.func) in {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"}
    ]

    assert found == []


def test_nothing_is_evaluated() -> None:
    """A user's text is never code; cells are compiled by the worker alone."""
    found = {
        place
        for place, tree in TREES.items()
        for call in calls(tree)
        if isinstance(call.func, ast.Name) and call.func.id in {"eval", "exec", "__import__"}
    }

    assert found <= {
        "training/cell.py",
        "training/worker.py",
        "training/script.py",
        "training/script_worker.py",
        "training/free_form.py",
        "training/session.py",
    }


def test_nothing_that_runs_code_on_load_is_imported_beside_a_socket() -> None:
    """Nor anywhere else, but where the user's own objects are carried."""
    found = {place for place, tree in TREES.items() if {i.split(".")[0] for i in imports(tree)} & CODE_ON_LOAD}

    assert {place for place in found if place.startswith("serving/")} == set()
    assert found == set(CARRIES_CODE)


@pytest.mark.parametrize("program", ["mlcycle_nb.serving.replica", "mlcycle_nb.serving.gateway"])
def test_no_such_module_reaches_a_request(program: str) -> None:
    """Not through other modules of ours either: what each imports at its top, followed through."""
    reached = _reached(program)
    offending = {
        module: sorted({i.split(".")[0] for i in imports(tree, top_only=True)} & (CODE_ON_LOAD - {"_pickle"}))
        for module, tree in reached.items()
    }

    assert len(reached) > 5
    assert {module: names for module, names in offending.items() if names} == {}


def test_models_are_never_loaded_by_mlflow() -> None:
    """Its flavours run code on load; MLflow keeps our bytes and what is known of them."""
    found = []
    for place, tree in TREES.items():
        for node in ast.walk(tree):
            text = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
            if text.startswith("mlflow") and ".load_model" in text:
                found.append(f"{place}: {text}")
        found += [f"{place}: {i}" for i in imports(tree) if i.startswith("mlflow") and "load_model" in i]
        found += [f"{place}: {i}" for i in imports(tree) if i.startswith("mlflow.pyfunc")]
        found += [f"{place}: torch.load" for c in calls(tree) if ast.unparse(c.func) in {"torch.load", "joblib.load"}]

    assert found == []


def test_everything_is_caught_only_where_there_is_a_reason() -> None:
    """Elsewhere an unexpected error is a bug that must be seen."""
    found = set()
    for place, tree in TREES.items():
        for handler in (node for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler)):
            names = (
                {"BaseException"}
                if handler.type is None
                else {n.id for n in ast.walk(handler.type) if isinstance(n, ast.Name)}
            )
            if names & {"Exception", "BaseException"}:
                found.add(place)

    assert found - set(CATCHES_EVERYTHING) == set(), "catches everything without a reason here"
    assert set(CATCHES_EVERYTHING) - found == set(), "reasons that are no longer needed"


def test_what_claims_to_clean_up_raises_again() -> None:
    """A catch of BaseException that does not would swallow an interrupt."""
    silent = []
    for place, reason in CATCHES_EVERYTHING.items():
        for handler in (node for node in ast.walk(TREES[place]) if isinstance(node, ast.ExceptHandler)):
            everything = isinstance(handler.type, ast.Name) and handler.type.id == "BaseException"
            raises = any(isinstance(node, ast.Raise) for node in ast.walk(handler))
            if "raises again" in reason and everything and not raises:
                silent.append(f"{place}:{handler.lineno}")

    assert silent == []


def test_nothing_heavy_at_the_top_of_what_a_notebook_loads() -> None:
    """`%load_ext` must feel instant: each module that it reaches imports heavy packages inside functions."""
    from mlcycle_nb.extension import MAGIC_MODULES

    reached: dict[str, ast.AST] = {}
    for module in ("mlcycle_nb", "mlcycle_nb.extension", *MAGIC_MODULES):
        reached |= _reached(module)
    offending = {
        module: sorted({i.split(".")[0] for i in imports(tree, top_only=True)} & HEAVY)
        for module, tree in reached.items()
    }

    assert {"mlcycle_nb.notebook.magics", "mlcycle_nb.training.magic"} <= set(reached)
    assert {module: names for module, names in offending.items() if names} == {}


def test_times_have_zones_and_come_from_the_clock() -> None:
    """`datetime.now()` without a zone, or in a stage's decision, would not move with the clock of a test."""
    found = []
    for place, tree in TREES.items():
        for call in calls(tree):
            name = ast.unparse(call.func)
            if name in {"datetime.utcnow", "datetime.datetime.utcnow", "datetime.today"} or (
                name in {"datetime.now", "datetime.datetime.now"} and not call.args and not call.keywords
            ):
                found.append(f"{place}:{call.lineno}")

    assert found == []


def test_no_test_is_silenced_without_a_reason() -> None:
    """Skips and expected failures say why."""
    tests = Path(__file__).parents[1]
    found = [
        f"{file.relative_to(tests)}:{call.lineno}"
        for file in tests.rglob("*.py")
        for call in calls(ast.parse(file.read_text()))
        if ast.unparse(call.func) in {"pytest.mark.skip", "pytest.mark.xfail", "pytest.skip", "pytest.xfail"}
        and not call.args
        and "reason" not in {k.arg for k in call.keywords}
    ]

    assert found == []


def _reached(start: str) -> dict[str, ast.AST]:
    """Return the modules of this package that importing `start` imports."""
    modules = {_module_name(place): tree for place, tree in TREES.items()}
    reached: dict[str, ast.AST] = {}
    waiting = [start]
    while waiting:
        module = waiting.pop()
        if module in reached or module not in modules:
            continue
        reached[module] = modules[module]
        parts = module.split(".")
        waiting += [".".join(parts[:n]) for n in range(1, len(parts))]
        waiting += [name for name in imports(modules[module], top_only=True) if name.startswith("mlcycle_nb")]
    return reached


def _module_name(place: str) -> str:
    parts = ["mlcycle_nb", *place.removesuffix(".py").split("/")]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
