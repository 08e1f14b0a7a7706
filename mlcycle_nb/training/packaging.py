"""Packages a job's trained model, in a process of its own: ``python -m mlcycle_nb.training.packaging REQUEST``.

The trained model is a pickle of the user's own code. It is opened here and nowhere else: not in the supervisor, and
not in a kernel that may hold other versions of the same classes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from mlcycle_nb.errors import InvalidInput, MLCycleError
from mlcycle_nb.files import write_atomically

ANSWER_NAME = "package.json"


def main(request_file: Path) -> int:
    """Build the package that a request describes and write the answer beside it."""
    request = json.loads(request_file.read_text())
    answer: dict[str, Any]
    try:
        answer = {"digest": build(request)}
    except MLCycleError as refused:
        answer = {"error": type(refused).__name__, "problem": refused.problem, "remedy": refused.remedy}
    except Exception as failure:  # the model's own code runs here and may raise anything
        answer = {"error": "EngineError", "problem": f"{type(failure).__name__}: {failure}", "remedy": ""}
    write_atomically(request_file.with_name(ANSWER_NAME), json.dumps(answer))
    return 0 if "digest" in answer else 1


def build(request: dict[str, Any]) -> str:
    """Return the digest of the package made of a job's result."""
    from mlcycle_nb.packages import PackageStore, build_package
    from mlcycle_nb.store.keys import signing_key
    from mlcycle_nb.training.hand_over import load_model

    sys.path[:] = [*dict.fromkeys([*request["sys_path"], *sys.path])]
    model, rows, document = load_model(Path(request["result"]))
    options = {**document, **{name: value for name, value in request["options"].items() if value is not None}}
    if "example" not in rows:
        raise InvalidInput(
            "the trained model came without rows, which its package is checked on",
            remedy="give reference=rows to fit(...), or example=rows to save_model(...)",
        )
    package = build_package(
        model,
        example=rows["example"],
        reference=rows.get("reference"),
        reference_labels=rows.get("labels"),
        feature_names=options.get("feature_names"),
        class_names=options.get("class_names"),
        format=options.get("format", "auto"),
        task=options["task"],
        out=PackageStore(Path(request["packages"])),
        signer=signing_key(request["workspace_id"]),
    )
    return package.digest


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
