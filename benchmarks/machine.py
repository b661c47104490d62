"""On what were figures measured? What every result says of its machine."""

import platform
from typing import Any

import psutil


def machine() -> dict[str, Any]:
    """Cores, Python and operating system."""
    return {
        "cores": psutil.cpu_count(),
        "python": platform.python_version(),
        "system": platform.platform(),
    }
