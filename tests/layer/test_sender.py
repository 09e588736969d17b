"""Intent, send, outcome: whatever fails wherever, each event counts exactly once."""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import replace
from typing import Any

import pytest

from tests.layer.builders import (
    MONTH_START,
    NOON,
    legacy,
    send,
)
from tests.layer.protocol import (
    SENDS,
    Behaviour,
    World,
    crash_after,
    run,
)
from usage_reporting.budget import Budget
from usage_reporting.errors import LostRaceError, RejectedError, StripeUnavailableError
from usage_reporting.ledger import Entry
from usage_reporting.model import Report, SendState, Status
from usage_reporting.windows import DAY, HOUR

OVER = Budget(0.0, lambda: 1.0)


# One by one


def test_sends_go_out_as_meter_events() -> None:
    world = World()
    report = run(world.report())

    assert (report.status, [one.identifier for one in report.sent]) == (
        Status.SENT,
        ["cus_1.1.0.a", "cus_1.2.0.b"],
    )
    assert report.reason == ""
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
    assert [call["params"]["identifier"] for call in world.stripe.calls] == ["cus_1.1.0.a"] * 5
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


def with_sleeps(world: World) -> list[float]:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    world.sender.sleep = sleep
    return slept


def test_pauses_grow() -> None:
    world = World()
    slept = with_sleeps(world)
    world.stripe.otherwise = Behaviour.BUSY_409
    run(world.report(SENDS[:1]))

    assert len(slept) == len(world.stripe.calls) - 1
    for seconds, longest in zip(slept, [0.25, 0.5, 1, 2], strict=True):
        assert longest / 2 <= seconds <= longest


def test_a_replayed_answer_is_asked_anew_without_a_pause() -> None:
    world = World()
    world.stripe.behaviours = deque([Behaviour.TAKEN_BUT_500])
    doomed = world.report(SENDS[:1])
    while not world.stripe.stored:
        doomed.send(None)
    doomed.close()
    slept = with_sleeps(world)

    assert run(world.report(SENDS[:1])).status is Status.SENT
    assert [call["key"] for call in world.stripe.calls] == ["cus_1.1.0.a.0", "cus_1.1.0.a.0", "cus_1.1.0.a.1"]
    assert slept == []
    assert len(world.stripe.events) == 1


def test_already_exists_means_delivered() -> None:
    world = World()
    world.stripe.behaviours = deque([Behaviour.TAKEN_BUT_500])
    report = run(world.report(SENDS[:1]))

    assert (report.status, len(report.sent)) == (Status.SENT, 1)
    assert len(world.stripe.events) == 1


@pytest.mark.parametrize(
    "error",
    [
        RejectedError("Stripe says: An event already exists with identifier x."),
        RejectedError("Stripe says: Already exists with identifier x"),
        RejectedError("Stripe says: no", code="duplicate_meter_event"),
    ],
)
def test_stripe_has_several_ways_to_say_that_it_has_an_event(error: RejectedError) -> None:
    world = World()
    answers(world, error)

    assert run(world.report(SENDS[:1])).status is Status.SENT
    assert world.states == [SendState.SENT]


def answers(world: World, *errors: Exception) -> None:
    """Let Stripe give these answers first."""
    left = deque(errors)
    real = world.stripe._answer

    def answer(*call: Any) -> Exception | None:
        return left.popleft() if left else real(*call)

    setattr(world.stripe, "_answer", answer)  # noqa: B010


@pytest.mark.parametrize(
    ("first", "settled"),
    [
        (StripeUnavailableError("no answer"), False),
        (StripeUnavailableError("oops", answered=True), False),
        (StripeUnavailableError("busy", turned_away=True), True),
    ],
)
def test_a_no_to_a_repetition_says_nothing_of_the_try_before(first: Exception, settled: bool) -> None:
    world = World()
    answers(world, first, RejectedError("Stripe says: the meter is archived"))
    report = run(world.report(SENDS[:1]))

    assert report.reason == "Stripe says: the meter is archived"
    assert report.status is (Status.REJECTED if settled else Status.UNKNOWN)
    assert world.states == [SendState.REJECTED if settled else SendState.INTENT]


