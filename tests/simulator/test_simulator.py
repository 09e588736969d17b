"""The simulator itself: the same for the same seed, no faults no wrong bills, and short when it shrinks."""

from __future__ import annotations

import asyncio
import dataclasses
from decimal import Decimal

import pytest

from sandbox.simulator.campaign import Worlds, campaign
from sandbox.simulator.generate import ENDINGS, history_of
from sandbox.simulator.history import Contract, Fault, History, Item, Usage
from sandbox.simulator.machine import VirtualClock, VirtualLoop
from sandbox.simulator.outcome import Outcome
from sandbox.simulator.queue import MemoryQueue
from sandbox.simulator.shrink import as_test, shrunk
from sandbox.simulator.trouble import KINDS, CrashError, Trouble
from sandbox.simulator.verdict import judge
from sandbox.simulator.world import World
from usage_reporting.brake import Brake

MIDNIGHT = 1_799_712_000
"""2027-01-11T00:00:00Z"""
HOUR = 3600
DAY = 24 * HOUR
NOON = MIDNIGHT + 12 * HOUR


def daily(name: str = "s0", **more: object) -> Contract:
    contract = Contract(name, "c0", NOON, "day", (Item(),))
    return dataclasses.replace(contract, **more)  # type: ignore[arg-type]


def used(time: int, value: str = "1", seen_at: int = 0) -> Usage:
    return Usage("c0", "m1", time, value, seen_at or time)


def history(*contracts: Contract, days: int = 3, **more: object) -> History:
    made = History("made", MIDNIGHT, MIDNIGHT + days * DAY, contracts)
    return dataclasses.replace(made, **more)  # type: ignore[arg-type]


def played(made: History) -> Outcome:
    return World(made).play()


def test_a_day_is_billed_to_the_second() -> None:
    made = history(daily(), usage=(used(NOON, "2"), used(NOON + DAY - 1, "0.5"), used(NOON + DAY, "4")))

    outcome = played(made)

    assert [line.quantity for line in outcome.lines][:2] == [Decimal("0.5") + 2, Decimal(4)]
    verdict = judge(made, outcome)
    assert verdict.wrong == []
    assert verdict.periods == 2


def test_a_line_that_lacks_usage_is_short_and_one_with_too_much_is_over() -> None:
    made = history(daily(), usage=(used(NOON, "2"),))
    outcome = played(made)
    less = dataclasses.replace(made, usage=(used(NOON, "1"),))
    more = dataclasses.replace(made, usage=(used(NOON, "3"),))

    assert judge(less, outcome).over == 1
    assert judge(more, outcome).under >= 1


def test_what_came_after_the_invoice_was_final_is_foretold_and_no_wrong_bill() -> None:
    late = used(NOON + DAY - 60, "3", seen_at=NOON + DAY + 2 * HOUR)
    made = history(daily(), usage=(used(NOON, "2"), late))

    verdict = judge(made, played(made))

    assert verdict.wrong == []
    assert verdict.predicted == 1


@pytest.mark.parametrize("api", ["v1", "v3"])
def test_one_version_of_openmeters_api_is_spoken_alone(api: str) -> None:
    made = history(daily(), usage=(used(NOON, "2"), used(NOON + DAY - 1, "0.5")), openmeter_api=api)

    world = World(made)
    verdict = judge(made, world.play())

    assert (verdict.wrong, verdict.periods) == ([], 2)
    assert {asked.split()[0] for asked in world.openmeter.calls.counts} == {api}


def test_the_same_seed_is_the_same_world_to_the_last_call() -> None:
    outcomes = [played(history_of("7", KINDS)) for _ in range(2)]

    assert outcomes[0].received == outcomes[1].received
    assert outcomes[0].struck == outcomes[1].struck
    assert [one.at for one in outcomes[0].reports] == [one.at for one in outcomes[1].reports]


@pytest.mark.parametrize(
    "kind", ["crash", "stripe_lost_answer", "two_workers", "webhook_lost", "openmeter_down"]
)
def test_a_fault_strikes_and_the_bills_are_right(kind: str) -> None:
    fault = Fault(kind, NOON + DAY - 60, skip=1, times=2, seconds=300)
    usage = (used(NOON, "2"), used(NOON + DAY - 1, "0.5"), used(NOON + DAY, "4"))
    made = history(daily(), usage=usage, faults=(fault,))

    world = World(made)
    verdict = judge(made, world.play())

    assert verdict.wrong == []
    assert kind == "webhook_lost" or world.trouble.counts[kind] > 0


