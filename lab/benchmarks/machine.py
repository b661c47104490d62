"""The machine that figures were measured on, and the result files."""

import json
import platform
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil


def machine() -> dict[str, Any]:
    """Cores, Python with its build (they differ by half in speed) and operating system."""
    return {
        "cores": psutil.cpu_count(),
        "python": sys.version,
        "system": platform.platform(),
    }


def write(output: Path, figures: Mapping[str, Any]) -> None:
    """Write figures as JSON, with the machine and the time."""
    result = {**figures, "machine": machine(), "at": datetime.now(UTC).isoformat(timespec="seconds")}
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(result, indent=2) + "\n")
