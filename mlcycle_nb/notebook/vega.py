"""Vega for the browser: bundled here, sent once a kernel, never asked of a network."""

from __future__ import annotations

import functools
import threading
from typing import Any

_making = threading.Lock()
_SNIPPET = "export { vegaEmbed };"


def library() -> Any:
    """Return the widget that holds Vega's source for all panels of this kernel; about 0.9 MB, made in two seconds."""
    with _making:  # panels ask from threads of their own
        return _library()


@functools.cache
def _library() -> Any:
    import altair as alt
    import anywidget
    import traitlets
    import vl_convert

    class VegaLibrary(anywidget.AnyWidget):
        """Holds the source; it has no face."""

        _esm = "export default { render() {} };"
        source = traitlets.Unicode().tag(sync=True)

    version = ".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2])
    return VegaLibrary(source=vl_convert.javascript_bundle(_SNIPPET, version))
