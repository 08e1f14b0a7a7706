"""Serving: requests a second and latency beside `mlflow models serve`, LitServe and the bare function.

    python -m benchmarks serving

Ours is asked through the gateway, with a key, the signature enforced and the prediction log on, as `%deploy` starts it.
All servers are started once and measured in turn, round by round, while the others are suspended; each figure is the
median over the rounds. The load comes from wrk, on the same machine.
"""

from __future__ import annotations

import statistics
import tempfile
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path

from benchmarks import _servers, _wrk
from benchmarks._models import MODELS

CASES = ((1, 1), (8, 1), (64, 1), (8, 64))
ROUNDS = 5
SECONDS = 2.0
OURS, BARE, BARE_GATEWAY = "mlcycle, gateway", "bare function", "bare function, gateway"


def main() -> None:
    """Print the figures."""
    absent = _wrk.missing()
    if absent:
        print(f"not measured: {absent}")
        return
    if not _servers.has_litserve():
        print("without LitServe, which is not installed (pip install litserve)")
    for name in MODELS:
        with tempfile.TemporaryDirectory(prefix="b") as folder:
            measure(name, Path(folder))


def measure(name: str, folder: Path) -> None:
    """Measure all servers with one model."""
    model, rows = MODELS[name]()
    found: dict[tuple[int, int], dict[str, list[_wrk.Figures]]] = {case: defaultdict(list) for case in CASES}
    with ExitStack() as stack:
        servers, onnx = stack.enter_context(_servers.ours(folder, model, rows))
        servers += stack.enter_context(_servers.bare(folder, onnx, rows[:1]))
        servers.append(stack.enter_context(_servers.mlflow(folder, model, rows, columns=False)))
        if name == "A":
            servers.append(stack.enter_context(_servers.mlflow(folder, model, rows, columns=True)))
        if _servers.has_litserve():
            servers += [stack.enter_context(_servers.litserve(folder, model, rows, batch=batch)) for batch in (1, 64)]
        for server in servers:
            server.suspend()
            stack.callback(server.resume)
        for case in CASES:
            clients, size = case
            for round_ in range(ROUNDS + 1):  # the first one warms up
                for server in servers:
                    body, seconds = server.body(rows[:size]), SECONDS if round_ else 1.0
                    server.resume()
                    _servers.wait(server, rows)
                    figures = _wrk.load(folder, server.url, body, server.headers, clients=clients, seconds=seconds)
                    server.suspend()
                    if round_:
                        found[case][server.name].append(figures)
            tell(name, case, found[case])
        print(f"model {name}, memory of the processes that answer (MB), and seconds to the first answer")
        for server in servers:
            start = f"{server.start_seconds:6.1f} s" if server.start_seconds else ""
            print(f"  {server.name:40s} {server.memory_mb():7.0f} MB {start}")
    ratios(name, found)


def tell(name: str, case: tuple[int, int], found: dict[str, list[_wrk.Figures]]) -> None:
    """Print one case."""
    clients, size = case
    print(f"model {name}, {clients} clients, {size} rows a request", flush=True)
    for server, figures in found.items():
        rate = _median(figures, "per_second")
        ratio = _median(found[OURS], "per_second") / rate
        failed = sum(one.failed for one in figures)
        print(
            f"  {server:40s} {rate:8.0f} /s   p50 {_median(figures, 'p50'):7.2f} ms   "
            f"p99 {_median(figures, 'p99'):7.2f} ms   failed {failed}   ours is {ratio:5.1f} times",
            flush=True,
        )


def ratios(name: str, found: dict[tuple[int, int], dict[str, list[_wrk.Figures]]]) -> None:
    """Print what is aimed at."""
    many, one = found[64, 1], found[1, 1]
    share = _median(many[OURS], "per_second") / _median(many[BARE_GATEWAY], "per_second")
    print(f"model {name}, 64 clients: replica {share:.2f} of the bare function, both behind the gateway (aim 0.7)")
    slower = _median(one[OURS], "p50") - _median(one[BARE_GATEWAY], "p50")
    print(f"model {name}, one client: p50 {slower:+.2f} ms beside the bare function (aim 0.3)")
    added = [_median(one[BARE_GATEWAY], key) - _median(one[BARE], key) for key in ("p50", "p99")]
    print(
        f"model {name}, one client: the gateway adds p50 {added[0]:.2f} ms (aim 0.2), p99 {added[1]:.2f} ms (aim 0.6)"
    )


def _median(figures: list[_wrk.Figures], key: str) -> float:
    return statistics.median(getattr(one, key) for one in figures)


if __name__ == "__main__":
    main()
