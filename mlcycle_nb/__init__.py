"""The whole life of a machine-learning model, from a notebook.

Importing this package, and ``%load_ext mlcycle_nb``, load nothing heavy: torch, MLflow, Altair and pandas are
imported by the functions that need them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlcycle_nb.workspace import Workspace

__version__ = "0.1.0"
__all__ = ["Workspace", "__version__", "load_ipython_extension", "unload_ipython_extension"]


def __getattr__(name: str) -> Any:
    if name == "Workspace":
        from mlcycle_nb.workspace import Workspace

        return Workspace
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def load_ipython_extension(shell: Any) -> None:
    """Register all magics: called by ``%load_ext mlcycle_nb``."""
    from mlcycle_nb.extension import load

    load(shell)


def unload_ipython_extension(shell: Any) -> None:
    """Remove what `load_ipython_extension` registered."""
    from mlcycle_nb.extension import unload

    unload(shell)
