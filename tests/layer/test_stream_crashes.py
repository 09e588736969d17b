"""Whole reports that stream, crash anywhere and overtake each other: each unit counts once."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from tests.layer.stage import Behaviour, World
from tests.layer.test_crashes import Reports
from tests.layer.two_days import (
    DELIVERED,
    MORNING,
    TROUBLES,
    check_a_crash_at_any_step,
    check_a_second_worker_between_any_two_steps,
    world_of_two_days,
)
from usage_reporting.meter_event_stream import STREAM
from usage_reporting.model import Status
from usage_reporting.windows import HOUR


def test_the_slices_of_a_day_share_a_request() -> None:
    with world_of_two_days(streams=True) as world:
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
    trouble: Behaviour, *, streams_still: bool
) -> None:
    check_a_crash_at_any_step(answers=[trouble], streams=True, streams_still=streams_still)


def test_a_second_worker_may_run_whole_between_any_two_steps() -> None:
    check_a_second_worker_between_any_two_steps(streams=True)


@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_lasting_trouble_ends_with_each_unit_once(trouble: Behaviour) -> None:
    with world_of_two_days(streams=True) as world:
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
