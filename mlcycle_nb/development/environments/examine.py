"""Run by an environment's own interpreter, alone: prints as JSON what can be imported there.

Nothing but the standard library is imported, because nothing else need be there.
"""

import hashlib
import importlib.util
import json
import os
import platform
import re
import sys
from importlib.metadata import Distribution, distributions

_NOT_CONTENT = ("/INSTALLER", "/REQUESTED", "/RECORD", "/direct_url.json", "/uv_cache.json", "/uv_build.json")


def _content(distribution: Distribution) -> str:
    """Return a digest of the files that a package installed, as its RECORD lists them.

    Compiled files and scripts are left out: they hold times and the environment's own place.
    """
    lines = []
    for file in distribution.files or ():
        path = str(file)
        if path.startswith("..") or path.endswith((*_NOT_CONTENT, ".pyc")) or file.hash is None:
            continue
        lines.append(f"{path} {file.hash.mode}={file.hash.value}")
    text = "\n".join(sorted(lines))
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}" if lines else ""


def _packages() -> list[dict[str, object]]:
    here = os.path.realpath(sys.prefix) + os.sep
    found: dict[str, dict[str, object]] = {}
    for distribution in distributions():
        title = distribution.metadata["Name"]
        name = re.sub(r"[-_.]+", "-", title or "").lower()
        if not name or name == "mlcycle-nb" or name in found:
            continue
        own = os.path.realpath(str(distribution.locate_file(""))).startswith(here)
        content = _content(distribution) if own else ""
        found[name] = {"name": name, "version": distribution.version, "own": own, "content": content}
    return list(found.values())


if __name__ == "__main__":
    json.dump(
        {
            "python": platform.python_version(),
            "prefix": sys.prefix,
            "packages": _packages(),
            "absent": [name for name in sys.argv[1:] if importlib.util.find_spec(name) is None],
        },
        sys.stdout,
    )
