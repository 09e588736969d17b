"""Ending a long command in order: on Ctrl-C, and on SIGTERM as on Ctrl-C."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import typer

from cli.output import warn

STOPPED = 130
"""The exit code of a command that was stopped."""


@contextmanager
def stoppable(said: str) -> Iterator[None]:
    """End with this line and `STOPPED`, after all that is inside was taken down."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    except KeyboardInterrupt:
        warn(said)
        raise typer.Exit(STOPPED) from None
    finally:
        signal.signal(signal.SIGTERM, before)
