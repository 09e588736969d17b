"""Asks for the next page of a list while the present one is being worked on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Final

_END: Final = object()


async def read_ahead[T](pages: AsyncGenerator[T]) -> AsyncGenerator[T]:
    """Give what `pages` gives, one ahead of whoever takes it. Raises what `pages` raises, in its place."""
    ahead: asyncio.Task[object] = asyncio.ensure_future(anext(pages, _END))
    try:
        while (page := await ahead) is not _END:
            ahead = asyncio.ensure_future(anext(pages, _END))
            yield page  # type: ignore[misc]
    finally:
        ahead.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await ahead
        await pages.aclose()