def test_a_no_to_what_an_earlier_run_left_open_settles_nothing_either() -> None:
    world = World()
    world.stripe.behaviours = deque([Behaviour.NEVER_ARRIVED] * 5)
    run(world.report(SENDS))
    world.stripe.behaviours = deque([Behaviour.REJECTED])
    report = run(world.report(SENDS))

    assert report.status is Status.UNKNOWN
    assert world.states == [SendState.INTENT, SendState.SENT], "Stripe answers: the next one is sent"
    run(world.report(SENDS))
    assert world.stripe.calls[-1]["key"] == "cus_1.1.0.a.1", "its no may be stored under the first key"
    assert world.states == [SendState.SENT] * 2


def test_what_there_is_no_time_for_stays_an_intent() -> None:
    world = World(budget=OVER)
    report = run(world.report())

    assert (report.status, report.reason) == (Status.HANDED_OVER, "the function's time is nearly over")
    assert world.stripe.calls == []
    assert world.states == [SendState.INTENT] * 2
    assert world.entry.version == 1, "there is no outcome to write"
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


def test_it_is_noted_when_stripe_was_known_to_have_a_send() -> None:
    world = World()
    run(world.report(SENDS[:1]))
    assert [one.sent_at for one in world.entry.sends.values()] == [NOON + HOUR]

    repeated = World()
    repeated.stripe.behaviours = deque([Behaviour.TAKEN_BUT_SILENT])
    crash_after(5, repeated.report(SENDS[:1]))
    repeated.clock.now += DAY // 4
    repeated.stripe.stored.clear()
    run(repeated.report(SENDS[:1]))
    assert [one.sent_at for one in repeated.entry.sends.values()] == [NOON + HOUR + DAY // 4]


@pytest.mark.parametrize("known", [SendState.DOUBTED, SendState.DISCARDED])
def test_an_answer_does_not_undo_what_became_known_meanwhile(known: SendState) -> None:
    """Stripe's report of a refused event can be quicker than the outcome that it was taken."""
    world = World()
    process = world.report(SENDS[:1])
    while not world.stripe.calls:
        process.send(None)
    entry = world.entry
    told = [replace(one, state=known) for one in entry.sends.values()]
    world.ledger.memory.put(entry.with_sends(told).to_item(NOON), entry.version)

    run(process)

    assert world.states == [known]


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
    assert world.stripe.calls[-1]["key"] == "cus_1.1.0.a.1"


def test_what_is_no_longer_in_the_ledger_is_not_put_back_there() -> None:
    """As when an operator rebuilds the ledger from Stripe in the meantime."""
    world = World()
    slow = world.report(SENDS[:1])
    while not world.stripe.events:
        slow.send(None)
    rebuilt = send("cus_1.1.0.adopted", 3, NOON + HOUR - 1, state=SendState.SENT)
    run(world.ledger.write_entry(replace(world.entry, sends={rebuilt.identifier: rebuilt}), 0))
    run(slow)

    assert world.entry.sends == {rebuilt.identifier: rebuilt}
    assert world.entry.version == 2


def test_what_another_run_has_settled_is_not_written_again() -> None:
    world = World()
    slow, quick = world.report(SENDS[:1]), world.report(SENDS[:1])
    while not world.stripe.calls:
        slow.send(None)
    run(quick)
    run(slow)

    assert world.states == [SendState.SENT]
    assert world.entry.version == 2


def test_an_outcome_is_written_in_the_sixth_try_but_no_later() -> None:
    for races, writes in ((5, True), (6, False)):
        world = World()
        real, left = world.ledger.write_entry, itertools.count()

        async def contested(entry: Entry, now: int) -> Entry:
            if entry.version and next(left) < races:  # noqa: B023 - used in this round alone
                raise LostRaceError("somebody else")
            return await real(entry, now)  # noqa: B023

        setattr(world.ledger, "write_entry", contested)  # noqa: B010
        if writes:
            assert run(world.report(SENDS[:1])).status is Status.SENT
        else:
            with pytest.raises(LostRaceError, match=r"^the outcome could not be written: others keep"):
                run(world.report(SENDS[:1]))
        assert world.states == [SendState.SENT if writes else SendState.INTENT]


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
