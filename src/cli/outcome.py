"""What came of a report, for the operator: lines, problems and a summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from cli.output import print_line, print_table
from usage_reporting.accounts import OWN_ACCOUNT
from usage_reporting.amounts import ZERO, to_wire
from usage_reporting.config import Mode, Settings
from usage_reporting.model import Line, Report, Status
from usage_reporting.stripe_api import redacted
from usage_reporting.windows import rfc3339


@dataclass(frozen=True, slots=True)
class Outcome:
    """The reports of one run."""

    reports: Sequence[Report]
    unmapped: int
    """How many metered items have no OpenMeter meter: not ours."""
    dry_run: bool
    shadow: bool
    failed: Mapping[str, str] = field(default_factory=dict)
    """Connected accounts that could not be reported, and why."""

    @classmethod
    def of(
        cls,
        reports: Sequence[Report],
        settings: Settings,
        unmapped: int,
        *,
        dry_run: bool,
        failed: Mapping[str, str] | None = None,
    ) -> Outcome:
        """The outcome of these reports."""
        return cls(reports, unmapped, dry_run, settings.mode is Mode.SHADOW, failed or {})

    @property
    def is_delivered(self) -> bool:
        """Whether nothing was refused, held or rejected, and nothing is unknown."""
        return not self.failed and not any(report.status.is_undelivered for report in self.reports)

    @property
    def summary(self) -> dict[str, int | str]:
        """How many customer meters ended how; units as text."""
        sends = "would report" if self.dry_run or self.shadow else "reported"
        counted: dict[str, int | str] = dict.fromkeys(
            (sends, "unchanged", "refused", "held", "rejected", "unknown"), 0
        )
        for report in self.reports:
            changed = report.sent or report.status is Status.SHADOW
            name = _undelivered(report.status) or (sends if changed else "unchanged")
            counted[name] = int(counted[name]) + 1
        counted["unbillable units"] = to_wire(_sum(report.unbillable for report in self.reports))
        counted["late units"] = to_wire(_sum(report.late for report in self.reports))
        counted["items without om_meter_id"] = self.unmapped
        if self.failed:
            counted["accounts not reported"] = len(self.failed)
        return counted

    def print(self) -> None:
        """Print a line for each span, then problems, then the summary."""
        for report in self.reports:
            for line in report.lines:
                print_line(str(line))
        for report in self.reports:
            if self.dry_run or self.shadow:
                _print_sends(report)
            if report.reasons:
                print_line(_problem(report))
        for account, reason in self.failed.items():
            print_line(f"not reported: stripe_account: {account}: {reason}")
        if self.reports:
            print_line()
        rows = [[name, str(value)] for name, value in self.summary.items()]
        print_table(["summary", ""], rows, right=[""])

    def to_json(self) -> dict[str, Any]:
        """The same as one JSON document; amounts are texts, so that no digit is lost."""
        return {
            "lines": [_line(line) for report in self.reports for line in report.lines],
            "sends": [
                {
                    **whose(report.customer_meter.account),
                    "stripe_customer": report.customer_meter.customer,
                    "identifier": send.identifier,
                    "value": to_wire(send.value),
                    "timestamp": rfc3339(send.stamp),
                }
                for report in self.reports
                for send in report.sent
            ],
            "problems": [
                {
                    **whose(report.customer_meter.account),
                    "stripe_customer": report.customer_meter.customer,
                    "meter": report.customer_meter.openmeter_meter,
                    "status": report.status.value,
                    "reason": redacted(report.reason),
                }
                for report in self.reports
                if report.reasons
            ],
            "summary": {name.replace(" ", "_"): value for name, value in self.summary.items()},
            "nothing_was_sent": self.dry_run or self.shadow,
            **({"accounts_not_reported": dict(self.failed)} if self.failed else {}),
        }


def whose(account: str) -> dict[str, str]:
    """The member that names a connected account in a document."""
    return {} if account == OWN_ACCOUNT else {"stripe_account": account}


def said_of(account: str) -> str:
    """The same at the end of a line."""
    return "".join(f", {name}: {value}" for name, value in whose(account).items())


def _undelivered(status: Status) -> str:
    if status.is_undelivered:
        return Status.UNKNOWN.value if status.ask_again else status.value
    return ""


def _print_sends(report: Report) -> None:
    for send in report.sent:
        print_line(
            f"would send: stripe_customer: {report.customer_meter.customer}, value: {to_wire(send.value)}, "
            f"timestamp: {rfc3339(send.stamp)}{said_of(report.customer_meter.account)}"
        )


def _problem(report: Report) -> str:
    one = report.customer_meter
    meter = one.openmeter_meter or "(of a removed item)"
    who = f"stripe_customer: {one.customer}, meter: {meter}{said_of(one.account)}"
    return f"{report.status.value}: {who}: {redacted(report.reason)}"


def _line(line: Line) -> dict[str, str]:
    return {
        **whose(line.account),
        "stripe_customer": line.customer,
        "stripe_price": line.price,
        "meter": line.meter,
        "total_usage": to_wire(line.total),
        "from": rfc3339(line.start),
        "to": rfc3339(line.end),
    }


def _sum(amounts: Any) -> Decimal:
    total: Decimal = sum(amounts, ZERO)
    return total
