"""Lists objects in several ranges of creation time side by side: of a chain of pages each waits for the last.

Where objects lie in time is not known, nor when the oldest was created. So whenever fewer ranges are listed
than may be, the widest is halved; of an empty half one page is asked for, and the other is halved next.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

STRIPES_FIRST_YEAR = 1_262_304_000
"""2010-01-01T00:00:00Z, UTC seconds: where the halving of a range without a lower bound begins."""

NARROWEST = 10
"""Seconds: a narrower range is listed as it is, so that what was imported at once is not cut up for ever."""


class Page(Protocol):
    """What has to be known of a page to go on after it."""

    @property
    def cursor(self) -> str:
        """The last object's id."""

    @property
    def oldest(self) -> int:
        """When the last object was created, UTC seconds; 0: not known."""

    @property
    def has_more(self) -> bool:
        """Whether objects follow."""


@dataclass(frozen=True, slots=True)
class CreationRange:
    """What was created in [since, until), UTC seconds, and follows on an object in the list; 0: no bound."""

    since: int = 0
    until: int = 0
    after: str = ""

    @property
    def is_whole(self) -> bool:
        """Whether nothing of the list lies beside it."""
        return not self.since and not self.until

    @property
    def filters(self) -> dict[str, Any]:
        """Stripe's filter (API reference, "List subscriptions", `created`)."""
        bounds = {"gte": self.since, "lt": self.until}
        created = {name: bound for name, bound in bounds.items() if bound}
        return {"created": created} if created else {}


@dataclass(frozen=True, slots=True)
class _Left:
    """What is left of a range: nothing newer than `newest`, UTC seconds; 0: that is not known."""

    range: CreationRange
    newest: int = 0

    @property
    def width(self) -> int:
        """Seconds in which all of it was created."""
        return self.newest - self._oldest

    @property
    def _oldest(self) -> int:
        return self.range.since or STRIPES_FIRST_YEAR

    def after(self, page: Page) -> _Left:
        """What is left after one more page."""
        return _Left(replace(self.range, after=page.cursor), page.oldest)

    def halved(self) -> tuple[_Left, _Left]:
        """The newer half, which goes on with the chain, and the older one; no second is in both."""
        middle = self._oldest + self.width // 2
        older = CreationRange(self.range.since, middle)
        return replace(self, range=replace(self.range, since=middle)), _Left(older, middle - 1)


async def side_by_side[P: Page](
    ask: Callable[[CreationRange], Awaitable[P]],
    first: CreationRange,
    *,
    at_once: int,
    whole_pages: int = 0,
) -> AsyncGenerator[tuple[P, list[CreationRange]]]:
    """List a range, newest first, in up to `at_once` chains of pages once `whole_pages` are listed.

    Gives each page with what is left to be listed then, as it has to be asked for. No chain is more than a
    page ahead of whoever takes them. Raises what `ask` raises; no call goes on after the end.
    """
    asked: dict[asyncio.Future[P], _Left] = {}

    def go_on(*ranges: _Left) -> None:
        for one in ranges:
            asked[asyncio.ensure_future(ask(one.range))] = one

    go_on(_Left(first))
    pages = 0
    try:
        while asked:
            await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
            answered = next(one for one in asked if one.done())
            before, page = asked.pop(answered), answered.result()
            pages += 1
            if page.has_more:
                left = before.after(page)
                has_room = pages >= whole_pages and len(asked) + 2 <= at_once
                widest = max([NARROWEST, *(one.width for one in asked.values())])
                go_on(*(left.halved() if has_room and left.width >= widest else [left]))
            yield page, [one.range for one in asked.values()]
    finally:
        for call in asked:
            call.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
