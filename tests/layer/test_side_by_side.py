"""One bad customer never stops the others, and who loses a race tries again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from tests.layer.builders import Sleeps, customer_meter
from usage_reporting.budget import Budget
from usage_reporting.errors import (
    ConfigurationError,
    HeldError,
    LedgerUnavailableError,
    LostRaceError,
    NotFoundError,
    OutOfTimeError,
    RefusedError,
)
from usage_reporting.model import Report, Status
from usage_reporting.side_by_side import check, racing, side_by_side, together, with_outcome

OVER = Budget(0.0, lambda: 1.0)


def reports(number: int) -> list[Report]:
    return [Report(customer_meter(customer=f"cus_{n}")) for n in range(number)]


def raising(error: BaseException) -> Callable[[], Awaitable[None]]:
    async def work() -> None:
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RefusedError("why"), Status.REFUSED),
        (HeldError("why"), Status.HELD),
        (NotFoundError("why"), Status.REJECTED),
        (OutOfTimeError("why"), Status.HANDED_OVER),
        (LedgerUnavailableError("why"), Status.UNKNOWN),
        (LostRaceError("why"), Status.UNKNOWN),
        (ConfigurationError("why"), Status.UNKNOWN),
    ],
)
def test_an_error_is_the_outcome_of_those_it_concerns(error: Exception, status: Status) -> None:
    concerned = reports(2)
    asyncio.run(with_outcome(concerned, raising(error)))

    assert [(one.status, one.reason) for one in concerned] == [(status, "why")] * 2


def test_an_error_that_nobody_expected_is_an_unknown() -> None:
    [report] = reports(1)
    asyncio.run(with_outcome([report], raising(ValueError("secret"))))

    assert (report.status, report.reason) == (
        Status.UNKNOWN,
        "unexpected ValueError; see the function's log",
    )


def test_the_end_of_the_process_is_nobodys_outcome() -> None:
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(with_outcome(reports(1), raising(KeyboardInterrupt())))


def test_who_failed_does_not_go_on_and_the_others_do() -> None:
    page = reports(4)
    done: list[str] = []

    async def work(report: Report) -> None:
        if report is page[1]:
            raise HeldError("held")
        if report is page[2]:
            report.note(Status.LATE)
        done.append(report.customer_meter.customer)

    assert asyncio.run(side_by_side(page, work)) == [page[0], page[2], page[3]]
    assert done == ["cus_0", "cus_2", "cus_3"]


def test_eight_are_worked_on_at_a_time() -> None:
    at_work = most = 0

    async def work(_report: Report) -> None:
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        await asyncio.sleep(0)
        at_work -= 1

    asyncio.run(side_by_side(reports(20), work))
    assert most == 8


def test_what_is_done_together_is_done_once_and_only_for_somebody() -> None:
    calls: list[int] = []

    async def work() -> None:
        calls.append(1)

    page = reports(2)
    page[0].note(Status.HELD)
    assert asyncio.run(together(page, work)) == [page[1]]
    assert asyncio.run(together([], work)) == []
    assert len(calls) == 1


def test_no_time_left_is_said() -> None:
    check(Budget())
    with pytest.raises(OutOfTimeError, match=r"^the function's time is nearly over$"):
        check(OVER)


@pytest.mark.parametrize(("races", "pauses"), [(0, []), (1, [0]), (3, [0, 0.1, 0.2])])
def test_who_loses_a_race_tries_again(races: int, pauses: list[float]) -> None:
    left = [LostRaceError("lost") for _ in range(races)]
    tries: list[int] = []

    async def once() -> None:
        tries.append(1)
        if left:
            raise left.pop()

    slept = Sleeps()
    asyncio.run(racing(once, Budget(), slept))

    assert len(tries) == races + 1
    assert slept.seconds == pytest.approx(pauses)


def test_six_lost_races_are_enough() -> None:
    tries: list[int] = []

    async def once() -> None:
        tries.append(1)
        raise LostRaceError("lost")

    with pytest.raises(LostRaceError, match=r"^others keep writing this customer meter's ledger entry$"):
        asyncio.run(racing(once, Budget(), Sleeps()))
    assert len(tries) == 6


def test_no_race_is_entered_without_time() -> None:
    tries: list[int] = []

    async def once() -> None:
        tries.append(1)

    with pytest.raises(OutOfTimeError):
        asyncio.run(racing(once, OVER))
    assert tries == []
