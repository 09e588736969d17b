"""Mends what can still be mended, by the normal report; what needs a person is named with its command.

Three ways, and none of them sends by itself: the ledger is rebuilt from Stripe where only the ledger is
wrong; what Stripe seems not to hold is doubted, so that its summaries settle it; then a full report.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cli.adoption import plan
from cli.comparison import compare_meters
from cli.errors import CliError
from cli.outcome import whose
from cli.report import report_all
from cli.wiring import Operator
from usage_reporting import advice
from usage_reporting.amounts import ZERO, to_wire
from usage_reporting.errors import UsageReportingError
from usage_reporting.heads import Options
from usage_reporting.ledger import Entry, Head
from usage_reporting.model import CustomerMeter, Report, Send, SendState, Status, Target
from usage_reporting.reconciled import Difference, Reconciled
from usage_reporting.reconciliation import judged_until
from usage_reporting.settlement import SUMMARIES_SURE
from usage_reporting.stripe_api import redacted
from usage_reporting.verdict import Cause
from usage_reporting.windows import BOUNDS_KEPT, days_between, rfc3339


@dataclass(slots=True)
class Mended:
    """What was done for one customer meter."""

    customer_meter: CustomerMeter
    acts: list[str] = field(default_factory=list)
    sent: list[Send] = field(default_factory=list)
    error: str = ""
    """Why it was left as it is."""

    def to_json(self) -> dict[str, Any]:
        """What was done; amounts are texts."""
        return {
            **whose(self.customer_meter.account),
            "stripe_customer": self.customer_meter.customer,
            "meter": self.customer_meter.openmeter_meter,
            "done": self.acts,
            "sent": [
                {"identifier": s.identifier, "value": to_wire(s.value), "timestamp": rfc3339(s.stamp)}
                for s in self.sent
            ],
            "error": self.error,
        }


def is_mendable(one: Reconciled) -> bool:
    """Whether anything of it can be mended without a person's decision."""
    return not one.unjudged and (bool(_to_adopt(one) or _to_doubt(one)) or _is_to_report(one))


def advised(one: Reconciled, *, can_mend: bool) -> Iterator[str]:
    """What a person has to decide or to do, with the exact command; `can_mend`: --apply is allowed."""
    with advice.about(one.customer_meter.account):
        yield from _advised(one, can_mend=can_mend)


def _advised(one: Reconciled, *, can_mend: bool) -> Iterator[str]:
    customer, causes = one.customer_meter.customer, one.causes
    if one.needs_a_look and one.report.reason:
        yield redacted(one.report.reason)
    if Cause.OTHER_WRITER in causes:
        meter = one.customer_meter.meter
        yield (
            f"somebody else sends to Stripe meter {meter.id if meter else '(usage records)'}: stop it, wait "
            f"an hour, then take over what Stripe holds by {advice.adopt(customer)}; what is then too much "
            f"is lowered by {advice.accept(customer)}"
        )
    if Cause.DECREASE in causes and one.report.status is not Status.HELD and not _would_change(one):
        yield f"OpenMeter has less than was reported: check it; if it is right, {advice.accept(customer)}"
    is_held_past = Cause.HELD in causes and one.report.status is not Status.HELD
    if is_held_past or Cause.LATE in causes or Cause.UNBILLABLE in causes:
        what = "was held" if is_held_past else "is late or unbillable"
        yield f"no invoice takes what {what} any more: bill it by an invoice item"
    if can_mend and is_mendable(one):
        yield f"to mend it: {advice.command('reconcile', customer, '--apply')}"


