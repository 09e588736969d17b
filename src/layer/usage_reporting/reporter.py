"""Reports a page of customer meters, each by the pipeline of its target."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from usage_reporting import advice
from usage_reporting.accounts import OWN_ACCOUNT
from usage_reporting.billing import Billing
from usage_reporting.budget import Budget
from usage_reporting.config import Mode, Settings
from usage_reporting.heads import Heads, Options
from usage_reporting.ledger import Ledger
from usage_reporting.mirroring import Mirroring
from usage_reporting.model import CustomerMeter, Report, Status, Target
from usage_reporting.openmeter import OpenMeter
from usage_reporting.recording import Recording
from usage_reporting.sender import Sender
from usage_reporting.side_by_side import racing, side_by_side, together
from usage_reporting.subjects import Subjects
from usage_reporting.totalling import Totalling


@dataclass(slots=True)
class Reporter:
    """Reports customer meters; one bad customer never stops the others."""

    settings: Settings
    billing: Billing
    openmeter: OpenMeter
    ledger: Ledger
    sender: Sender
    clock: Callable[[], int]
    heads: Heads = field(init=False)
    mirroring: Mirroring = field(init=False)
    totalling: Totalling = field(init=False)
    recording: Recording = field(init=False)

    def __post_init__(self) -> None:
        """Wire the parts that share these."""
        may_collide = self.settings.subject_metadata_key or self.settings.connected_accounts
        subjects = Subjects(self.ledger) if may_collide else None
        self.heads = Heads(self.billing, self.ledger, self.clock, subjects, self.openmeter.customers)
        self.mirroring = Mirroring(
            self.settings, self.billing, self.openmeter, self.ledger, self.heads, self.sender, self.clock
        )
        self.totalling = Totalling(
            self.settings, self.billing, self.openmeter, self.ledger, self.heads, self.sender, self.clock
        )
        self.recording = Recording(
            self.settings, self.openmeter, self.ledger, self.heads, self.sender, self.clock
        )

    async def report(
        self,
        page: Sequence[CustomerMeter],
        options: Options | None = None,
        budget: Budget | None = None,
    ) -> list[Report]:
        """Report a page; every customer meter has an outcome, in the page's order."""
        with advice.about(page[0].account if page else OWN_ACCOUNT):
            return await self._report(page, options, budget)

    async def _report(
        self, page: Sequence[CustomerMeter], options: Options | None, budget: Budget | None
    ) -> list[Report]:
        options, budget = options or Options(), budget or Budget()
        if self.settings.mode is Mode.SHADOW:
            options = replace(options, dry_run=True)
        reports = [Report(customer_meter) for customer_meter in page]
        for report in reports:
            if report.customer_meter.refusal:
                report.note(Status.REFUSED, report.customer_meter.refusal)
        by_target: dict[Target, list[Report]] = defaultdict(list)
        for report in await self._with_customers([one for one in reports if not one.customer_meter.refusal]):
            by_target[report.customer_meter.target].append(report)
        await self.mirroring.report(by_target[Target.MIRROR], options, budget)
        await self.totalling.report(by_target[Target.LAST], options, budget)
        record = functools.partial(self._record, options=options, budget=budget)
        await side_by_side(by_target[Target.USAGE_RECORD], record)
        return reports

    async def _with_customers(self, reports: Sequence[Report]) -> list[Report]:
        """Ask for a page's customers in OpenMeter at once, before each is looked for by itself."""
        customers = self.openmeter.customers
        if customers is None:
            return list(reports)
        keys = {report.customer_meter.subject for report in reports} - {""}

        async def ask() -> None:
            await customers.known(sorted(keys))

        return await together(reports, ask) if keys else list(reports)

    async def _record(self, report: Report, options: Options, budget: Budget) -> None:
        pk = report.customer_meter.pk

        async def once() -> None:
            report.lines.clear()
            report.prospects.clear()
            stored = (await self.ledger.heads([pk])).get(pk)
            await self.recording.report(report, stored, options, budget)

        await racing(once, budget)
