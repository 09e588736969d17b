"""Intent, send, outcome: whatever fails wherever, each event counts exactly once."""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.layer.builders import (
    MONTH_START,
    NOON,
    Clock,
    D,
    MemoryTable,
    customer_meter,
    legacy,
    reading,
    send,
)
from tests.layer.protocol import Behaviour, FakeStripe, SteppedLedger, crash_after, no_sleep, run
from usage_reporting.budget import Budget
from usage_reporting.errors import HeldError, LostRaceError
from usage_reporting.ledger import Entry
from usage_reporting.model import CustomerMeter, Report, Send, SendState, Status
from usage_reporting.sender import Sender
from usage_reporting.targets import mirror
from usage_reporting.windows import HOUR, Slice, read_until, stamp_of

DAY_OF = "2026-07-15"
SENDS = [
    send("cus_1.1.0.a", 3, NOON + HOUR - 1),
    send("cus_1.2.0.b", "4.5", NOON + 2 * HOUR - 1, slice_start=NOON + HOUR),
]
FAILURES = [behaviour for behaviour in Behaviour if behaviour not in {Behaviour.OK, Behaviour.REJECTED}]
OVER = Budget(0.0, lambda: 1.0)


@dataclass
class World:
    """One entry, one Stripe, one clock."""

    customer_meter: CustomerMeter = field(default_factory=customer_meter)
    clock: Clock = field(default_factory=lambda: Clock(NOON + HOUR))
    budget: Budget = field(default_factory=Budget)

    def __post_init__(self) -> None:
        self.stripe = FakeStripe(self.clock)
        self.ledger = SteppedLedger(MemoryTable())
        self.sender = Sender(self.stripe.api, self.ledger, self.clock, no_sleep)
        self.key = (self.customer_meter.pk, DAY_OF)

    @property
    def entry(self) -> Entry:
        return self.ledger.stored(self.key)

    @property
    def states(self) -> list[SendState]:
        return [one.state for one in self.entry.sends.values()]

    async def report(self, sends: Sequence[Send] = SENDS) -> Report:
        """What a process does with an entry: repeat what is open, then send what is not there yet."""
        report = Report(self.customer_meter)
        entry = (await self.ledger.entries([self.key]))[self.key]
        entry = await self.sender.repeat_intents(report, entry, self.budget)
        missing = [one for one in sends if one.identifier not in entry.sends]
        if missing and not entry.intents:
            await self.sender.carry_out(report, entry, missing, self.budget)
        return report


# One by one


def test_sends_go_out_as_meter_events() -> None:
    world = World()
    report = run(world.report())

    assert (report.status, [one.identifier for one in report.sent]) == (
        Status.SENT,
        ["cus_1.1.0.a", "cus_1.2.0.b"],
    )
    assert world.stripe.calls[1] == {
        "path": "/v1/billing/meter_events",
        "params": {
            "event_name": "tokens",
            "payload": {"stripe_customer_id": "cus_1", "value": "4.5"},
            "timestamp": NOON + 2 * HOUR - 1,
            "identifier": "cus_1.2.0.b",
        },
        "key": "cus_1.2.0.b.0",
        "version": "2026-05-27.dahlia",
    }
    assert world.states == [SendState.SENT] * 2
    assert world.entry.version == 2, "one write carries all intents, one all outcomes"


def test_the_intents_are_written_before_anything_is_sent() -> None:
    world = World()
    process = world.report()
    while not world.stripe.calls:
        process.send(None)

    assert world.states == [SendState.INTENT] * 2
    process.close()


def test_who_loses_the_race_sends_nothing() -> None:
    world = World()
    with pytest.raises(LostRaceError):
        run(
            world.sender.carry_out(
                Report(world.customer_meter), replace(world.entry, version=3), SENDS, Budget()
            )
        )

    assert world.stripe.calls == []


