"""What `migrate` prints."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from decimal import Decimal

from cli.migration.comparing import Bill, Compared, ComparedPeriod, Verdict, pricing_of
from cli.migration.finishing import FirstInvoice
from cli.migration.forecast import Forecast, totals
from cli.migration.found import LegacyItem, LegacyPrice, Stage
from cli.migration.proposal import event_names
from cli.migration.standing import Standing
from cli.migration.step import Step
from cli.output import print_line, print_table
from cli.pricing_words import pricing_words
from usage_reporting import advice
from usage_reporting.accounts import OWN_ACCOUNT
from usage_reporting.amounts import ZERO, to_wire
from usage_reporting.errors import RefusedError
from usage_reporting.pricing import money
from usage_reporting.windows import rfc3339

MANY = 40
"""Rows that are printed of a table; --json has all."""


def print_standing(standing: Standing) -> None:
    """Prices, who is on them, what is not migrated, and the money."""
    found = standing.found
    if not found.prices:
        print_line("Stripe shows no legacy metered price that anybody is on: there is nothing to migrate.")
        return
    columns = ["legacy price", "charges", "OpenMeter meter", "Stripe meter", "new price", "on it", "stage"]
    print_table(columns, [_price_row(price) for price in found.prices], right=["on it"])
    print_line()
    _print_items(standing)
    _print_left(standing)
    _print_totals(standing)
    print_line(f"next: {next_step(standing)}")


def _price_row(price: LegacyPrice) -> list[str]:
    try:
        charges = pricing_words(pricing_of(price.document, price.document["currency"]))
    except RefusedError:
        charges = ""
    meter = price.meter or (
        f"{price.formula} of {event_names(price.openmeter_meter)[0]}" if price.formula else ""
    )
    new = price.successor["id"] if price.successor else "to be made" if not price.refusal else ""
    return [price.id, charges, price.openmeter_meter, meter, new, str(len(price.items)), _stage_of(price)]


def _stage_of(price: LegacyPrice) -> str:
    if price.stage is Stage.MIRRORED:
        return f"mirrored since {rfc3339(price.mirrored_since)}"
    if price.stage is Stage.SWITCHED and not price.document["active"]:
        return "switched, archived"
    return price.stage.value


def _print_items(standing: Standing) -> None:
    pairs = sorted(standing.found.items, key=lambda pair: _weight(standing, pair[1]), reverse=True)
    rows = [_item_row(standing, price, item) for price, item in pairs]
    columns = ["customer", "subscription", "price", "renews", "running", "last invoice", "stage"]
    if rows:
        print_table(columns, rows[:MANY])
        _print_more(rows, "subscriptions")
        print_line()


def _weight(standing: Standing, item: LegacyItem) -> Decimal:
    """By how much the bills of an item change: the biggest come first."""
    forecast = standing.forecasts.get(item.id, Forecast())
    return max((abs(bill.change) for bill in (forecast.running, forecast.last) if bill), default=ZERO)


def _item_row(standing: Standing, price: LegacyPrice, item: LegacyItem) -> list[str]:
    forecast = standing.forecasts.get(item.id, Forecast())
    bills = ["", ""] if forecast.problem else [_bill(forecast.running), _bill(forecast.last)]
    stage = standing.stage(price, item)
    said = f"{stage.value} for {rfc3339(item.period[1])}" if stage is Stage.SCHEDULED else stage.value
    ends = rfc3339(item.period[1])
    return [item.customer, item.subscription["id"], price.id, ends, *bills, said]


def _bill(bill: Bill | None) -> str:
    """Such as `7.5 units: $0.80 -> $0.75`; the same on both sides is said once."""
    if bill is None:
        return ""
    old, new = money(bill.old, bill.currency), money(bill.new, bill.currency)
    amounts = old if bill.old == bill.new else f"{old} -> {new}"
    return f"{to_wire(bill.new_units)} units: {amounts}"


def _print_left(standing: Standing) -> None:
    reasons = [
        f"not migrated: {item.subscription['id']}, {item.id}: {why}"
        for price, item in standing.found.items
        if (why := standing.reason(price, item))
    ]
    reasons += [f"{name} could not be read: {why}" for name, why in standing.found.unreadable.items()]
    reasons += [
        f"{name}: its money is not known: {one.problem}"
        for name, one in standing.forecasts.items()
        if one.problem
    ]
    for line in reasons[:MANY]:
        print_line(line)
    _print_more(reasons, "like these")
    if reasons:
        print_line()


def _print_totals(standing: Standing) -> None:
    forecasts = standing.forecasts.values()
    rows = []
    for name, bills in (
        ("running periods so far", [one.running for one in forecasts]),
        ("last invoices", [one.last for one in forecasts]),
    ):
        for currency, total in totals(bills).items():
            amounts = [money(each, currency) for each in (total.old, total.new)]
            moved = [money(each, currency, signed=True) for each in (total.up, -total.down)]
            rows.append([name, *amounts, *moved])
    if rows:
        numbers = ["old prices", "new prices", "up", "down"]
        print_table(["in all", *numbers], rows, right=numbers)
        print_line()


def next_step(standing: Standing) -> str:
    """The command that brings the migration on, or what it waits for."""
    found = standing.found
    by_stage: dict[Stage, list[int]] = defaultdict(list)
    for price, item in found.items:
        by_stage[standing.stage(price, item)].append(item.period[1])
    if by_stage[Stage.FOUND] or by_stage[Stage.PREPARED]:
        return f"{_command('prepare')} --apply makes the meters and prices, and has them filled"
    if ready := by_stage[Stage.COMPARED]:
        return f"{_command('switch')} --apply schedules {len(ready)}; with --limit 3 a few of them first"
    if ends := by_stage[Stage.MIRRORED]:
        return f"wait for the first renewal, {rfc3339(min(ends))}; then {_command('compare')}"
    if ends := by_stage[Stage.SCHEDULED]:
        return f"wait for the renewals, {rfc3339(min(ends))} to {rfc3339(max(ends))}"
    if any(price.switched and price.document["active"] for price in found.prices):
        return f"{_command('finish')} judges the first invoices, and with --apply archives old prices"
    return "nothing: what is left is not migrated by this command"


def _command(step: str) -> str:
    account = advice.ACCOUNT.get()
    whose = "" if account == OWN_ACCOUNT else f" --account {account}"
    return f"usage-reporter migrate {step} --stack {advice.STACK.get() or 'NAME'}{whose}"


def print_compared(compared: Collection[Compared]) -> None:
    """The periods of each item; what cannot be compared yet, and from when on it can."""
    columns = ["customer", "item", "from", "to", "record", "meter", "old price", "new price", "verdict"]
    rows = [row for one in compared for row in _period_rows(one)]
    if rows:
        print_table(columns, rows[:MANY], right=["record", "meter", "old price", "new price"])
        _print_more(rows, "periods")
        print_line()
    for one in compared:
        if one.problem:
            print_line(f"not compared: {one.item.id} of {one.item.customer}: {one.problem}")
    waiting = [one for one in compared if not one.periods and not one.problem]
    if waiting:
        first = rfc3339(min(one.first_possible for one in waiting))
        print_line(
            f"items without an ended period yet: {len(waiting)}; the first can be compared after {first}"
        )
    counted = Counter(each.verdict.value for one in compared for each in one.periods)
    said = (
        ", ".join(f"{number} {verdict}" for verdict, number in sorted(counted.items())) or "nothing compared"
    )
    print_line(
        f"periods: {said}; {sum(one.is_exact for one in compared)} of {len(compared)} items may be switched"
    )


def _period_rows(one: Compared) -> list[list[str]]:
    return [
        [
            one.item.customer,
            one.item.id,
            rfc3339(each.period.start),
            rfc3339(each.period.end),
            to_wire(each.period.quantity),
            to_wire(each.mirrored),
            money(each.bill.old, each.bill.currency),
            money(each.bill.new, each.bill.currency),
            _verdict(each),
        ]
        for each in one.periods
    ]


def _verdict(one: ComparedPeriod) -> str:
    """With what is left between a whole number and its decimals."""
    if not one.difference:
        return one.verdict.value
    sign = "+" if one.difference > 0 else ""
    why = " by rounding" if one.verdict is Verdict.EXACT else ""
    return f"{one.verdict.value} ({sign}{to_wire(one.difference)}{why})"


def print_step(step: Step) -> None:
    """What was changed, or would be."""
    if step.acts:
        columns = ["changed" if step.applies else "would change", "of", "id"]
        print_table(columns, [[act.what, act.of, act.id] for act in step.acts])
        print_line()
    for name, why in list(step.left.items())[:MANY]:
        print_line(f"left as it is: {name}: {why}")
    _print_more(list(step.left), "left as they are")
    for name, why in step.problems.items():
        print_line(f"failed: {name}: {why}")
    if not step.acts:
        print_line("nothing to change")
    elif not step.applies:
        print_line("nothing was changed; --apply does it")
    elif step.problems:
        print_line("run it again: what is done is found, and the rest is done")


def print_first_invoices(invoices: Sequence[FirstInvoice]) -> None:
    """What the judge says of the first invoices after the switch."""
    if invoices:
        columns = ["customer", "subscription", "by meter since", "invoice", "verdict"]
        rows = [
            [one.customer, one.subscription, rfc3339(one.since), one.invoice, one.verdict] for one in invoices
        ]
        print_table(columns, rows[:MANY])
        _print_more(rows, "invoices")
        print_line()


def _print_more(rows: Sequence[object], what: str) -> None:
    if len(rows) > MANY:
        print_line(f"and {len(rows) - MANY} more {what}: see --json")
