"""Stories of crashes and overtaking that hold for both ways to Stripe: usage of two days, not yet sent."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tests.layer.stage import EVENING, RENEWAL, Behaviour, World
from usage_reporting.model import Status
from usage_reporting.windows import HOUR, MINUTE

TWO_DAYS = {
    EVENING + 5 * MINUTE: 1,
    EVENING + HOUR + 10: 2,  # before the renewal, in the hour that it cuts
    RENEWAL + 10: 4,
    EVENING + 2 * HOUR + 10: 8,
    EVENING + 4 * HOUR + 10: 16,
}
MORNING = EVENING + 6 * HOUR
DELIVERED = {Status.UNCHANGED, Status.SENT, Status.LATE, Status.UNBILLABLE}
TROUBLES = [behaviour for behaviour in Behaviour if behaviour not in {Behaviour.OK, Behaviour.REJECTED}]


@contextmanager
def world_of_two_days(*, streams: bool = False, answers: Sequence[Behaviour] = ()) -> Iterator[World]:
    """A ledger that knows the customer meter, and usage of two days that was not yet sent."""
    world = World(is_streaming=streams)
    try:
        assert world.run().status is Status.UNCHANGED
        world.clock.now = MORNING
        for instant, units in TWO_DAYS.items():
            world.usage.add(instant, units)
        world.stripe.behaviours = deque(answers)
        yield world
    finally:
        world.close()


def steps_of_two_days(*, streams: bool = False, answers: Sequence[Behaviour] = ()) -> int:
    """In how many steps a report of them is made that nothing disturbs."""
    with world_of_two_days(streams=streams, answers=answers) as world:
        process = world.start()
        return 1 + sum(1 for _ in iter(lambda: world.advance(process), False))


def check_a_crash_at_any_step(
    *, answers: Sequence[Behaviour], streams: bool = False, streams_still: bool = False
) -> None:
    """Each unit counts once, whatever step of a report it was that the process died at."""
    last = steps_of_two_days(streams=streams, answers=answers)
    assert last > 20
    for crashed_at in range(last):
        with world_of_two_days(streams=streams, answers=answers) as world:
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


def check_a_second_worker_between_any_two_steps(*, streams: bool = False) -> None:
    """Each unit counts once, though another worker ran whole in the middle of a report."""
    for stopped_at in range(1, steps_of_two_days(streams=streams)):
        with world_of_two_days(streams=streams) as world:
            slow = world.start()
            world.advance(slow, stopped_at)
            world.usage.add(RENEWAL + 11, 32)
            world.run()
            if not slow.is_done:
                assert world.finish(slow).status in DELIVERED, "who lost the race has read again"

            world.run()
            assert world.differences() == {}, stopped_at
            world.check_bounds()