def test_an_outcome_that_cannot_be_written_stays_an_intent_and_is_repeated() -> None:
    world = World()
    process = world.report()
    while len(world.stripe.events) < 2:
        process.send(None)
    key = next(iter(world.ledger.memory.items))
    for _ in range(100):
        # Somebody else writes the entry each time before this process can.
        world.ledger.memory.items[key]["version"] += 1
        try:
            process.send(None)
        except LostRaceError:
            break
    else:
        pytest.fail("it never gave up")

    assert world.states == [SendState.INTENT] * 2
    assert run(world.report()).status is Status.SENT
    assert len(world.stripe.events) == 2


def test_a_rejection_does_not_stop_the_next_send() -> None:
    world = World()
    world.stripe.behaviours = deque([Behaviour.REJECTED])
    report = run(world.report())

    assert (report.status, report.reason) == (Status.REJECTED, "Stripe says: the meter is archived")
    assert [one.identifier for one in report.sent] == ["cus_1.2.0.b"]
    assert world.states == [SendState.REJECTED, SendState.SENT]


@pytest.mark.parametrize("failure", [Behaviour.NEVER_ARRIVED, Behaviour.BUSY_429, Behaviour.LOST_AND_500])
def test_an_unknown_stops_the_sends_of_the_entry(failure: Behaviour) -> None:
    world = World()
    world.stripe.otherwise = failure
    report = run(world.report())

    assert report.status is Status.UNKNOWN
    assert report.reason
    assert report.sent == []
    assert {call["params"]["identifier"] for call in world.stripe.calls} == {"cus_1.1.0.a"}
    assert world.states == [SendState.INTENT] * 2


def test_no_answer_keeps_the_idempotency_key_and_a_stored_answer_takes_a_new_one() -> None:
    world = World()
    world.stripe.behaviours = deque(
        [Behaviour.NEVER_ARRIVED, Behaviour.BUSY_429, Behaviour.LOST_AND_500, Behaviour.OK]
    )
    run(world.report(SENDS[:1]))

    assert [call["key"] for call in world.stripe.calls] == [
        "cus_1.1.0.a.0",
        "cus_1.1.0.a.0",
        "cus_1.1.0.a.0",
        "cus_1.1.0.a.1",
    ]
    assert len({call["params"]["identifier"] for call in world.stripe.calls}) == 1


def test_the_attempt_is_remembered_for_the_next_run() -> None:
    world = World()
    world.stripe.otherwise = Behaviour.LOST_AND_500
    run(world.report(SENDS[:1]))
    tried = len(world.stripe.calls)
    assert world.entry.sends["cus_1.1.0.a"].attempt == tried

    world.stripe.otherwise = Behaviour.OK
    assert run(world.report(SENDS[:1])).status is Status.SENT
    assert world.stripe.calls[-1]["key"] == f"cus_1.1.0.a.{tried}"


def test_pauses_grow_but_not_before_a_replayed_answer_is_asked_anew() -> None:
    world = World()
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    world.sender.sleep = sleep
    world.stripe.otherwise = Behaviour.BUSY_409
    run(world.report(SENDS[:1]))
    assert len(slept) == len(world.stripe.calls) - 1
    assert slept[0] < slept[-1]

    slept.clear()
    world = World()
    world.sender.sleep = sleep
    crash_after(5, world.report(SENDS[:1]))
    world.stripe.behaviours = deque([Behaviour.TAKEN_BUT_500])
    crash_after(3, world.report(SENDS[:1]))
    assert run(world.report(SENDS[:1])).status is Status.SENT
    assert slept == []


def test_already_exists_means_delivered() -> None:
    world = World()
    world.stripe.behaviours = deque([Behaviour.TAKEN_BUT_500])
    report = run(world.report(SENDS[:1]))

    assert (report.status, len(report.sent)) == (Status.SENT, 1)
    assert len(world.stripe.events) == 1


def test_what_there_is_no_time_for_stays_an_intent() -> None:
    world = World(budget=OVER)
    report = run(world.report())

    assert report.status is Status.HANDED_OVER
    assert world.stripe.calls == []
    assert world.states == [SendState.INTENT] * 2
    world.budget = Budget()
    assert run(world.report()).status is Status.SENT
    assert len(world.stripe.events) == 2


