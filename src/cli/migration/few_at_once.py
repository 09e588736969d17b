"""Work on many things, a few of them at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

AT_ONCE = 8
"""The pacer keeps them within Stripe's rate limits."""


async def few_at_once[T, R](
    things: Iterable[T], work: Callable[[T], Awaitable[R]], done: Callable[[], None] = lambda: None
) -> list[R]:
    """What the work gives for each, in their order; `done` is called after each. Raises what it raises."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(thing: T) -> R:
        async with slots:
            found = await work(thing)
        done()
        return found

    return await asyncio.gather(*(one(thing) for thing in things))
