"""The one logger and the one metrics object, and what is counted and measured of a report."""

from __future__ import annotations

import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from aws_lambda_powertools import Logger, Metrics, single_metric
from aws_lambda_powertools.metrics import MetricUnit

from usage_reporting.accounts import OWN_ACCOUNT, of_account
from usage_reporting.model import CustomerMeter, Report, Status
from usage_reporting.verdict import Finding, JudgedLine

SERVICE = os.environ.get("POWERTOOLS_SERVICE_NAME") or "usage-reporter"
"""The stack's name in a deployed function, so that two stacks of one account keep their metrics apart."""
NAMESPACE = "UsageReporting"
NEAR_DEADLINE = 20 * 60

STRIPE = "stripe"
OPENMETER = "openmeter"

REASONS = frozenset(
    {"global-rate", "global-concurrency", "endpoint-rate", "endpoint-concurrency", "resource-specific"}
)
"""Why Stripe turned a call away ("Rate limits", Stripe-Rate-Limited-Reason); each is a metric that costs."""
NO_REASON = "unnamed"

logger = Logger(service=SERVICE)
metrics = Metrics(namespace=NAMESPACE, service=SERVICE)

_calls: Counter[str] = Counter()
_turned_away: Counter[tuple[str, str]] = Counter()

_COUNTED = {
    Status.SENT: "Reported",
    Status.UNCHANGED: "Unchanged",
    Status.SHADOW: "Shadowed",
    Status.DOUBTED: "Doubted",
    Status.REFUSED: "Refused",
    Status.HELD: "Held",
    Status.REJECTED: "Rejected",
    Status.UNKNOWN: "Unknown",
    Status.HANDED_OVER: "HandedOver",
}

_VERDICTS = {
    Finding.EXACT: "VerdictExact",
    Finding.SHORT: "VerdictShort",
    Finding.OVER: "VerdictOver",
    Finding.NOT_JUDGED: "NotJudged",
}


def count(name: str, value: float = 1) -> None:
    """Add to a metric of this invocation."""
    metrics.add_metric(name=name, unit=MetricUnit.Count, value=value)


def called(api: str) -> None:
    """A call to STRIPE or OPENMETER begins."""
    _calls[api] += 1


def turned_away(api: str, reason: str = "") -> None:
    """An API said that calls were too many; `reason` as Stripe names it."""
    _turned_away[(api, reason if reason in REASONS else NO_REASON)] += 1


@contextmanager
def timed(page: Sequence[CustomerMeter]) -> Iterator[None]:
    """Measure how long the report of a page takes, however it ends, and say in the log which page it was."""
    began = time.perf_counter()
    try:
        yield
    finally:
        for name, value in _identity(page).items():
            metrics.add_metadata(name, value)
        _measure("ReportDuration", MetricUnit.Milliseconds, 1000 * (time.perf_counter() - began))


def problem(who: str, outcome: str, reason: str, account: str = OWN_ACCOUNT) -> None:
    """Log what keeps usage from being reported; `who`: the customer, or the object of Stripe it is about."""
    fields = {"who": who, "outcome": outcome, "reason": reason, **_whose(account)}
    logger.warning("%s: %s: %s", of_account(who, account), outcome, reason, extra=fields)


def given_back(message: str, reason: str, *, is_bad: bool) -> None:
    """Log why a message of the queue goes back there, by its id: `usage-reporter redrive` looks for it."""
    log, what = (logger.error, "no page of ours") if is_bad else (logger.warning, "ask again")
    log("%s: %s", what, reason, extra={"queue_message": message, "reason": reason})


def answered(code: int, status: str, reason: str, event: Mapping[str, str], *, is_fine: bool) -> None:
    """Log what Stripe was told; `event`: its id and type, empty for a call that is not Stripe's."""
    fields = {"answer": status, "code": code, "reason": reason, **event}
    log = logger.info if is_fine else logger.warning
    log("answered %s %s: %s", code, status, reason, extra=fields)


