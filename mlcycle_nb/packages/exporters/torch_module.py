"""Torch modules: exported by ``torch.onnx.export`` with a dynamic batch, softmax and argmax added for classifiers."""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING, Any

from mlcycle_nb.errors import InvalidInput
from mlcycle_nb.packages.exporters import CannotExport

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from mlcycle_nb.packages.golden import Arrays
    from mlcycle_nb.packages.manifest import Task


class TorchModule:
    """Adapter of ``torch.nn.Module``."""

    name = "torch"

    def accepts(self, model: Any) -> bool:
        """Accept modules, without importing torch for anything else."""
        return any(kind.__module__ == "torch.nn.modules.module" for kind in type(model).__mro__)

    def answer(self, model: Any, rows: NDArray[np.generic], task: Task) -> Arrays:
        """Return the module's answers in evaluation mode."""
        import numpy as np
        import torch

        headed, was_training = _head(model, rows, task), model.training
        model.eval()
        try:
            with torch.no_grad():
                outputs = headed(torch.from_numpy(np.ascontiguousarray(rows)).to(_device(model)))
        finally:
            model.train(was_training)
        names = ("value",) if task == "regression" else ("label", "probabilities")
        return {name: tensor.cpu().numpy() for name, tensor in zip(names, outputs, strict=True)}

    def to_onnx(self, model: Any, rows: NDArray[np.generic], task: Task) -> bytes:
        """Export a copy on the CPU; graphs are stripped of source paths."""
        import copy

        import numpy as np
        import torch

        from mlcycle_nb.packages.exporters.graph_edit import finish

        twin = copy.deepcopy(model).cpu().eval()
        for parameter in twin.parameters():
            parameter.requires_grad_(False)
        names = ["value"] if task == "regression" else ["label", "probabilities"]
        # Two rows at least: with one, the exporter takes the batch for a constant.
        example = torch.from_numpy(np.ascontiguousarray(np.resize(rows, (max(2, len(rows)), *rows.shape[1:]))))
        noisy = logging.getLogger("torch.onnx")
        level, noisy.level = noisy.level, logging.ERROR
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                program = torch.onnx.export(
                    _head(twin, rows, task).eval(),
                    (example,),
                    dynamo=True,
                    input_names=["input"],
                    output_names=names,
                    dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=65536)},),
                    verbose=False,
                )
        except Exception as failure:  # the exporter raises its own tree, and whatever the model's forward raises
            raise CannotExport(f"torch cannot export this module: {_first_line(failure)}") from failure
        finally:
            noisy.level = level
        if program is None:
            raise CannotExport("torch exported nothing")
        return finish(program.model_proto, rename={})

    def class_names(self, model: Any) -> tuple[str, ...]:
        """Return nothing: a module does not name its classes."""
        return ()


def _head(model: Any, rows: NDArray[np.generic], task: Task) -> torch.nn.Module:
    """Return `model` with the outputs of its task."""
    import numpy as np
    import torch

    from mlcycle_nb.packages.exporters.torch_heads import Classification, Regression

    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            raw = model(torch.from_numpy(np.ascontiguousarray(rows[:64])).to(_device(model)))
    finally:
        model.train(was_training)
    if not isinstance(raw, torch.Tensor):
        raise InvalidInput("a packaged module returns one tensor", value=type(raw).__name__)
    if raw.shape[:1] != (len(rows[:64]),) or raw.ndim > 2:
        raise InvalidInput(f"a packaged module returns one row a row, got shape {list(raw.shape)}")
    single = raw.ndim == 1 or raw.shape[1] == 1
    if task == "regression":
        return Regression(model, squeeze=raw.ndim == 2 and single)
    bounded = bool(((raw >= 0) & (raw <= 1)).all())
    already = bounded and (single or bool(torch.allclose(raw.sum(dim=1), torch.ones(len(raw)).to(raw), atol=1e-4)))
    return Classification(model, single=single, already=already)


def _device(model: Any) -> torch.device:
    import torch

    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def _first_line(failure: Exception) -> str:
    return next((line.strip() for line in str(failure).splitlines() if line.strip()), type(failure).__name__)[:200]
