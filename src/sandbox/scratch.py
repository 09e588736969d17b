"""A folder for files that are gone afterwards, in memory where there is room."""

from __future__ import annotations

import os
import shutil
import tempfile
from typing import Final

_MEMORY: Final = "/dev/shm"  # noqa: S108 - only a parent of temporary folders with random names
_MEMORY_NEEDED: Final = 2 * 1024**3


def scratch_folder(prefix: str) -> tempfile.TemporaryDirectory[str]:
    """A temporary folder; thousands of small files in it cost seconds on a disk."""
    in_memory = os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > _MEMORY_NEEDED
    return tempfile.TemporaryDirectory(
        prefix=prefix, dir=_MEMORY if in_memory else None, ignore_cleanup_errors=True
    )
