"""On their way to the queue, customer meters are neither lost nor piled up."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from tests.layer.builders import NOON, Clock, customer_meter
from usage_reporting.errors import AskAgainError
from usage_reporting.model import CustomerMeter, Target
from usage_reporting.outgoing import SENDS_AT_ONCE, Outgoing


@dataclass
class SlowQueue:
    """Takes ten milliseconds a message."""

    fails_at: int = -1
    begun: int = 0
    taken: list[int] = field(default_factory=list)
    at_once: int = 0
    under_way: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def send(self, message: dict[str, Any], delay: int = 0) -> None:
        with self.lock:
            number = self.begun
            self.begun += 1
            self.under_way += 1
            self.at_once = max(self.at_once, self.under_way)
        time.sleep(0.01)
        with self.lock:
            self.under_way -= 1
            if number == self.fails_at:
                raise AskAgainError("the page queue takes no message")
            self.taken.append(len(message["customer_meters"]))


def customers(first: int, count: int, **other: Any) -> list[CustomerMeter]:
    one = customer_meter(**other)
    return [replace(one, customer=f"cus_{number}") for number in range(first, first + count)]


async def sent(queue: SlowQueue, *pages: Sequence[CustomerMeter]) -> int:
    async with Outgoing(queue, Clock()) as outgoing:
        for page in pages:
            await outgoing.add(page)
        await outgoing.flush()
    return outgoing.queued


def test_sends_overlap_and_are_bounded() -> None:
    queue = SlowQueue()

    assert asyncio.run(sent(queue, *(customers(100 * page, 100) for page in range(40)))) == 4_000

    assert sum(queue.taken) == 4_000
    assert 1 < queue.at_once <= SENDS_AT_ONCE


@pytest.mark.parametrize("target", [Target.MIRROR, Target.LAST])
@pytest.mark.parametrize("fails_at", [0, 5, 19])
def test_one_message_that_is_not_taken_is_an_error(fails_at: int, target: Target) -> None:
    queue = SlowQueue(fails_at=fails_at)

    async def run() -> None:
        with pytest.raises(AskAgainError):
            await sent(queue, *(customers(100 * page, 100, target=target) for page in range(20)))
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(run())
    assert queue.under_way == 0
    assert len(queue.taken) == queue.begun - 1


def test_what_was_begun_is_sent_though_the_listing_fails() -> None:
    queue = SlowQueue()

    async def run() -> None:
        async with Outgoing(queue, Clock()) as outgoing:
            await outgoing.add(customers(0, 250))
            raise AskAgainError("Stripe gave no answer")

    with pytest.raises(AskAgainError, match="no answer"):
        asyncio.run(run())
    assert queue.taken == [100, 100]


def test_of_two_looks_the_earlier_one_counts() -> None:
    """A page that was asked for first may come last, and shows what was so then."""
    later, earlier = customer_meter(seen_at=NOON + 5), customer_meter(seen_at=NOON)

    assert later.merged_with(earlier).seen_at == earlier.merged_with(later).seen_at == NOON


def test_time_is_kept_to_send_those_who_wait_for_the_end() -> None:
    async def run() -> None:
        async with Outgoing(SlowQueue(), Clock()) as outgoing:
            await outgoing.add(customers(0, 150))
            assert outgoing.seconds_to_flush == 0
            await outgoing.add(customers(0, 1_000, target=Target.LAST))
            assert outgoing.seconds_to_flush == 1
            assert not outgoing.is_full

    asyncio.run(run())