def test_time_that_runs_out_between_tries_leaves_an_unknown() -> None:
    looks = itertools.count()
    world = World(budget=Budget(1.0, lambda: float(next(looks) > 0)))
    world.stripe.otherwise = Behaviour.NEVER_ARRIVED
    report = run(world.report(SENDS[:1]))

    assert len(world.stripe.calls) == 1
    assert report.status is Status.UNKNOWN


@pytest.mark.parametrize(("age", "held"), [(23 * HOUR, False), (23 * HOUR + 1, True)])
def test_an_unknown_older_than_23_hours_is_held(age: int, held: bool) -> None:
    world = World()
    world.stripe.behaviours = deque([Behaviour.TAKEN_BUT_SILENT])
    crash_after(5, world.report(SENDS[:1]))
    world.clock.now = SENDS[0].intended_at + age
    calls = len(world.stripe.calls)

    if held:
        with pytest.raises(HeldError, match=r"3 units of 2026-07-15T12:59:59Z \(identifier cus_1.1.0.a\)"):
            run(world.report(SENDS[:1]))
        assert len(world.stripe.calls) == calls
        assert world.states == [SendState.INTENT]
    else:
        assert run(world.report(SENDS[:1])).status is Status.SENT
    assert len(world.stripe.events) == 1


def test_a_rejected_send_gets_through_once_the_cause_is_mended() -> None:
    # Stripe may store its "no" under the idempotency key for a day.
    world = World()
    world.stripe.behaviours = deque([Behaviour.REJECTED])
    run(world.report(SENDS[:1]))

    report = Report(world.customer_meter)
    run(world.sender.carry_out(report, world.entry, SENDS[:1], Budget()))

    assert report.status is Status.SENT
    assert world.states == [SendState.SENT]
    assert len(world.stripe.events) == 1


def test_a_late_rejection_does_not_close_a_newer_attempt() -> None:
    world = World()
    world.stripe.otherwise = Behaviour.REJECTED
    slow, quick = world.report(SENDS[:1]), world.report(SENDS[:1])
    while not world.stripe.calls:
        slow.send(None)
    run(quick)
    world.stripe.otherwise = Behaviour.OK
    again = world.sender.carry_out(Report(world.customer_meter), world.entry, SENDS[:1], Budget())
    while not world.stripe.events:
        again.send(None)
    run(slow)

    assert world.states == [SendState.INTENT]
    run(again)
    assert world.states == [SendState.SENT]


def test_delivered_outranks_a_rejection_that_somebody_else_saw() -> None:
    world = World()
    first = world.report(SENDS[:1])
    world.stripe.behaviours = deque([Behaviour.REJECTED])
    while not world.stripe.calls:
        first.send(None)
    world.stripe.stored.clear()  # refused before anything was executed: nothing is stored
    second = world.report(SENDS[:1])
    while len(world.stripe.events) == 0:
        second.send(None)
    run(first)
    run(second)

    assert world.states == [SendState.SENT]
    assert len(world.stripe.events) == 1


# Legacy usage records


def test_a_usage_record_is_set_with_the_last_version_that_has_them() -> None:
    world = World(customer_meter=legacy())
    record = send(f"si_1.{MONTH_START}.0.x", 11, MONTH_START + 1, slice_start=MONTH_START)
    report = run(world.report([record]))

    assert report.status is Status.SENT
    assert world.stripe.calls == [
        {
            "path": "/v1/subscription_items/si_1/usage_records",
            "params": {"quantity": "11", "timestamp": MONTH_START + 1, "action": "set"},
            "key": f"si_1.{MONTH_START}.0.x.0",
            "version": "2025-02-24.acacia",
        }
    ]


def test_an_old_intent_of_a_usage_record_is_repeated_because_it_sets() -> None:
    world = World(customer_meter=legacy())
    record = send(f"si_1.{MONTH_START}.0.x", 11, MONTH_START + 1, slice_start=MONTH_START)
    crash_after(3, world.report([record]))
    assert world.states == [SendState.INTENT]
    world.clock.now += 48 * HOUR

    assert run(world.report([record])).status is Status.SENT


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
