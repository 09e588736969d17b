"""The periodic reporting: a tick queues pages, a worker reports them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any, Protocol

from usage_reporting import telemetry
from usage_reporting.accounts import OWN_ACCOUNT
from usage_reporting.billing import Finalized
from usage_reporting.budget import Budget
from usage_reporting.config import Mode
from usage_reporting.connected import Connected
from usage_reporting.container import Container
from usage_reporting.daily import Daily, SnsTopic, last_day
from usage_reporting.daily_sums import DailyCursor
from usage_reporting.errors import (
    AskAgainError,
    BadRequestError,
    NotConfiguredError,
    NotPermittedError,
    OutOfTimeError,
    RejectedError,
)
from usage_reporting.idle_accounts import IdleAccounts
from usage_reporting.judging import record_judged
from usage_reporting.model import CustomerMeter, Report, Status
from usage_reporting.pages import (
    Cursor,
    Message,
    Part,
    Scope,
    cursor_message,
    daily_message,
    page_message,
    read_message,
    scope_of,
)
from usage_reporting.reconciliation import Reconciler
from usage_reporting.telemetry import logger

KEPT_FOR_HAND_OVER_S = 12.0
KEPT_FOR_ANSWER_S = 3.0
KEPT_FOR_DRAFTS_S = 10.0
"""To keep drafts open; only where that is asked for."""
KEPT_FOR_LISTING_S = 20.0
MINIMUM_S = 1.0
UNLIMITED_S = 600.0
REASONS_NAMED = 3
"""So many different reasons say enough of why a message is given back."""


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
    if scope is Scope.RECONCILE:
        answer = _reconcile(container, DailyCursor(last_day(container.clock())), context)
    else:
        if container.settings.connected_accounts:
            container.queue.send(cursor_message(Cursor(scope, Part.ACCOUNTS)))
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
        name = str(record.get("messageId", ""))
        try:
            _work_off_one(container, str(record.get("body", "")), context)
        except (AskAgainError, BadRequestError) as error:
            telemetry.given_back(name, error.reason, is_bad=isinstance(error, BadRequestError))
            failures.append({"itemIdentifier": name})
    return {"status": "done" if not failures else "ask_again", "batchItemFailures": failures}


def _work_off_one(container: Container, body: str, context: LambdaContext | None) -> None:
    """Do what a message asks for. Raises AskAgainError when it may end better later, and BadRequestError."""
    message = read_message(body)
    if (account := _no_longer_served(container, message)) is not None:
        logger.warning("dropped a message of %s, which ConnectedAccounts does not name any more", account)
    elif isinstance(message, Cursor):
        _list_one(container, message, context)
    elif isinstance(message, DailyCursor):
        _reconcile(container, message, context)
    elif isinstance(message, Finalized):
        _judge(container, message, context)
    else:
        _report(container, message, context)


def _no_longer_served(container: Container, message: Message) -> str | None:
    """The account of a message that was left on the queue; another stack may bill that account by now.

    A daily reconciliation goes on: it only reads, and the other accounts come after that one.
    """
    if isinstance(message, DailyCursor):
        return None
    accounts = {one.account for one in message} if isinstance(message, list) else {message.account}
    serves = container.settings.connected_accounts.serves
    return next((one for one in sorted(accounts) if not serves(one)), None)


def _report(container: Container, message: list[CustomerMeter], context: LambdaContext | None) -> None:
    kept_s = KEPT_FOR_DRAFTS_S if _keeps_open(container, message) else 0.0
    seconds = _seconds_left(context) - KEPT_FOR_HAND_OVER_S - kept_s
    parts = container.of(message[0].account) if message else container
    work = parts.reporter.report(message, budget=Budget.of(seconds))
    try:
        with telemetry.timed(message):
            reports = container.run(_in_time(work, seconds + KEPT_FOR_HAND_OVER_S - KEPT_FOR_ANSWER_S))
    except OutOfTimeError:
        if kept_s:
            container.run(parts.drafts.after([Report(one, Status.UNKNOWN) for one in message], kept_s))
        raise
    telemetry.record(reports, container.clock())
    if kept_s:
        container.run(parts.drafts.after(reports, kept_s))
    rest = _handed_over(reports)
    if rest:
        container.queue.send(page_message(rest))
        logger.info("handed %s customer meters over to a new message", len(rest))
    unknown = [one for one in reports if one.status is Status.UNKNOWN and not one.customer_meter.is_beside]
    _raise_if_any([report.reason for report in unknown])


def _keeps_open(container: Container, page: Sequence[CustomerMeter]) -> bool:
    """Whether drafts on this page may have to be kept open, or let go."""
    settings = container.settings
    is_ours_to_do = settings.hold_drafts and settings.mode is not Mode.SHADOW
    return is_ours_to_do and any(span.invoice for one in page for span in one.spans)


def _judge(container: Container, page: Finalized, context: LambdaContext | None) -> None:
    """Judge a page of final invoices. Raises AskAgainError if that of one of them may be possible later."""
    seconds = _seconds_left(context) - KEPT_FOR_HAND_OVER_S
    judge = container.of(page.account).judge
    work = judge.judge(page.invoices, page.mode, Budget.of(seconds))
    found = container.run(_in_time(work, seconds + KEPT_FOR_HAND_OVER_S - KEPT_FOR_ANSWER_S))
    for judged in found:
        record_judged(judged, container.settings.mode, container.clock())
    _raise_if_any([judged.error.reason for judged in found if isinstance(judged.error, AskAgainError)])


def _raise_if_any(reasons: Sequence[str]) -> None:
    """Give the message back when some of it may end better later; each customer has a line of its own."""
    if reasons:
        raise AskAgainError("; ".join(list(dict.fromkeys(reasons))[:REASONS_NAMED]))


async def _in_time[T](work: Awaitable[T], seconds: float) -> T:
    """Stop work that hangs before Lambda stops the function, so that the message is given again."""
    try:
        return await asyncio.wait_for(work, max(seconds, MINIMUM_S))
    except TimeoutError:
        raise OutOfTimeError("the page was not done in the function's time; it is given again") from None


def _handed_over(reports: Sequence[Report]) -> list[CustomerMeter]:
    return [report.customer_meter for report in reports if report.status is Status.HANDED_OVER]


def _list_one(container: Container, cursor: Cursor, context: LambdaContext | None) -> None:
    """Go on with a listing; a connected account that may not be listed is said once, and left alone."""
    lists_accounts = cursor.part is Part.ACCOUNTS
    try:
        (_list_accounts if lists_accounts else _list)(container, cursor, context)
    except (RejectedError, NotPermittedError) as error:
        if cursor.account == OWN_ACCOUNT and not lists_accounts:
            raise
        who = "the list of connected accounts" if lists_accounts else "the listing"
        telemetry.problem(who, Status.REFUSED, error.reason, cursor.account)
        telemetry.count("Refused")


def _list_accounts(container: Container, cursor: Cursor, context: LambdaContext | None) -> None:
    """Queue a listing of each connected account."""
    budget = Budget.of(_seconds_left(context) - KEPT_FOR_LISTING_S)
    rest = container.run(_connected(container).queue_listings(container.queue, cursor, budget))
    if rest is not None:
        container.queue.send(cursor_message(rest))


def _idle(container: Container) -> IdleAccounts:
    return IdleAccounts(container.ledger, container.clock)


def _connected(container: Container) -> Connected:
    return Connected(container.settings.connected_accounts, container.billing.api, _idle(container))


def _list(container: Container, cursor: Cursor, context: LambdaContext | None) -> dict[str, Any]:
    budget = Budget.of(_seconds_left(context) - KEPT_FOR_LISTING_S)
    queued, rest = container.run(container.of(cursor.account).lister.queue_pages(cursor, budget))
    for one in rest:
        container.queue.send(cursor_message(one))
    _note_idleness(container, cursor, queued, is_over=not rest)
    telemetry.count("Queued", queued)
    return {"status": "queued", "scope": cursor.scope.value, "customer_meters": queued}


def _note_idleness(container: Container, cursor: Cursor, queued: int, *, is_over: bool) -> None:
    """Note whether a connected account has anything to bill, where an hourly tick shows it."""
    is_shadow = container.settings.mode is Mode.SHADOW
    if cursor.account == OWN_ACCOUNT or cursor.scope is not Scope.ALL or is_shadow:
        return
    is_whole = is_over and cursor == Cursor(Scope.ALL, account=cursor.account)
    if queued or is_whole:
        container.run(_idle(container).note(cursor.account, is_idle=not queued))


def _reconcile(container: Container, cursor: DailyCursor, context: LambdaContext | None) -> dict[str, Any]:
    """Go on with a daily reconciliation; what there is no time for goes on by a cursor on the queue."""
    settings, parts = container.settings, container.of(cursor.account)
    openmeter, reporter = parts.reporter.openmeter, parts.reporter
    daily = Daily(
        settings=settings,
        billing=parts.billing,
        ledger=container.ledger,
        reconciler=Reconciler(settings, parts.billing, openmeter, reporter, container.clock),
        judge=parts.judge,
        topic=SnsTopic(settings.reconcile_topic) if settings.reconcile_topic else None,
        clock=container.clock,
        connected=_connected(container),
    )
    seconds = _seconds_left(context) - KEPT_FOR_LISTING_S
    work = daily.go_on(cursor, Budget.of(seconds))
    rest = container.run(_in_time(work, seconds + KEPT_FOR_LISTING_S - KEPT_FOR_ANSWER_S))
    if rest is not None:
        container.queue.send(daily_message(rest))
    compared = sum((rest or cursor).sums.customer_meters.values())
    return {"status": "queued" if rest else "done", "scope": "reconcile", "customer_meters": compared}


def _not_configured(container: Container) -> dict[str, Any] | None:
    try:
        container.credentials.current()
    except NotConfiguredError as error:
        logger.warning("%s", error.reason)
        return {"status": "not_configured", "reason": error.reason}
    return None


def _count_tick(scope: Scope) -> None:
    telemetry.count("Tick")
    if scope is not Scope.RECONCILE:
        telemetry.count("TickClosing" if scope is Scope.CLOSING else "TickAll")


def _seconds_left(context: LambdaContext | None) -> float:
    ask = getattr(context, "get_remaining_time_in_millis", None)
    return ask() / 1000 if ask else UNLIMITED_S
