"""Starts the processes of a measurement, with nothing of the command that asked for it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from types import ModuleType
from typing import Any, Final
from unittest import mock

SPAWN: Final = get_context("spawn")


def started(
    target: Callable[..., None], *arguments: Any, has_children: bool = False
) -> tuple[SpawnProcess, Connection]:
    """A process that runs `target(pipe, *arguments)`, and our end of the pipe; it ends with this one.

    A spawned process imports the main module, which here is the whole command line.
    """
    ours, theirs = SPAWN.Pipe()
    process = SPAWN.Process(target=target, args=(theirs, *arguments), daemon=not has_children)
    with mock.patch.dict(sys.modules, {"__main__": ModuleType("__main__")}):
        process.start()
    theirs.close()
    return process, ours
