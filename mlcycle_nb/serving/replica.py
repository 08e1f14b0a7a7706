"""One replica: a process that answers for one package on a Unix socket.

``python -m mlcycle_nb.serving.replica --config FILE.json``. The socket appears only after the golden batch is answered
correctly, so whoever can connect finds a replica that is ready. SIGTERM drains: not ready and no new connections, then
the requests in hand are answered, then the prediction log is flushed.
"""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from mlcycle_nb.errors import MLCycleError
from mlcycle_nb.packages import code_permit
from mlcycle_nb.packages.package import open_package
from mlcycle_nb.packages.runtime import check_golden, load_runtime
from mlcycle_nb.serving.app import ReplicaApp
from mlcycle_nb.serving.memory import give_back, use_one_arena
from mlcycle_nb.serving.prediction_log import PredictionLogWriter
from mlcycle_nb.serving.replica_config import ReplicaConfig
from mlcycle_nb.serving.server import run

if TYPE_CHECKING:
    from mlcycle_nb.packages.formats import Runtime
    from mlcycle_nb.packages.package import Package

REFUSED_EXIT = 3
"""Exit code of a replica whose package or configuration is refused; starting it again cannot help."""
SWITCH_SECONDS = 0.0002
"""How long the log thread may keep the interpreter from the event loop; Python's default is 5 ms, felt as latency."""


def build_app(config: ReplicaConfig) -> ReplicaApp:
    """Load the package, prove it on its golden batch, and return the application that serves it."""
    # The model is loaded, warmed and always run in one and the same thread.
    executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
    loading = executor.submit(_load, config)
    log = None
    if config.prediction_log is not None:
        log = PredictionLogWriter(
            config.prediction_log,
            config.environment,
            config.model,
            int(config.version),
            sample_rate=config.sample_rate,
        )
        # Meanwhile the model loads: most of both is reading files.
        import pyarrow  # noqa: F401
    package, runtime = loading.result()
    app = ReplicaApp(
        package,
        runtime,
        model=config.model,
        version=config.version,
        environment=config.environment,
        executor=executor,
        limits=config.limits,
        log=log,
    )
    inputs, outputs = package.golden()
    batch = inputs[package.signature.inputs[0].name]
    executor.submit(app.batcher.warm, batch).result()
    if log is not None:
        log.warm(batch, outputs)
    return app


def _load(config: ReplicaConfig) -> tuple[Package, Runtime]:
    package = open_package(config.package_path, config.digest)
    runtime = load_runtime(package, threads=config.threads, trusted_keys=config.trusted_keys)
    check_golden(package, runtime)
    return package, runtime


def serve(config: ReplicaConfig) -> None:
    """Serve until SIGTERM."""

    def settle() -> None:
        # What start-up made stays for good: later collections need not walk it.
        gc.collect()
        gc.freeze()
        give_back()
        sys.setswitchinterval(SWITCH_SECONDS)

    run(build_app(config), config.socket, on_ready=settle)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one replica; say in one line why it cannot."""
    parser = argparse.ArgumentParser(prog="mlcycle_nb.serving.replica", description="Serve one model package.")
    parser.add_argument("--config", type=Path, required=True, help="JSON file that says what to serve, and where")
    options = parser.parse_args(arguments)
    code_permit.grant()
    use_one_arena()
    try:
        serve(ReplicaConfig.read(options.config))
    except MLCycleError as failure:
        print(failure, file=sys.stderr, flush=True)
        return REFUSED_EXIT
    return 0


if __name__ == "__main__":
    sys.exit(main())
