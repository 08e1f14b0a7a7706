"""One load on one address, by wrk: requests a second, latency, and what failed."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}


@dataclass(frozen=True, slots=True)
class Figures:
    """What one run of wrk measured; times in milliseconds."""

    per_second: float
    p50: float
    p99: float
    failed: int


def missing() -> str:
    """Return what to do where wrk is not installed; empty where it is."""
    return "" if shutil.which("wrk") else "wrk is not installed (apt-get install wrk)"


def load(folder: Path, url: str, body: bytes, headers: dict[str, str], *, clients: int, seconds: float) -> Figures:
    """Send `body` again and again over `clients` connections."""
    script = folder / "wrk.lua"
    text = body.decode().replace("\\", "\\\\").replace("'", "\\'")
    lines = ["wrk.method = 'POST'", f"wrk.body = '{text}'"]
    lines += [f"wrk.headers['{name}'] = '{value}'" for name, value in headers.items()]
    script.write_text("\n".join(lines))
    argv = ["wrk", "-t1", f"-c{clients}", f"-d{seconds:g}s", "--timeout", "10s", "--latency", "-s", str(script), url]
    told = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    failed = sum(int(number) for number in re.findall(r"Non-2xx or 3xx responses: (\d+)", told))
    broken = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", told)
    failed += sum(map(int, broken.groups())) if broken else 0
    rate = re.search(r"Requests/sec:\s+([\d.]+)", told)
    assert rate is not None, told
    return Figures(float(rate[1]), _time(told, "50%"), _time(told, "99%"), failed)


def _time(told: str, share: str) -> float:
    found = re.search(rf"{share}\s+([\d.]+)(us|ms|s|m)\b", told)
    assert found is not None, told
    return float(found[1]) * _UNITS[found[2]]
