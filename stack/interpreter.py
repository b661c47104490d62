"""The fastest build of this Python version on the machine, by its path: ``python3 stack/interpreter.py``.

Builds of one version differ by half in speed: distributions compile with profile-guided optimisation, plain builds
are without. Imports only the standard library, as it runs before anything is installed.
"""

import os
import subprocess
import sys

SNIPPET = """
import time, ensurepip, ssl, venv
def work():
    began, seen, total = time.perf_counter(), {}, 0
    for n in range(200_000):
        seen[n & 1023] = n
        total += len(str(n))
    return time.perf_counter() - began
print(min(work() for _ in range(5)))
"""

BETTER = 0.85
"""Another build is chosen where it takes less than this share of this one's time."""


def seconds(python: str) -> float:
    """Seconds that a build takes for the snippet; infinity where it cannot make a virtual environment."""
    try:
        done = subprocess.run([python, "-c", SNIPPET], capture_output=True, text=True, timeout=30, check=True)  # noqa: S603 commands of ours, and no shell
        return float(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return float("inf")


def others() -> list[str]:
    """The paths of the other builds of this version on the search path."""
    name = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    found: dict[str, str] = {}
    for folder in os.get_exec_path():
        path = os.path.join(folder, name)
        if os.access(path, os.X_OK):
            found.setdefault(os.path.realpath(path), path)
    found.pop(os.path.realpath(sys.executable), None)
    return list(found.values())


def fastest() -> str:
    """The path of the build to use: this one, unless another is much faster."""
    own_s = seconds(sys.executable)
    best_s, best = min(((seconds(path), path) for path in others()), default=(own_s, sys.executable))
    return best if best_s < own_s * BETTER else sys.executable


if __name__ == "__main__":
    print(fastest())
