"""Whole reports that crash anywhere, overtake each other and are answered anyhow: nothing counts twice."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.layer.stage import EVENING, RENEWAL, Behaviour, Process, World
from tests.layer.two_days import (
    DELIVERED,
    TROUBLES,
    TWO_DAYS,
    check_a_crash_at_any_step,
    check_a_second_worker_between_any_two_steps,
    steps_of_two_days,
    world_of_two_days,
)
from usage_reporting.heads import Options
from usage_reporting.model import Status
from usage_reporting.windows import DAY, HOUR, MINUTE


def test_a_report_of_two_days_sends_each_slice_once() -> None:
    with world_of_two_days() as world:
        assert world.run().status is Status.SENT
        assert world.differences() == {}
        assert sorted(value for _, value in world.stripe.events) == [1, 2, 4, 8, 16]
        assert world.run().status is Status.UNCHANGED
        assert len(world.stripe.events) == 5


@pytest.mark.parametrize("trouble", [Behaviour.OK, *TROUBLES])
def test_a_report_that_crashes_at_any_step_is_mended_by_the_next(trouble: Behaviour) -> None:
    check_a_crash_at_any_step(answers=[Behaviour.OK, trouble])


@pytest.mark.parametrize("hours", [1, 22])
def test_a_crash_at_any_step_is_mended_hours_later_with_later_usage(hours: int) -> None:
    for crashed_at in range(1, steps_of_two_days()):
        with world_of_two_days() as world:
            doomed = world.start()
            world.advance(doomed, crashed_at)
            if not doomed.is_done:
                world.crash(doomed)
            for instant in TWO_DAYS:
                world.usage.add(instant + 1, 32)
            world.clock.now += hours * HOUR

            world.run()
            assert world.differences() == {}, crashed_at


def test_a_second_worker_may_run_whole_between_any_two_steps() -> None:
    check_a_second_worker_between_any_two_steps()


@pytest.mark.parametrize("crash", [False, True])
def test_what_became_unknown_over_23_hours_ago_is_never_sent_blindly(*, crash: bool) -> None:
    with world_of_two_days(answers=[Behaviour.TAKEN_BUT_SILENT]) as world:
        world.stripe.otherwise = Behaviour.NEVER_ARRIVED
        process = world.start()
        while not world.stripe.events:
            world.advance(process)
        if crash:
            world.crash(process)
        else:
            world.finish(process)
        taken = list(world.stripe.events)
        world.stripe.otherwise = Behaviour.OK
        world.clock.now += 25 * HOUR

        unknown, sent = set(world.open_intents), len(world.stripe.calls)
        assert world.run().status is Status.DOUBTED
        assert not unknown & {call["params"]["identifier"] for call in world.stripe.calls[sent:]}
        world.check_bounds()

        for _ in range(2):
            world.clock.now += 10 * MINUTE
            world.run()
        assert [event for event in world.stripe.events if event in taken] == taken
        assert world.differences() == {}


class Reports(RuleBasedStateMachine):
    """Reports of one customer meter over a renewal, with everything that can come between."""

    @initialize(known=st.booleans())
    def begin(self, *, known: bool) -> None:
        self.world = World()
        if known:
            self.world.run()

    @property
    def running(self) -> list[Process]:
        return self.world.processes

    def chosen(self, which: int) -> Process:
        return self.running[which % len(self.running)]

    # OpenMeter

    @rule(ago=st.sampled_from([1, 70, 600, HOUR, 3 * HOUR, 20 * HOUR]), units=st.integers(1, 9))
    def use(self, ago: int, units: int) -> None:
        """Usage arrives when it happens, or late."""
        self.world.usage.add(max(self.world.clock() - ago, EVENING), units)

    @rule(which=st.integers(0, 9), units=st.integers(1, 9))
    def take_back(self, which: int, units: int) -> None:
        """OpenMeter corrects downwards; a slice is never negative."""
        events = self.world.usage.events
        if events:
            instant = sorted(events)[which % len(events)]
            self.world.usage.add(instant, -min(units, int(events[instant])))

    @rule(down=st.booleans())
    def openmeter(self, *, down: bool) -> None:
        self.world.usage.down = down

    # Processes

    @precondition(lambda self: len(self.running) < 3)
    @rule(steps=st.integers(0, 60), accept=st.sampled_from([False, False, False, True]))
    def spawn(self, steps: int, *, accept: bool) -> None:
        process = self.world.start(Options(full=True, accept=accept))
        self.world.advance(process, steps)

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 2), steps=st.integers(1, 30))
    def step(self, which: int, steps: int) -> None:
        self.world.advance(self.chosen(which), steps)

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 2))
    def crash(self, which: int) -> None:
        self.world.crash(self.chosen(which))

    # Stripe

    @rule(behaviours=st.lists(st.sampled_from([*TROUBLES, Behaviour.OK]), max_size=6))
    def misbehave(self, behaviours: list[Behaviour]) -> None:
        self.world.stripe.behaviours = deque(behaviours)

    @precondition(lambda self: not self.running)
    @rule(refused=st.booleans())
    def archive_or_reactivate_the_meter(self, *, refused: bool) -> None:
        """Mending takes longer than the moment in which two processes overlap."""
        self.world.stripe.otherwise = Behaviour.REJECTED if refused else Behaviour.OK
        self.world.stripe.behaviours.clear()

    @precondition(lambda self: self.world.clock() > RENEWAL + HOUR)
    @rule()
    def finalize(self) -> None:
        self.world.is_final = True

    # Time

    @rule(seconds=st.sampled_from([1, 60, 300, 890, HOUR, 5 * HOUR, 12 * HOUR, 25 * HOUR]))
    def wait(self, seconds: int) -> None:
        """No process outlives the 15 minutes that AWS Lambda gives it; the story ends after two days."""
        clock = self.world.clock
        clock.now = min(clock.now + seconds, EVENING + 2 * DAY)
        for process in list(self.running):
            if clock.now - process.begun >= 900:
                self.world.crash(process)

    @invariant()
    def stripe_holds_no_more_than_was_ever_shown(self) -> None:
        if hasattr(self, "world"):
            self.world.check_bounds()

    def teardown(self) -> None:
        """When all is well again, both sides become equal, or a person has to look."""
        if not hasattr(self, "world"):
            return
        world = self.world
        try:
            self._recover()
        finally:
            world.close()

    def _recover(self) -> None:
        world = self.world
        for process in list(self.running):
            world.crash(process)
        world.usage.down = False
        world.stripe.behaviours.clear()
        world.stripe.otherwise = Behaviour.OK
        world.clock.now = EVENING + 2 * DAY + HOUR
        for accept in (False, False, True, True, False, False):
            report = world.run(Options(full=True, accept=accept, accept_empty=accept))
            world.check_bounds()
            world.clock.now += 35 * MINUTE  # what is doubted is settled meanwhile
        if "adopt" in report.reason:
            return
        assert report.status in DELIVERED, report
        assert world.open_intents == []
        assert world.differences() == world.noted()


TestReports = Reports.TestCase
TestReports.settings = settings(max_examples=60, stateful_step_count=30)
