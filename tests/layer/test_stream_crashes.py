"""Whole reports that stream, crash anywhere and overtake each other: each unit counts once."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from tests.layer.stage import RENEWAL, Behaviour, World
from tests.layer.test_crashes import DELIVERED, MORNING, TROUBLES, TWO_DAYS, Reports
from usage_reporting.meter_event_stream import STREAM
from usage_reporting.model import Status
from usage_reporting.windows import HOUR, MINUTE


@pytest.fixture
def made() -> Iterator[list[World]]:
    worlds: list[World] = []
    yield worlds
    for world in worlds:
        world.close()


def world_of_two_days(made: list[World]) -> World:
    """A ledger that knows the customer meter, and usage of two days that was not yet sent."""
    world = World(is_streaming=True)
    made.append(world)
    assert world.run().status is Status.UNCHANGED
    world.clock.now = MORNING
    for instant, units in TWO_DAYS.items():
        world.usage.add(instant, units)
    return world


def steps_of(world: World) -> int:
    process = world.start()
    return 1 + sum(1 for _ in iter(lambda: world.advance(process), False))


def test_the_slices_of_a_day_share_a_request(made: list[World]) -> None:
    world = world_of_two_days(made)

    assert world.run().status is Status.SENT

    assert [(call["path"], len(call["params"]["events"])) for call in world.stripe.calls] == [
        (STREAM, 3),
        (STREAM, 2),
    ]
    assert world.differences() == {}
    assert world.run().status is Status.UNCHANGED


@pytest.mark.parametrize("streams_still", [False, True])
@pytest.mark.parametrize("trouble", [Behaviour.OK, *TROUBLES])
def test_a_report_that_crashes_at_any_step_is_mended_by_the_next(
    made: list[World], trouble: Behaviour, *, streams_still: bool
) -> None:
    unhurt = world_of_two_days(made)
    unhurt.stripe.behaviours = deque([trouble])
    last = steps_of(unhurt)
    assert last > 20

    for crashed_at in range(last):
        world = world_of_two_days(made)
        world.stripe.behaviours = deque([trouble])
        doomed = world.start()
        assert crashed_at == last - 1 or world.advance(doomed, crashed_at)
        if not doomed.is_done:
            world.crash(doomed)
        world.stripe.behaviours.clear()
        world.clock.now += MINUTE
        world.is_streaming = streams_still

        assert world.run().status in DELIVERED, crashed_at
        assert world.differences() == {}, crashed_at
        assert world.open_intents == []
        assert sorted(value for _, value in world.stripe.events) == [1, 2, 4, 8, 16]
        made.pop().close()


def test_a_second_worker_may_run_whole_between_any_two_steps(made: list[World]) -> None:
    last = steps_of(world_of_two_days(made))
    for stopped_at in range(1, last):
        world = world_of_two_days(made)
        slow = world.start()
        world.advance(slow, stopped_at)
        world.usage.add(RENEWAL + 11, 32)
        world.run()
        if not slow.is_done:
            assert world.finish(slow).status in DELIVERED, "who lost the race has read again"

        world.run()
        assert world.differences() == {}, stopped_at
        world.check_bounds()
        made.pop().close()


@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_lasting_trouble_ends_with_each_unit_once(made: list[World], trouble: Behaviour) -> None:
    world = world_of_two_days(made)
    world.stripe.otherwise = trouble
    for hours in (0, 1, 5):
        world.clock.now = MORNING + hours * HOUR
        world.run()
    world.stripe.otherwise = Behaviour.OK

    assert world.run().status in DELIVERED

    assert world.differences() == {}
    assert sorted(value for _, value in world.stripe.events) == [1, 2, 4, 8, 16]


class StreamedReports(Reports):
    """The same stories, where the stream is switched on and off."""

    @initialize(known=st.booleans())
    def begin(self, *, known: bool) -> None:
        self.world = World(is_streaming=True)
        if known:
            self.world.run()

    @rule(streaming=st.booleans())
    def switch(self, *, streaming: bool) -> None:
        self.world.is_streaming = streaming


TestStreamedReports = StreamedReports.TestCase
TestStreamedReports.settings = settings(max_examples=60, stateful_step_count=30)
