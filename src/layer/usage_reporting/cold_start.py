"""Imported first by each function: while it starts, Python does not look for garbage.

All that is loaded at a start stays: to look through it takes a part of the start, and of later invocations.
"""

from __future__ import annotations

import gc

gc.disable()


def is_over() -> None:
    """Look for garbage again, but not among what is loaded now."""
    gc.freeze()
    gc.enable()
