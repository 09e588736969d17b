"""Work for the customer meters of a page, side by side; an error becomes the outcome of those it concerns."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence

from usage_reporting.budget import Budget
from usage_reporting.errors import (
    AskAgainError,
    ConfigurationError,
    HeldError,
    LostRaceError,
    OutOfTimeError,
    RefusedError,
    RejectedError,
    UsageReportingError,
)
from usage_reporting.model import Report, Status
from usage_reporting.telemetry import logger

AT_ONCE = 8
"""Customer meters that are worked on side by side, so that what there is no time for is not begun."""

RACES = 6
RACE_PAUSE_S = 0.1

Work = Callable[[], Awaitable[None]]


_OUTCOMES: tuple[tuple[type[UsageReportingError], Status], ...] = (
    (RefusedError, Status.REFUSED),
    (HeldError, Status.HELD),
    (RejectedError, Status.REJECTED),
    (OutOfTimeError, Status.HANDED_OVER),
    (AskAgainError, Status.UNKNOWN),
    (ConfigurationError, Status.UNKNOWN),
)


def check(budget: Budget) -> None:
    """Raise OutOfTimeError when there is no time left."""
    if budget.is_over:
        raise OutOfTimeError("the function's time is nearly over")


def is_stopped(report: Report) -> bool:
    """Whether an outcome so far forbids to go on with this customer meter."""
    return report.status.is_undelivered and report.status is not Status.DOUBTED


async def all_ended[T](works: Iterable[Awaitable[T]]) -> list[T]:
    """Do everything at once; an error is raised when all has ended, so that nothing goes on unseen."""
    found: list[T] = []
    for one in await asyncio.gather(*works, return_exceptions=True):
        if isinstance(one, BaseException):
            raise one
        found.append(one)
    return found


async def racing(
    once: Work, budget: Budget, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
) -> None:
    """Do it again when somebody else wrote the ledger entry in between."""
    for attempt in range(RACES):
        check(budget)
        try:
            await once()
        except LostRaceError:
            await sleep(RACE_PAUSE_S * attempt)
            continue
        return
    raise LostRaceError("others keep writing this customer meter's ledger entry")


def note(report: Report, error: UsageReportingError) -> None:
    """Make an error the outcome of a customer meter."""
    status = next(status for kind, status in _OUTCOMES if isinstance(error, kind))
    report.note(status, error.reason)


async def with_outcome(reports: Sequence[Report], work: Work) -> None:
    """Do work for some customer meters; an error becomes their outcome."""
    try:
        await work()
    except UsageReportingError as error:
        for report in reports:
            note(report, error)
    except Exception as error:  # noqa: BLE001 - one bad customer never stops the others
        logger.exception("unexpected error")
        for report in reports:
            report.note(Status.UNKNOWN, f"unexpected {type(error).__name__}; see the function's log")


async def together(reports: Sequence[Report], work: Work) -> list[Report]:
    """Do work for all of them at once; give those that can go on."""
    if reports:
        await with_outcome(reports, work)
    return [report for report in reports if not is_stopped(report)]


async def side_by_side(
    reports: Sequence[Report], work: Callable[[Report], Awaitable[None]], at_once: int = AT_ONCE
) -> list[Report]:
    """Do each one's work, some side by side; give those that can go on.

    A task begins at once, and most have nothing to wait for: those cost the event loop nothing.
    """
    slots = asyncio.Semaphore(at_once)

    async def alone(report: Report) -> None:
        async with slots:
            await with_outcome([report], lambda: work(report))

    loop = asyncio.get_running_loop()
    await asyncio.gather(*(asyncio.eager_task_factory(loop, alone(report)) for report in reports))
    return [report for report in reports if not is_stopped(report)]