async def mend(parts: Operator, found: Sequence[Reconciled]) -> list[Mended]:
    """Mend what is mendable; one that fails stops none of the others."""
    mendable = [one.customer_meter for one in found if not one.is_fine and is_mendable(one)]
    done: list[Mended] = []
    to_report: dict[str, Mended] = {}
    # A full report reads all that is still billable. So all of it is compared first: where the ledger lost
    # an older hour than was asked for, a report would bill that twice.
    for one in await compare_meters(parts, mendable, parts.clock() - BOUNDS_KEPT):
        mended = Mended(one.customer_meter, error=redacted(_why_left(one)))
        done.append(mended)
        try:
            if not mended.error and await _prepared(parts, one, mended) and _is_to_report(one):
                to_report[one.customer_meter.pk] = mended
        except (CliError, UsageReportingError) as error:
            mended.error = redacted(str(error))
    reports = await report_all(parts, [one.customer_meter for one in to_report.values()], Options(full=True))
    for report in reports:
        _take(to_report[report.customer_meter.pk], report)
    return done


def _why_left(one: Reconciled) -> str:
    """Why nothing is done for a customer meter; empty where something can be."""
    if one.unjudged:
        return one.unjudged
    if not _is_dangerous(one) or _to_adopt(one):
        return ""
    unknown = next(each for each in one.differences if _is_hidden(each))
    look = advice.command("reconcile", one.customer_meter.customer, "--since 35d")
    return (
        f"{rfc3339(unknown.start)}: Stripe holds what the ledger does not know of, and a report would bill "
        f"it twice; see all of it with {look}"
    )


def _take(mended: Mended, report: Report) -> None:
    mended.sent += report.sent
    mended.acts.append(f"reported: {report.status.value}")
    if report.status.is_undelivered:
        mended.error = redacted(report.reason)


async def _prepared(parts: Operator, one: Reconciled, mended: Mended) -> bool:
    """Put the ledger right, or in doubt; whether a report does no harm then."""
    missing, foreign = _to_doubt(one), _to_adopt(one)
    if foreign:
        if missing and not await _is_surely_missing(parts, one, missing):
            mended.error = (
                "Stripe holds what the ledger does not know, and lacks what the ledger says was sent less "
                "than a day ago; its summaries may be late, so nothing is done before they are sure"
            )
            return False
        if await _is_newest_gone(parts, one, foreign):
            await _hold(parts, one, mended)
            return False
        await _adopt(parts, one, mended)
    elif missing:
        await _doubt(parts, one, missing, mended)
    return not _is_dangerous(one) or bool(foreign)


def _is_to_report(one: Reconciled) -> bool:
    """Whether a report may send, repeat or settle something of what differs, going by its dry run."""
    if _to_adopt(one):
        return True  # what the ledger lacks would have been sent twice; with it, only the rest is
    if _is_dangerous(one):
        return False
    is_open = Cause.UNKNOWN in one.causes or bool(_to_doubt(one))
    return is_open or one.report.status.ask_again or _would_change(one)


def _would_change(one: Reconciled) -> bool:
    """Whether a report would send anything of a time that differs: more, or less where that is allowed."""
    return any(_is_in(send, one.differences) for send in one.report.sent)


def _to_doubt(one: Reconciled) -> list[Difference]:
    """Where the ledger says that Stripe was told, Stripe does not hold it, and OpenMeter still has it."""
    return [each for each in one.differences if each.beyond_ledger < 0 and each.units > 0]


def _to_adopt(one: Reconciled) -> list[Difference]:
    """Where the ledger is wrong and Stripe is not; nothing, where Stripe holds too much anywhere."""
    if one.head is None:
        return []  # nobody knows who else reports: that is a person's to find out
    wrong = [each for each in one.differences if each.beyond_ledger and each not in _to_doubt(one)]
    return [] if any(each.units < 0 for each in wrong) else wrong


def _is_dangerous(one: Reconciled) -> bool:
    """Whether a report would send what Stripe holds already, because the ledger does not know of it."""
    return any(_is_hidden(each) for each in one.differences)


def _is_hidden(each: Difference) -> bool:
    """Whether a report would send of a time what Stripe holds of it already."""
    return each.beyond_ledger > 0 and each.metered > each.held - each.beyond_ledger


