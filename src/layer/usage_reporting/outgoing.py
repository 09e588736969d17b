"""Customer meters on their way from a listing to the queue: put together to pages, and sent side by side."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import reduce
from itertools import batched, groupby
from types import TracebackType
from typing import Any, Self

from usage_reporting.model import CustomerMeter, Target
from usage_reporting.openmeter import MOST_SUBJECTS
from usage_reporting.pages import Queue, page_message
from usage_reporting.temporary_rows import TemporaryRows
from usage_reporting.windows import MINUTE, floor_minute

LARGEST_MESSAGE = 200_000
"""Characters: below the 256 KiB that a queue of SQS takes unless it is set to take more."""

SENDS_AT_ONCE = 8
"""Below the ten connections that boto3 keeps to one service."""
SENT_A_SECOND = 1_000.0
"""Customer meters that are surely read back, merged and sent within a second on a third of a processor, which
is what Lambda gives to 512 MB."""

CLOSING_EVERY = 15 * MINUTE
LAST_LOOK = 10 * MINUTE
"""So long before its deadline a draft is read for the last time, when no tick comes before that."""
TIME_OF_A_TICK = 3 * MINUTE
"""What a tick needs from its start until its pages are read."""


class Outgoing:
    """Customer meters of one listing; what is sent when it is left by an error stays sent."""

    def __init__(self, queue: Queue, clock: Callable[[], int]) -> None:
        self._queue = queue
        self._clock = clock
        self.queued = 0
        """Customer meters that were put on the queue."""
        self._filling: defaultdict[tuple[str, Target], dict[str, CustomerMeter]] = defaultdict(dict)
        """By OpenMeter meter and target, then by ledger key; less than a page of each."""
        self._kept = TemporaryRows()
        """Those that take the last value: whether a customer's spans overlap is known when all are listed."""
        self._under_way: set[asyncio.Future[None]] = set()

    async def __aenter__(self) -> Self:
        """Begin."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End; a send that was begun is not stopped."""
        self._kept.close()
        await asyncio.gather(*self._under_way, return_exceptions=True)

    @property
    def seconds_to_flush(self) -> float:
        """The time that `flush` takes at most."""
        return self._kept.count / SENT_A_SECOND

    @property
    def is_full(self) -> bool:
        """Whether it has to be flushed before more is added."""
        return self._kept.is_full

    async def add(self, found: Iterable[CustomerMeter]) -> None:
        """Take customer meters, and send the pages that are full. Raises AskAgainError."""
        kept = []
        for one in found:
            if one.target is Target.LAST:
                kept.append((one.openmeter_meter, one.pk, one.to_json()))
                continue
            name = (one.openmeter_meter, one.target)
            page = self._filling[name]
            # Bounds of all its subscriptions belong together where they are known together.
            page[one.pk] = page[one.pk].merged_with(one) if one.pk in page else one
            if len(page) == MOST_SUBJECTS:
                await self._send_page(list(self._filling.pop(name).values()))
        if kept:
            self._kept.add(kept)

    async def flush(self) -> None:
        """Send all that is left, and wait until the queue has it. Raises AskAgainError."""
        for page in self._filling.values():
            await self._send_page(list(page.values()))
        for kept in self._kept_pages():
            await self._send_page(kept)
        while self._under_way:
            await self._one_is_sent()

    def _kept_pages(self) -> Iterator[Sequence[CustomerMeter]]:
        for _, rows in groupby(self._kept.groups(), key=lambda row: row[0]):
            together = (_merged(bodies) for _, _, bodies in rows)
            yield from batched(together, MOST_SUBJECTS, strict=False)

    async def _send_page(self, page: Sequence[CustomerMeter]) -> None:
        await self._send(page)
        await self._send_for_the_last_look(page)
        self.queued += len(page)

    async def _send_for_the_last_look(self, page: Sequence[CustomerMeter]) -> None:
        """Queue what becomes final before the next closing tick once more, for ten minutes before that."""
        now = self._clock()
        next_tick = now - now % CLOSING_EVERY + CLOSING_EVERY
        later: dict[int, list[CustomerMeter]] = defaultdict(list)
        for one in page:
            if one.deadline is not None and one.deadline < next_tick + TIME_OF_A_TICK:
                delay = floor_minute(one.deadline - LAST_LOOK - now)
                if delay > 0:
                    later[delay].append(one)
        for delay, some in later.items():
            await self._send(some, delay)

    async def _send(self, page: Sequence[CustomerMeter], delay: int = 0) -> None:
        message = page_message(page)
        if len(page) > 1 and len(json.dumps(message)) > LARGEST_MESSAGE:
            half = len(page) // 2
            await self._send(page[:half], delay)
            await self._send(page[half:], delay)
            return
        while len(self._under_way) >= SENDS_AT_ONCE:
            await self._one_is_sent()
        send = asyncio.to_thread(self._queue.send, message, delay)
        self._under_way.add(asyncio.ensure_future(send))

    async def _one_is_sent(self) -> None:
        await asyncio.wait(self._under_way, return_when=asyncio.FIRST_COMPLETED)
        sent = next(one for one in self._under_way if one.done())
        self._under_way.remove(sent)
        sent.result()


def _merged(bodies: Iterable[dict[str, Any]]) -> CustomerMeter:
    return reduce(CustomerMeter.merged_with, map(CustomerMeter.from_json, bodies))