def test_a_failing_history_is_shrunk_to_what_fails() -> None:
    made = history_of("3", KINDS)
    wanted = made.usage[len(made.usage) // 2]

    short = shrunk(made, lambda one: wanted in one.usage, most_tries=5000)

    assert short.usage == (wanted,)
    assert short.faults == ()
    assert len({contract.customer for contract in short.contracts}) == 1
    namespace: dict[str, object] = {}
    exec(as_test(short), namespace)  # it is a module that can be saved as it is
    assert "test_seed_3" in namespace


def test_worlds_hold_every_ending_and_every_fault() -> None:
    worlds = [history_of(str(number)) for number in range(150)]

    acts = {act.kind for world in worlds for act in world.acts}
    faults = {fault.kind for world in worlds for fault in world.faults}

    assert acts >= {
        "cancel_at_period_end",
        "cancel_at",
        "cancel_now",
        "cancel_now_and_bill",
        "swap",
        "add",
        "reset_anchor",
        "end_trial",
    }
    kinds = {item.kind for world in worlds for one in world.contracts for item in one.items}
    assert {"mirror", "legacy", "licensed"} <= kinds
    assert "legacy" in ENDINGS
    assert faults >= {kind for kind in KINDS if not kind.endswith(("usage", "final", "lag"))}


def test_worlds_without_faults_are_played_in_another_process_alike() -> None:
    here, there = (campaign(4, 1, Worlds(()), processes=processes) for processes in (1, 2))

    assert here == there
    assert (here.worlds, here.wrong) == (1, [])


def test_sleeping_takes_virtual_time_only() -> None:

    clock = VirtualClock(NOON)
    loop = VirtualLoop(clock)
    try:
        loop.run_until_complete(asyncio.sleep(3 * DAY))
        assert loop.run_until_complete(asyncio.to_thread(lambda: 7)) == 7
    finally:
        loop.close()
    assert clock() >= NOON + 3 * DAY


def test_a_message_that_fails_three_times_is_dead() -> None:
    clock = VirtualClock(NOON)
    queue = MemoryQueue(clock)
    queue.send({"a": 1})

    for _ in range(3):
        assert queue.receive() is not None
        assert queue.receive() is None
        clock.advance(360)

    assert queue.receive() is None
    assert len(queue.dead) == 1


def test_a_fault_strikes_after_its_skips_and_as_often_as_it_says() -> None:
    clock = VirtualClock(NOON)
    trouble = Trouble([Fault("crash", NOON + 5, skip=1, times=2)], clock)

    assert trouble.take("crash") is None
    clock.advance(5)

    assert [trouble.take("crash") is not None for _ in range(4)] == [False, True, True, False]
    assert not issubclass(CrashError, Exception)


def test_with_the_brake_on_what_it_held_is_billed_all_the_same() -> None:
    made = history_of("brake.9", (), brake=True)
    outcome = World(made).play()
    verdict = judge(made, outcome)

    assert verdict.wrong == []
    assert sum(one.report.is_braked for one in outcome.reports) > 10
    assert made.brake
    assert not history_of("brake.9", ()).brake


def test_a_brake_that_holds_past_the_deadline_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Brake, "lets_go", lambda *_: False)

    assert Worlds((), brake=True).play("brake.9").verdict.under > 0


def test_over_event_bridge_events_come_late_and_again_after_a_crash_and_bills_are_right() -> None:
    kinds = ("webhook_duplicated", "webhook_reordered", "crash", "message_duplicated")
    made = Worlds(kinds, over_event_bridge=True).history("eb.7")
    world = World(made)
    outcome = world.play()

    assert judge(made, outcome).wrong == []
    assert {kind for _, kind in outcome.struck} >= {"crash", "webhook_reordered"}
    assert len(world.events.sent) > 20
    assert world.events.waiting == world.events.dead == []
    assert not list(world.stripe.account.endpoints)
    drafts = [one for one in world.stripe.events.table if one.type == "invoice.created"]
    assert all(one.acknowledged_at == one.created for one in drafts), "a bus holds no draft"
