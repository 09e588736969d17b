"""Reads many from OpenMeter in one query, so that one whom it refuses does not stop its neighbours."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from usage_reporting.errors import RefusedError, UnknownMeterError, UsageReportingError


async def read_apart[One](
    page: Sequence[One],
    read: Callable[[Sequence[One]], Awaitable[None]],
    not_read: Callable[[One, UsageReportingError], None],
) -> None:
    """Read a page of one meter by one query or, where OpenMeter refuses that, in halves.

    `not_read` is told of each that could not be read, and why. Where the meter itself is gone, nobody of the
    page can be read, and nothing more is asked.
    """
    try:
        await read(page)
    except RefusedError as error:
        if len(page) == 1 or isinstance(error, UnknownMeterError):
            for one in page:
                not_read(one, error)
            return
        half = len(page) // 2
        await read_apart(page[:half], read, not_read)
        await read_apart(page[half:], read, not_read)
    except UsageReportingError as error:
        for one in page:
            not_read(one, error)
