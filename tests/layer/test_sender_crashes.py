"""The protocol of one entry, crashed and overtaken anywhere: each event counts exactly once."""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.layer.builders import (
    NOON,
    Clock,
    D,
    reading,
)
from tests.layer.protocol import (
    FAILURES,
    SENDS,
    Behaviour,
    World,
    crash_after,
    run,
)
from usage_reporting.budget import Budget
from usage_reporting.errors import HeldError, LostRaceError
from usage_reporting.model import Report, SendState
from usage_reporting.sender import REPEATED_FOR
from usage_reporting.targets import mirror
from usage_reporting.windows import HOUR, Slice, read_until, stamp_of

# Every crash, every failure


def steps_of(behaviours: Sequence[Behaviour]) -> int:
    world = World()
    world.stripe.behaviours = deque(behaviours)
    process, steps = world.report(), 0
    try:
        while True:
            process.send(None)
            steps += 1
    except StopIteration:
        return steps


@pytest.mark.parametrize("first", Behaviour)
@pytest.mark.parametrize("second", [*FAILURES, Behaviour.OK])
def test_after_a_crash_at_any_step_each_event_counts_once(first: Behaviour, second: Behaviour) -> None:
    sequence = [first, second, second, Behaviour.OK]
    for crashed_at in range(1, steps_of(sequence) + 1):
        world = World()
        world.stripe.behaviours = deque(sequence)
        assert crash_after(crashed_at, world.report())
        world.clock.now += 60
        world.stripe.behaviours.clear()

        for _ in range(3):
            run(world.report())

        sent = [one for one in world.entry.sends.values() if one.state is SendState.SENT]
        assert sorted(world.stripe.events) == sorted((one.stamp, one.value) for one in sent)
        assert world.entry.intents == []
        if first is not Behaviour.REJECTED:
            assert sorted(world.stripe.events) == sorted((one.stamp, one.value) for one in SENDS)


@pytest.mark.parametrize("failure", FAILURES)
def test_two_crashes_and_a_lasting_failure(failure: Behaviour) -> None:
    for first, second in itertools.product(range(1, 14), range(1, 14)):
        world = World()
        world.stripe.otherwise = failure
        crash_after(first, world.report())
        crash_after(second, world.report())
        world.stripe.otherwise = Behaviour.OK
        run(world.report())
        run(world.report())

        assert sorted(world.stripe.events) == sorted((one.stamp, one.value) for one in SENDS)
        assert world.states == [SendState.SENT] * 2


# Many processes at once, with the target that decides what to send


class Mirroring(RuleBasedStateMachine):
    """Processes of the real target and sender on one entry, stepped and crashed in any order."""

    PIECES = (Slice(NOON, NOON + 1800), Slice(NOON + 1800, NOON + HOUR), Slice(NOON + HOUR, NOON + 2 * HOUR))

    @initialize()
    def begin(self) -> None:
        self.world = World(clock=Clock(NOON + HOUR + 600))
        self.usage = dict.fromkeys(self.PIECES, D(0))
        self.running: dict[int, tuple[int, Coroutine[Any, Any, Report]]] = {}
        self.numbers = itertools.count()

    async def process(self) -> Report:
        world = self.world
        report = Report(world.customer_meter)
        entry = (await world.ledger.entries([world.key]))[world.key]
        if any(world.clock() - one.intended_at > REPEATED_FOR for one in entry.intents):
            raise HeldError("too old to be repeated: it is doubted, and settled by summaries")
        entry = await world.sender.repeat_intents(report, entry, Budget())
        if entry.intents:
            return report
        now = world.clock()
        readings = []
        for piece, value in self.usage.items():
            until, newest = read_until(piece, now), entry.newest_stamp(piece)
            if until is not None and (newest is None or newest < until):
                stamp = stamp_of(piece, until)
                mirrored, sequence = entry.mirrored(piece), entry.sequence(piece)
                read = reading(0, piece=piece, stamp=stamp, sequence=sequence)
                readings.append(replace(read, value=value, mirrored=mirrored))
        plan = mirror.plan(world.customer_meter, readings, may_fall=False, now=now)
        assert not plan.held
        if plan.sends:
            await world.sender.carry_out(report, entry, plan.sends, Budget())
        return report

    def drive(self, number: int, steps: int) -> None:
        work = self.running[number][1]
        try:
            for _ in range(steps):
                work.send(None)
        except (StopIteration, LostRaceError, HeldError):
            del self.running[number]

    @rule(piece=st.sampled_from(PIECES), more=st.integers(1, 9))
    def use(self, piece: Slice, more: int) -> None:
        self.usage[piece] += more

    @rule(steps=st.integers(1, 12))
    def spawn(self, steps: int) -> None:
        if len(self.running) < 3:
            number = next(self.numbers)
            self.running[number] = (self.world.clock(), self.process())
            self.drive(number, steps)

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 2), steps=st.integers(1, 12))
    def step(self, which: int, steps: int) -> None:
        self.drive(sorted(self.running)[which % len(self.running)], steps)

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 2))
    def crash(self, which: int) -> None:
        del self.running[sorted(self.running)[which % len(self.running)]]

    @rule(behaviours=st.lists(st.sampled_from([*FAILURES, Behaviour.OK]), max_size=6))
    def misbehave(self, behaviours: list[Behaviour]) -> None:
        self.world.stripe.behaviours = deque(behaviours)

    @precondition(lambda self: not self.running)
    @rule(refused=st.booleans())
    def archive_or_reactivate_the_meter(self, refused: bool) -> None:
        """Mending takes longer than the moment in which two processes overlap."""
        self.world.stripe.otherwise = Behaviour.REJECTED if refused else Behaviour.OK
        self.world.stripe.behaviours.clear()

    @rule(seconds=st.sampled_from([1, 60, 300, 890, HOUR, 12 * HOUR, 23 * HOUR, 25 * HOUR]))
    def wait(self, seconds: int) -> None:
        """No process outlives the 15 minutes that AWS Lambda gives it."""
        self.world.clock.now += seconds
        now = self.world.clock()
        self.running = {n: (begun, work) for n, (begun, work) in self.running.items() if now - begun < 900}

    @invariant()
    def nothing_counts_twice(self) -> None:
        stripe = self.world.stripe
        for piece, value in self.usage.items():
            assert stripe.held(piece.start, piece.end) <= value

    @invariant()
    def the_ledger_knows_all_that_stripe_has(self) -> None:
        known = Counter((one.stamp, one.value) for one in self.world.entry.sends.values() if one.counts)
        assert Counter(self.world.stripe.events) <= known

    def teardown(self) -> None:
        """When all is well again, one more run makes both sides equal, or a person has to look."""
        if not hasattr(self, "world"):
            return
        self.running.clear()
        self.world.stripe.behaviours.clear()
        self.world.stripe.otherwise = Behaviour.OK
        self.world.clock.now = max(self.world.clock.now + 60, NOON + 2 * HOUR)
        for _ in range(3):
            try:
                run(self.process())
            except HeldError:
                self.nothing_counts_twice()
                return
        for piece, value in self.usage.items():
            assert self.world.stripe.held(piece.start, piece.end) == value == self.mirrored(piece)

    def mirrored(self, piece: Slice) -> Decimal:
        sent = [one for one in self.world.entry.sends.values() if one.state is SendState.SENT]
        return sum((one.value for one in sent if piece.start <= one.stamp < piece.end), D(0))


TestMirroring = Mirroring.TestCase
TestMirroring.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
