"""Both sides and the ledger compared, of one customer or of all; and the final invoices judged afresh."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cli.errors import WrongUseError
from cli.making_good import MakingGood, made_good
from cli.outcome import whose
from cli.output import progress
from cli.report import pages_of
from cli.wiring import Operator
from usage_reporting.accounts import OWN_ACCOUNT, of_account
from usage_reporting.amounts import to_wire
from usage_reporting.billing import Finalized
from usage_reporting.config import Mode
from usage_reporting.customer_meters import merged
from usage_reporting.judging import Judge, Judged
from usage_reporting.lister import INVOICES_A_PAGE
from usage_reporting.model import CustomerMeter
from usage_reporting.reconciled import Reconciled
from usage_reporting.reconciliation import Reconciler
from usage_reporting.stripe_api import redacted
from usage_reporting.thresholds import NOT_BY_ITSELF
from usage_reporting.unmapped import LostNames
from usage_reporting.verdict import JudgedLine
from usage_reporting.windows import rfc3339


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a final invoice, and what is to be made for it in Stripe."""

    invoice: str
    judged: JudgedLine
    made_good: Sequence[MakingGood] = ()
    account: str = OWN_ACCOUNT
    """As it stands in the ledger's keys."""

    @property
    def is_fine(self) -> bool:
        """Whether it bills what was measured, charges nothing, or is judged with another line."""
        is_elsewhere = self.judged.reason == NOT_BY_ITSELF
        return is_elsewhere or self.judged.finding.is_fine

    def to_json(self) -> dict[str, Any]:
        """The line; amounts are texts, so that no digit is lost."""
        one = self.judged
        return {
            **whose(self.account),
            "invoice": self.invoice,
            "stripe_customer": one.customer,
            "price": one.price,
            "meter": one.meter,
            "from": rfc3339(one.start),
            "to": rfc3339(one.end),
            "billed": to_wire(one.quantity),
            "metered": None if one.metered is None else to_wire(one.metered),
            "verdict": one.verdict,
            "finding": one.finding.value,
            "causes": {cause.value: to_wire(units) for cause, units in one.causes.items()},
            "reason": redacted(one.reason),
            "to_be_made": [each.to_json() for each in self.made_good],
        }


@dataclass(slots=True)
class Comparison:
    """What was found of the time since `since`, UTC seconds."""

    since: int
    meters: list[Reconciled] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)
    """Subscriptions, drafts and invoices that could not be read, and why."""
    unmapped: int = 0
    """Metered items without an OpenMeter meter: not ours."""
    can_mend: bool = True
    """Whether --apply is allowed: in shadow mode it is not."""

    @property
    def is_exact(self) -> bool:
        """Whether nothing differs, and all could be compared."""
        is_fine = all(one.is_fine for one in self.meters) and all(line.is_fine for line in self.lines)
        return is_fine and not self.problems

    @classmethod
    def of_all(cls, found: Sequence[Comparison], failed: Mapping[str, str]) -> Comparison:
        """What was found in several accounts as one; `failed`: those that could not be compared, and why."""
        first = found[0]
        return cls(
            first.since,
            [one for each in found for one in each.meters],
            [line for each in found for line in each.lines],
            [*(problem for each in found for problem in each.problems), *failed.items()],
            sum(each.unmapped for each in found),
            first.can_mend,
        )

    def with_meters(self, again: Sequence[Reconciled]) -> Comparison:
        """The same with some customer meters as they are now."""
        newer = {one.customer_meter.pk: one for one in again}
        return replace(self, meters=[newer.get(one.customer_meter.pk, one) for one in self.meters])


async def compare(parts: Operator, customer: str, since: int) -> Comparison:
    """Compare all, or one customer. Raises WrongUseError for a customer of whom there is nothing."""
    found: list[CustomerMeter] = []
    nothing: WrongUseError | None = None
    try:
        found = merged(await parts.customer_meters(customer, endings=True))
    except WrongUseError as error:
        nothing = error  # its invoices may be final, and its subscriptions long over
    result = Comparison(since, can_mend=parts.settings.mode is not Mode.SHADOW)
    result.meters = await compare_meters(parts, found, since)
    await _judge(parts, customer, result)
    if nothing is not None and not result.lines:
        raise nothing
    unreadable = parts.billing.unreadable.items()
    account = parts.billing.account
    result.problems += [(of_account(name, account), redacted(why)) for name, why in unreadable]
    result.problems += await _lost_names(parts)
    result.unmapped = len(parts.billing.unmapped)
    return result


async def _lost_names(parts: Operator) -> list[tuple[str, str]]:
    """Items whose usage was sent before somebody took their meter's name away: nobody compares them now."""
    names = LostNames(parts.ledger)
    try:
        await names.look_up(list(parts.billing.unmapped.values()), parts.clock())
        return [(one.item, one.reason) for one in names.found()]
    finally:
        names.close()


async def compare_meters(parts: Operator, found: Sequence[CustomerMeter], since: int) -> list[Reconciled]:
    """Compare customer meters, a page at a time."""
    reconciler = Reconciler(parts.settings, parts.billing, parts.openmeter, parts.reporter, parts.clock)
    compared: list[Reconciled] = []
    with progress("comparing customers", len(found)) as bar:
        for page in pages_of(found):
            compared += await reconciler.compare(page, since, parts.clock(), full=True)
            bar.advance(bar.task_ids[0], len(page))
    return compared


async def _judge(parts: Operator, customer: str, result: Comparison) -> None:
    by_mode: dict[str, list[str]] = defaultdict(list)
    async for found in parts.billing.final_since(result.since, customer):
        by_mode[found.mode] += found.invoices
    judge = Judge(parts.settings, parts.billing, parts.openmeter, parts.ledger, parts.reporter, parts.clock)
    pages = [
        Finalized(mode, ids[first : first + INVOICES_A_PAGE])
        for mode, ids in by_mode.items()
        for first in range(0, len(ids), INVOICES_A_PAGE)
    ]
    with progress("judging final invoices", sum(len(ids) for ids in by_mode.values())) as bar:
        for page in pages:
            for judged in await judge.judge(page.invoices, page.mode, afresh=True):
                await _take(parts, judged, result)
            bar.advance(bar.task_ids[0], len(page.invoices))


async def _take(parts: Operator, judged: Judged, result: Comparison) -> None:
    if judged.error is not None:
        invoice = of_account(judged.invoice, judged.account)
        result.problems.append((invoice, redacted(judged.error.reason)))
    for line in judged.judgement.lines if judged.judgement else ():
        made: Sequence[MakingGood] = ()
        if judged.document is not None:
            made = await made_good(parts.billing, judged.document, line)
        result.lines.append(Line(judged.invoice, line, made, judged.account))