async def _is_surely_missing(parts: Operator, one: Reconciled, missing: Sequence[Difference]) -> bool:
    before = parts.clock() - SUMMARIES_SURE
    sends = [
        send
        for entry in await _entries(parts, one, missing)
        for send in entry.sends.values()
        if _is_in(send, missing)
    ]
    return all(send.told_at < before for send in sends)


async def _is_newest_gone(parts: Operator, one: Reconciled, foreign: Sequence[Difference]) -> bool:
    """Whether an entry is gone that told Stripe of the last hour, which its summaries may not show yet."""
    if one.customer_meter.target is not Target.MIRROR:
        return False  # the total is told again, and takes the place of what was told before
    today = days_between(judged_until(parts.clock()), parts.clock())
    entries = await _entries(parts, one, foreign)
    return any(entry.sk in today and not entry.version for entry in entries)


async def _hold(parts: Operator, one: Reconciled, mended: Mended) -> None:
    """Keep everybody from sending, ticks too, until the ledger is rebuilt. Raises LostRaceError."""
    head = (await parts.ledger.heads([one.customer_meter.pk])).get(one.customer_meter.pk)
    if head is not None and head.table:
        await parts.ledger.write_head(replace(head, table=""), parts.clock())
        mended.acts.append("held, so that nothing is sent twice")
    mended.error = (
        "the ledger's entry of today is gone, and Stripe's summaries may not show yet what was sent of it in "
        "the last hour; nothing of this customer is sent before the ledger is rebuilt: when an hour is over, "
        f"run {advice.adopt(one.customer_meter.customer)}"
    )


async def _adopt(parts: Operator, one: Reconciled, mended: Mended) -> None:
    """Rebuild the ledger from Stripe, as `adopt` does. Raises CliError or UsageReportingError."""
    now = parts.clock()
    adoption = await plan(parts.billing, parts.openmeter, parts.ledger, one.customer_meter, now)
    await adoption.carry_out(parts.ledger, now)
    mended.acts.append("the ledger was rebuilt from what Stripe holds")


async def _doubt(parts: Operator, one: Reconciled, missing: Sequence[Difference], mended: Mended) -> None:
    """Mark what Stripe seems not to hold as doubted: two looks at its summaries then settle it.

    A meter that takes the last value is told the total anew instead. Raises LostRaceError.
    """
    now, marked = parts.clock(), []
    for entry in await _entries(parts, one, missing):
        doubted = [
            replace(send, state=SendState.DOUBTED)
            for send in entry.sends.values()
            if send.state is SendState.SENT and _is_in(send, missing)
        ]
        if doubted:
            await parts.ledger.write_entry(entry.with_sends(doubted), now)
            marked.append(entry.sk)
            units = to_wire(sum((send.value for send in doubted), ZERO))
            mended.acts.append(f"{units} units that Stripe does not show are doubted ({entry.sk})")
    head = (await parts.ledger.heads([one.customer_meter.pk])).get(one.customer_meter.pk)
    if head is not None and one.customer_meter.target is Target.MIRROR:
        await parts.ledger.write_head(_doubtful(head, marked), now)


def _doubtful(head: Head, marked: Sequence[str]) -> Head:
    return replace(head, doubtful=head.doubtful | frozenset(marked))


async def _entries(parts: Operator, one: Reconciled, differences: Sequence[Difference]) -> list[Entry]:
    pk = one.customer_meter.pk
    if one.customer_meter.target is Target.MIRROR:
        days = {day for each in differences for day in days_between(each.start, each.end)}
        keys = [(pk, day) for day in sorted(days)]
    else:
        keys = [(pk, str(each.start)) for each in differences]
    return list((await parts.ledger.entries(keys)).values())


def _is_in(send: Send, differences: Sequence[Difference]) -> bool:
    return any(each.start <= send.stamp < each.end for each in differences)
