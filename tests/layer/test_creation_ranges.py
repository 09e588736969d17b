"""Ranges of creation time side by side: everything is listed once, wherever it lies in time."""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.layer.builders import NOON, customer_meter
from usage_reporting.creation_ranges import (
    NARROWEST,
    STRIPES_FIRST_YEAR,
    CreationRange,
    side_by_side,
)
from usage_reporting.errors import StripeUnavailableError
from usage_reporting.model import CustomerMeter
from usage_reporting.windows import DAY

PAGE = 100
ANYBODY = customer_meter()
COUNT = 5_000
SPLITS = math.ceil(math.log2((NOON - STRIPES_FIRST_YEAR) / NARROWEST))
"""So often a range of all the time there is can be halved in a row."""


@dataclass(frozen=True)
class ListedPage:
    """One page of customer meters."""

    customer_meters: list[CustomerMeter]
    cursor: str
    oldest: int = 0
    has_more: bool = False


@dataclass
class Listed:
    """Stripe's list, newest first; ids are numbers in that order."""

    created: list[int]
    page: int = PAGE
    asked: list[CreationRange] = field(default_factory=list)
    taken: Counter[str] = field(default_factory=Counter)
    """How often each was in a page that somebody took."""
    at_once: int = 0
    under_way: int = 0
    delay: Callable[[], int] = lambda: 0
    fails_at: int = -1

    def __post_init__(self) -> None:
        self.created.sort(reverse=True)

    async def ask(self, wanted: CreationRange) -> ListedPage:
        self.asked.append(wanted)
        number = len(self.asked)
        self.under_way += 1
        self.at_once = max(self.at_once, self.under_way)
        try:
            for _ in range(1 + self.delay()):
                await asyncio.sleep(0)
        finally:
            self.under_way -= 1
        if number == self.fails_at:
            raise StripeUnavailableError("Stripe gave no answer")
        first = int(wanted.after) + 1 if wanted.after else 0
        rows = (
            number
            for number in range(first, len(self.created))
            if wanted.since <= self.created[number] < (wanted.until or math.inf)
        )
        found = [number for number, _ in zip(rows, range(self.page + 1), strict=False)]
        kept = [replace(ANYBODY, customer=str(number)) for number in found[: self.page]]
        oldest = self.created[found[len(kept) - 1]] if kept else 0
        cursor = kept[-1].customer if kept else ""
        return ListedPage(kept, cursor, oldest, has_more=len(found) > self.page)

    async def all(
        self, *first: CreationRange, at_once: int = 4, whole_pages: int = 20, stop: int = -1
    ) -> list[CreationRange]:
        """List ranges one after the other; what is left after so many pages of each."""
        rest: list[CreationRange] = []
        for one in first or (CreationRange(),):
            listing = side_by_side(self.ask, one, at_once=at_once, whole_pages=whole_pages)
            async with aclosing(listing) as pages:
                number = 0
                async for page, left in pages:
                    self.taken.update(one.customer for one in page.customer_meters)
                    number += 1
                    if number == stop:
                        rest.extend(left)
                        break
        return rest

    @property
    def is_complete(self) -> bool:
        return self.taken == Counter(str(number) for number in range(len(self.created)))


def exponential() -> list[int]:
    """Twice as many each year."""
    chance = random.Random(1)
    return [NOON - int(chance.expovariate(math.log(2) / (365 * DAY))) for _ in range(COUNT)]


