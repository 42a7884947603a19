"""On-device runtime: camera frames in, saliency maps out, and the tools that measure it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

# ONNX Runtime reads this when it is imported. Without it, version 1.31 stores an id of the machine and
# contacts Microsoft's host.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from edge.api import (
        CheckError,
        Frame,
        InputError,
        Region,
        Release,
        Result,
        SaliencyModel,
        Source,
        load_release,
        open_model,
        open_source,
        run_model,
    )

__all__ = [
    "CheckError",
    "Frame",
    "InputError",
    "Region",
    "Release",
    "Result",
    "SaliencyModel",
    "Source",
    "load_release",
    "open_model",
    "open_source",
    "run_model",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import edge` stays fast and needs no engine."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from edge import api

    globals()[name] = value = getattr(api, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
