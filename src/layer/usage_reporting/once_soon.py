"""Does a piece of work once for all who ask for it before the event loop comes to it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class OnceSoon:
    """Calls `work` when the event loop has done what is ready now, however often it was asked to.

    What a loop that is over did not come to is asked for again on the next one.
    """

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self._asked: asyncio.AbstractEventLoop | None = None

    def __call__(self) -> None:
        """Have the work done soon."""
        loop = asyncio.get_running_loop()
        if self._asked is not loop:
            self._asked = loop
            loop.call_soon(self._run)

    def _run(self) -> None:
        self._asked = None
        self._work()