def record(reports: Iterable[Report], now: int) -> None:
    """Log, count and measure a page's reports; `now` in UTC seconds.

    What is unchanged is logged for debugging alone: every hour of every customer costs more than it tells.
    """
    counted: defaultdict[str, float] = defaultdict(float)
    oldest = now
    for report in reports:
        is_news = report.status is not Status.UNCHANGED
        for line in report.lines:
            (logger.info if is_news else logger.debug)("%s", line)
        if report.customer_meter.is_beside:
            _record_beside(report)
            continue
        if report.reasons:
            one = report.customer_meter
            problem(one.customer, report.status.value, report.reason, one.account)
        for name, value in _counts_of(report, now):
            counted[name] += value
        _measure_margin(report, now)
        if report.unsent_since is not None and report.status.is_undelivered:
            oldest = min(oldest, report.unsent_since)
    for name, value in counted.items():
        count(name, value)
    if oldest < now:
        _measure("OldestUnsent", MetricUnit.Seconds, now - oldest)


def _record_beside(report: Report) -> None:
    """What no invoice bills is in no danger: it is said and counted by itself, and no alarm hears it."""
    if report.reasons:
        outcome = f"{report.status.value} beside its legacy price"
        one = report.customer_meter
        problem(one.customer, outcome, report.reason, one.account)
    if report.status.is_undelivered:
        count("BesideUndelivered")


def _counts_of(report: Report, now: int) -> Iterator[tuple[str, float]]:
    if name := _COUNTED.get(report.status):
        yield name, 1
    if report.is_braked:
        yield "Braked", 1
    if report.late:
        yield "Late", float(report.late)
    if report.unbillable:
        yield "Unbillable", float(report.unbillable)
    deadline = report.customer_meter.deadline
    if deadline is not None and report.status.is_undelivered and deadline - now < NEAR_DEADLINE:
        yield "ClosingUndelivered", 1


def _measure_margin(report: Report, now: int) -> None:
    """The time that was left to the draft when usage was sent for it, or could not be.

    A draft that was complete already says nothing: it is looked at until shortly before its deadline. None is
    below zero, for CloudWatch gives no percentiles of a metric that has negative values.
    """
    deadline = report.customer_meter.deadline
    if deadline is not None and (report.status is Status.SENT or report.status.is_undelivered):
        _measure("DeadlineMargin", MetricUnit.Seconds, max(deadline - now, 0))


def record_verdict(
    invoice: str, lines: Iterable[JudgedLine], *, is_counted: bool, account: str = OWN_ACCOUNT
) -> None:
    """Log and count what was found of an invoice's lines; in shadow mode it is said and not counted."""
    for line in lines:
        whose = _whose(account)
        fields = {"stripe_invoice": invoice, "who": line.customer, "verdict": line.finding.value, **whose}
        log = logger.info if line.finding.is_fine else logger.warning
        said = "".join(f", {name}: {value}" for name, value in whose.items())
        log("stripe_invoice: %s, %s%s", invoice, line, said, extra=fields)
        name = _VERDICTS.get(line.finding)
        if name and is_counted:
            count(name)


def flush() -> None:
    """Write this invocation's metrics, if any, in CloudWatch's embedded metric format."""
    if metrics.metric_set:
        metrics.flush_metrics()
    for api, calls in _calls.items():
        _count_by("Calls", calls, {"api": api})
    for (api, reason), calls in _turned_away.items():
        _count_by("RateLimited", calls, {"api": api, "reason": reason})
    _calls.clear()
    _turned_away.clear()


def _measure(name: str, unit: MetricUnit, value: float) -> None:
    """Add one value to a metric of this invocation, of which CloudWatch gives percentiles."""
    metrics.add_metric(name=name, unit=unit, value=value)


def _count_by(name: str, value: float, dimensions: Mapping[str, str]) -> None:
    """Write a metric of more dimensions, by itself: each set of values is a metric of its own."""
    with single_metric(
        name=name,
        unit=MetricUnit.Count,
        value=value,
        namespace=NAMESPACE,
        default_dimensions={"service": SERVICE, **dimensions},
    ):
        pass


def _whose(account: str) -> dict[str, str]:
    """The field that names a connected account."""
    return {} if account == OWN_ACCOUNT else {"stripe_account": account}


def _identity(page: Sequence[CustomerMeter]) -> dict[str, str | int]:
    if not page:
        return {}
    named = {"page_meter": page[0].openmeter_meter, "page_first": page[0].customer}
    return {**named, "page_size": len(page), **_whose(page[0].account)}