POPULATIONS = {
    "one second": ([NOON - 400 * DAY] * COUNT, 1),
    "exponential": (exponential(), 1),
    "even": ([NOON - DAY * number // 4 for number in range(COUNT)], 1),
    "all old": ([STRIPES_FIRST_YEAR + 400 * DAY + number for number in range(COUNT)], 1),
    "years apart": (
        [NOON - number for number in range(COUNT // 2)]
        + [NOON - 3_000 * DAY - number for number in range(COUNT // 2)],
        2,
    ),
}


@pytest.mark.parametrize("at_once", [1, 2, 4, 25])
@pytest.mark.parametrize("name", POPULATIONS)
def test_everything_is_listed_once_in_little_more_calls_than_pages(name: str, at_once: int) -> None:
    created, clusters = POPULATIONS[name]
    listed = Listed(list(created))

    assert asyncio.run(listed.all(at_once=at_once)) == []

    assert listed.is_complete
    assert listed.at_once <= at_once
    pages = COUNT // PAGE
    # A call more for each halving: until those between which all lie are near, and as chains end.
    halvings = clusters * SPLITS + at_once if at_once > 1 else 0
    assert len(listed.asked) <= pages + min(pages - 20, halvings)


def test_a_chain_of_many_pages_is_listed_in_a_quarter_of_the_time() -> None:
    """Time is counted in rounds of the event loop, of which each call takes fifty."""
    rounds = {}
    for at_once in (1, 4):
        listed = Listed([NOON - 17 * number for number in range(20_000)], delay=lambda: 50)

        async def count(listed: Listed = listed, at_once: int = at_once) -> int:
            work = asyncio.ensure_future(listed.all(at_once=at_once))
            passed = 0
            while not work.done():
                await asyncio.sleep(0)
                passed += 1
            return passed

        rounds[at_once] = asyncio.run(count())
    assert rounds[4] < 0.45 * rounds[1]


def test_2000_subscriptions_are_one_chain_without_a_filter() -> None:
    listed = Listed([NOON - DAY * number for number in range(2_000)])
    asyncio.run(listed.all())

    assert len(listed.asked) == 20
    assert listed.at_once == 1
    assert all(one.is_whole and one.filters == {} for one in listed.asked)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from([0, 1, 2, 9, 100, 5_000, DAY, 90 * DAY, 3_000 * DAY]), max_size=60),
    st.integers(1, 6),
    st.integers(1, 7),
    st.randoms(use_true_random=False),
)
def test_however_it_is_cut_everything_is_listed_once(
    distances: list[int], at_once: int, stop: int, chance: random.Random
) -> None:
    """What is left is listed by a chain each, and cut again."""
    created = [NOON]
    for distance in distances:
        created.append(created[-1] - distance)
    listed = Listed(created, page=2, delay=lambda: chance.randrange(4))

    async def run() -> None:
        rest = await listed.all(at_once=at_once, whole_pages=2, stop=stop)
        while rest:
            rest = await listed.all(*rest, at_once=1, stop=stop)

    asyncio.run(run())
    assert listed.is_complete


def test_what_is_left_is_asked_for_as_it_is_given() -> None:
    listed = Listed([NOON - DAY * number for number in range(COUNT)])
    left = asyncio.run(listed.all(at_once=4, whole_pages=1, stop=6))

    assert 2 <= len(left) <= 4
    bounds = sorted((one.since, one.until or NOON * 2) for one in left)
    assert all(until <= since for (_, until), (since, _) in pairwise(bounds))
    assert bounds[0][0] == 0, "nothing may be older than the first bound"
    assert not any(one.is_whole for one in left)


def test_no_chain_is_more_than_a_page_ahead() -> None:
    listed = Listed([NOON - 17 * number for number in range(COUNT)])

    async def run() -> None:
        taken = 0
        async with aclosing(side_by_side(listed.ask, CreationRange(), at_once=4)) as pages:
            async for _ in pages:
                taken += 1
                for _ in range(50):
                    await asyncio.sleep(0)
                assert len(listed.asked) <= taken + 4

    asyncio.run(run())


@pytest.mark.parametrize("fails_at", [1, 5, 30])
def test_an_error_of_one_chain_ends_the_others(fails_at: int) -> None:
    listed = Listed([NOON - 17 * number for number in range(COUNT)], fails_at=fails_at)

    async def run() -> None:
        with pytest.raises(StripeUnavailableError, match="no answer"):
            await listed.all(whole_pages=2)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(run())
    assert listed.under_way == 0


def test_who_is_cancelled_leaves_no_call_behind() -> None:
    listed = Listed([NOON - 17 * number for number in range(COUNT)], delay=lambda: 5)

    async def run() -> None:
        work = asyncio.ensure_future(listed.all(whole_pages=2))
        for _ in range(60):
            await asyncio.sleep(0)
        assert listed.under_way > 1
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(run())
    assert listed.under_way == 0


def test_objects_that_do_not_say_when_they_were_created_are_one_chain() -> None:
    listed = Listed([0] * 1_000)
    asyncio.run(listed.all(whole_pages=1))

    assert listed.is_complete
    assert listed.at_once == 1


def test_the_filter_is_half_open() -> None:
    assert CreationRange(5, 9).filters == {"created": {"gte": 5, "lt": 9}}
    assert CreationRange(since=5).filters == {"created": {"gte": 5}}
    assert CreationRange(until=9, after="sub_1").filters == {"created": {"lt": 9}}
