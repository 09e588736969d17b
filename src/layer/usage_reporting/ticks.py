"""The periodic reporting: a tick queues pages, a worker reports them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any, Protocol

from usage_reporting import telemetry
from usage_reporting.billing import Finalized
from usage_reporting.budget import Budget
from usage_reporting.config import Mode
from usage_reporting.container import Container
from usage_reporting.errors import AskAgainError, BadRequestError, NotConfiguredError, OutOfTimeError
from usage_reporting.judging import record_judged
from usage_reporting.model import CustomerMeter, Report, Status
from usage_reporting.pages import (
    Cursor,
    Scope,
    cursor_message,
    page_message,
    read_message,
    scope_of,
)
from usage_reporting.telemetry import logger

KEPT_FOR_HAND_OVER_S = 12.0
KEPT_FOR_ANSWER_S = 3.0
KEPT_FOR_DRAFTS_S = 10.0
"""To keep drafts open; only where that is asked for."""
KEPT_FOR_LISTING_S = 20.0
MINIMUM_S = 1.0
UNLIMITED_S = 600.0


class LambdaContext(Protocol):
    """What is used of Lambda's context object."""

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until the function is stopped."""


def tick(container: Container, event: object, context: LambdaContext | None) -> dict[str, Any]:
    """Queue the pages of a scope; what there is no time for goes on by a cursor on the queue.

    Raises BadRequestError for an unknown scope, AskAgainError when Stripe cannot be listed:
    EventBridge then tries again.
    """
    scope = scope_of(event)
    if not_configured := _not_configured(container):
        _count_tick(scope)
        return not_configured
    answer = _list(container, Cursor(scope), context)
    _count_tick(scope)
    return answer


def work_off(container: Container, event: dict[str, Any], context: LambdaContext | None) -> dict[str, Any]:
    """Report the page, or go on with the listing, of each record of an SQS event.

    Records that may end better later are named in `batchItemFailures`; so SQS gives them again.
    """
    if not_configured := _not_configured(container):
        return {**not_configured, "batchItemFailures": []}
    failures: list[dict[str, str]] = []
    for record in event.get("Records", []):
        try:
            done = _work_off_one(container, str(record.get("body", "")), context)
        except BadRequestError as error:
            logger.error("a message is dropped: %s", error.reason)
            done = False
        except AskAgainError as error:
            logger.warning("ask again: %s", error.reason)
            done = False
        if not done:
            failures.append({"itemIdentifier": str(record.get("messageId", ""))})
    return {"status": "done" if not failures else "ask_again", "batchItemFailures": failures}


def _work_off_one(container: Container, body: str, context: LambdaContext | None) -> bool:
    message = read_message(body)
    if isinstance(message, Cursor):
        _list(container, message, context)
        return True
    if isinstance(message, Finalized):
        return _judge(container, message, context)
    kept_s = KEPT_FOR_DRAFTS_S if _keeps_open(container, message) else 0.0
    seconds = _seconds_left(context) - KEPT_FOR_HAND_OVER_S - kept_s
    work = container.reporter.report(message, budget=Budget.of(seconds))
    try:
        reports = container.run(_in_time(work, seconds + KEPT_FOR_HAND_OVER_S - KEPT_FOR_ANSWER_S))
    except OutOfTimeError:
        if kept_s:
            container.run(container.drafts.after([Report(one, Status.UNKNOWN) for one in message], kept_s))
        raise
    telemetry.record(reports, container.clock())
    if kept_s:
        container.run(container.drafts.after(reports, kept_s))
    rest = _handed_over(reports)
    if rest:
        container.queue.send(page_message(rest))
        logger.info("handed %s customer meters over to a new message", len(rest))
    return not any(report.status is Status.UNKNOWN for report in reports)


def _keeps_open(container: Container, page: Sequence[CustomerMeter]) -> bool:
    """Whether drafts on this page may have to be kept open, or let go."""
    settings = container.settings
    is_ours_to_do = settings.hold_drafts and settings.mode is not Mode.SHADOW
    return is_ours_to_do and any(span.invoice for one in page for span in one.spans)


def _judge(container: Container, page: Finalized, context: LambdaContext | None) -> bool:
    """Judge a page of final invoices; False if that of one of them may be possible later."""
    seconds = _seconds_left(context) - KEPT_FOR_HAND_OVER_S
    work = container.judge.judge(page.invoices, page.mode, Budget.of(seconds))
    found = container.run(_in_time(work, seconds + KEPT_FOR_HAND_OVER_S - KEPT_FOR_ANSWER_S))
    for judged in found:
        record_judged(judged, container.settings.mode, container.clock())
    return not any(isinstance(judged.error, AskAgainError) for judged in found)


async def _in_time[T](work: Awaitable[T], seconds: float) -> T:
    """Stop work that hangs before Lambda stops the function, so that the message is given again."""
    try:
        return await asyncio.wait_for(work, max(seconds, MINIMUM_S))
    except TimeoutError:
        raise OutOfTimeError("the page was not done in the function's time; it is given again") from None


def _handed_over(reports: Sequence[Report]) -> list[CustomerMeter]:
    return [report.customer_meter for report in reports if report.status is Status.HANDED_OVER]


def _list(container: Container, cursor: Cursor, context: LambdaContext | None) -> dict[str, Any]:
    budget = Budget.of(_seconds_left(context) - KEPT_FOR_LISTING_S)
    queued, rest = container.run(container.lister.queue_pages(cursor, budget))
    for one in rest:
        container.queue.send(cursor_message(one))
    telemetry.count("Queued", queued)
    return {"status": "queued", "scope": cursor.scope.value, "customer_meters": queued}


def _not_configured(container: Container) -> dict[str, Any] | None:
    try:
        container.credentials.current()
    except NotConfiguredError as error:
        logger.warning("%s", error.reason)
        return {"status": "not_configured", "reason": error.reason}
    return None


def _count_tick(scope: Scope) -> None:
    telemetry.count("Tick")
    telemetry.count("TickClosing" if scope is Scope.CLOSING else "TickAll")


def _seconds_left(context: LambdaContext | None) -> float:
    ask = getattr(context, "get_remaining_time_in_millis", None)
    return ask() / 1000 if ask else UNLIMITED_S
