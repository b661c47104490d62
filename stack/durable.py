"""What outlasts a power cut: a folder is on disk before anything says that it is complete."""

import os
from pathlib import Path


def sync(folder: Path) -> None:
    """Return when a folder, and all that is in it, is on disk.

    Raises:
        OSError: it cannot be written.
    """
    for path in (*folder.rglob("*"), folder):
        if path.is_symlink():
            continue
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
