"""A reading that is repeated at most every few seconds, and that nobody waits for long."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable

from cli.errors import explain

FRESH_S = 10.0
PATIENCE_S = 2.5
_LEFT_TO_END_S = 1.0


class Reading[T]:
    """The newest value of what `read` gives, and when and whether it could be read.

    A value is fresh for `fresh_s` seconds; nobody waits longer than `patience_s`, None: to the end.

    `read` may hand over a part of what it finds before it ends, by `publish`. It is only used on one event
    loop.
    """

    def __init__(
        self,
        read: Callable[[], Awaitable[T]],
        clock: Callable[[], int],
        *,
        fresh_s: float = FRESH_S,
        patience_s: float | None = PATIENCE_S,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self.value: T | None = None
        self.read_at = 0
        """When the value was there, UTC seconds; 0: there is none yet."""
        self.error = ""
        """Why the newest reading failed; the value is then an older one."""
        self._read = read
        self._clock = clock
        self._fresh_s = fresh_s
        self._patience_s = patience_s
        self._timer = timer
        self._stale_from = 0.0
        self._is_forgotten = False
        self._task: asyncio.Task[None] | None = None

    @property
    def is_under_way(self) -> bool:
        """Whether a newer value is being read."""
        return self._task is not None and not self._task.done()

    async def fresh(self) -> T | None:
        """The value, read anew where it is old; an older one, or None, when that takes too long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._patience_s):
                await self.newest()
        return self.value

    async def newest(self) -> T | None:
        """The value, read anew where it is old; None where it never could be read."""
        if self._is_forgotten:
            await self._ended()
        if not self.is_under_way and self._timer() >= self._stale_from:
            self._is_forgotten = False
            self._task = asyncio.create_task(self._renew())
        await self._ended()
        return self.value

    def publish(self, value: T) -> None:
        """Show a part of what is being read."""
        self.value = value
        self.read_at = self._clock()

    def forget(self) -> None:
        """Have it read anew by whoever asks next; what is under way may have missed what changed."""
        self._is_forgotten = True
        self._stale_from = 0.0

    async def close(self) -> None:
        """End what is under way, if it does not end by itself at once."""
        if self._task is not None:
            await asyncio.wait([self._task], timeout=_LEFT_TO_END_S)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _ended(self) -> None:
        if self._task is not None and not self._task.done():
            await asyncio.shield(self._task)

    async def _renew(self) -> None:
        try:
            self.publish(await self._read())
            self.error = ""
        except Exception as error:  # noqa: BLE001 - the page shows it beside the older value
            self.error, _ = explain(error)
        if not self._is_forgotten:
            self._stale_from = self._timer() + self._fresh_s
