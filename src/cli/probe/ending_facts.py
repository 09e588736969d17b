"""Facts about what ends a billed time early: cancellations, and swapped prices."""

from __future__ import annotations

from decimal import Decimal

from cli.probe.fact import Expected, Fact, NotSeenError, Seen
from cli.probe.scene import DAY, HOUR, MINUTE, Scene, ids, quantity
from cli.probe.workshop import CENTS, Workshop
from usage_reporting.amounts import to_wire


def _canceled_at_once(workshop: Workshop) -> Seen:
    billed, evidence = _cancel(workshop, "canceled-at-once", invoice_now=False)
    return Expected(Decimal(0), Decimal(4), "cancellation_bills_usage").judge(
        billed,
        f"Of 4 units before an immediate cancellation and 3 that came later, {to_wire(billed)} was billed.",
        *evidence,
    )


def _canceled_with_invoice(workshop: Workshop) -> Seen:
    billed, evidence = _cancel(workshop, "canceled-with-invoice-now", invoice_now=True)
    return Expected(Decimal(4), Decimal(7), "invoice_now_waits").judge(
        billed,
        f"Of 4 units before a cancellation with invoice_now and 3 that came after it, {to_wire(billed)} was "
        "billed.",
        *evidence,
    )


def _cancel(workshop: Workshop, fact: str, *, invoice_now: bool) -> tuple[Decimal, tuple[str, ...]]:
    """What is billed of 4 units that Stripe has, and 3 that it gets after the cancellation."""
    meter = workshop.meter("sum")
    price = workshop.price(meter)
    with Scene(workshop, fact) as scene:
        subscription, end = scene.subscribe(price)
        scene.go_to(end - 6 * HOUR)
        scene.report(meter, "4", scene.now - 2 * HOUR)
        scene.wait_until_counted(meter)
        workshop.delete(f"subscriptions/{subscription}", invoice_now=invoice_now)
        scene.report(meter, "3", scene.now - HOUR)
        scene.wait_until_counted(meter)
        scene.finish(subscription)
        scene.go_to(end + 2 * HOUR)
        scene.finish(subscription)
        lines = scene.lines(subscription, price)
        return quantity(lines), (subscription, *ids(lines))


def _canceled_at_period_end(workshop: Workshop) -> Seen:
    meter = workshop.meter("sum")
    price = workshop.price(meter)
    with Scene(workshop, "canceled-at-period-end") as scene:
        subscription, end = scene.subscribe(price)
        workshop.post(f"subscriptions/{subscription}", cancel_at_period_end=True)
        scene.go_to(end - HOUR)
        scene.report(meter, "4", scene.now - 2 * HOUR)
        scene.wait_until_counted(meter)
        scene.go_to(end + MINUTE)
        scene.report(meter, "3", end - HOUR)
        scene.report(meter, "20", end + 1)
        scene.wait_until_counted(meter)
        scene.finish(subscription)
        lines = scene.lines(subscription, price)
        billed = quantity(lines)
        return Expected(Decimal(7), Decimal(4), "last_draft_is_closed").judge(
            billed,
            f"Of 4 units, 3 that came after the end and 20 stamped after it, {to_wire(billed)} was billed.",
            *ids(lines),
        )


def _swapped_line_begins_at_swap(workshop: Workshop) -> Seen:
    meter = workshop.meter("sum")
    old, new = workshop.price(meter), workshop.price(meter, 2 * CENTS)
    with Scene(workshop, "swapped-line-begins-at-swap") as scene:
        subscription, end = scene.subscribe(old)
        item = scene.item(subscription)
        scene.go_to(end - 6 * HOUR)
        swapped_at = scene.now
        workshop.post(f"subscription_items/{item['id']}", price=new["id"])
        scene.go_to(end - HOUR)
        scene.report(meter, "2", scene.now - HOUR)
        scene.wait_until_counted(meter)
        scene.go_to(end + MINUTE)
        scene.finish(subscription)
        lines = scene.lines(subscription, new, end=end)
        after = {swapped_at: "swap", item["current_period_start"]: "period's start"}
        begins = ", ".join(after.get(line["period"]["start"], "neither") for line in lines) or "no line"
        return Expected("swap", "period's start", "swap_line_spans_period").judge(
            begins, f"The line of a price that was put on in mid-period begins at the {begins}.", *ids(lines)
        )


def _swapped_usage_is_counted_at_once(workshop: Workshop) -> Seen:
    meter = workshop.meter("sum")
    old, new = workshop.price(meter), workshop.price(meter, 2 * CENTS)
    with Scene(workshop, "swapped-usage-is-counted-at-once") as scene:
        subscription, end = scene.subscribe(old)
        scene.go_to(end - 6 * HOUR)
        scene.report(meter, "4", scene.now - 3 * HOUR)
        scene.wait_until_counted(meter)
        workshop.post(f"subscription_items/{scene.item(subscription)['id']}", price=new["id"])
        scene.report(meter, "100", scene.now - 2 * HOUR)
        scene.wait_until_counted(meter)
        scene.go_to(end + MINUTE)
        scene.finish(subscription)
        lines = scene.lines(subscription, old)
        billed = quantity(lines)
        return Expected(Decimal(4), Decimal(104), "swapped_usage_stays_open").judge(
            billed,
            f"Of 4 units before a swap and 100 of that time that came after it, the old price billed "
            f"{to_wire(billed)}.",
            *ids(lines),
        )


def _schedule_keeps_items(workshop: Workshop) -> Seen:
    meter = workshop.meter("sum")
    old, new = workshop.price(meter), workshop.price(meter, 2 * CENTS)
    with Scene(workshop, "schedule-keeps-items") as scene:
        subscription, end = scene.subscribe(old)
        before = scene.item(subscription)["id"]
        schedule = workshop.post("subscription_schedules", from_subscription=subscription)
        running = schedule["phases"][0]
        workshop.post(
            f"subscription_schedules/{schedule['id']}",
            phases=[
                {
                    "start_date": running["start_date"],
                    "end_date": running["end_date"],
                    "items": [{"price": old["id"]}],
                },
                {"end_date": end + DAY, "items": [{"price": new["id"]}]},
            ],
        )
        scene.go_to(end + MINUTE)
        after = scene.item(subscription)
        if after["price"]["id"] != new["id"]:
            raise NotSeenError(f"The schedule {schedule['id']} did not put on its second price")
        stays = after["id"] == before
        return Expected(assumed=True, otherwise=False, setting="schedule_replaces_items").judge(
            stays,
            f"The item whose price a schedule changed at a renewal {'stayed' if stays else 'was replaced'}.",
            before,
            after["id"],
        )


ENDING_FACTS = (
    Fact(
        "canceled-at-once",
        "An immediate cancellation without invoice_now bills nothing of its period, reported or not.",
        "Four units were reported, the subscription canceled at once, and three more reported.",
        "docs/endings.md#cancellation-at-once",
        "What is counted as unbillable there is on an invoice: look before you add an item by hand.",
        _canceled_at_once,
    ),
    Fact(
        "canceled-with-invoice-now",
        "An immediate cancellation with invoice_now bills at once what Stripe had received by then.",
        "Four units were reported, the subscription canceled with invoice_now, and three more reported.",
        "docs/endings.md#cancellation-at-once",
        "Better than assumed where that invoice waits as a draft: it is completed.",
        _canceled_with_invoice,
    ),
    Fact(
        "canceled-at-period-end",
        "A cancellation at a period's end leaves a draft that takes usage of the period, and none after it.",
        "Four units were reported, three more after the end that was set, and twenty stamped later.",
        "docs/endings.md#cancellation-at-the-periods-end-or-at-a-date",
        "Usage that is not reported by the end is lost: report each customer right before the end.",
        _canceled_at_period_end,
    ),
    Fact(
        "swapped-line-begins-at-swap",
        "The line of a price that was put on in mid-period begins at the swap.",
        "In flexible billing mode, a price was swapped in mid-period.",
        "docs/endings.md#a-price-is-swapped",
        "The verdict compares such a line with the whole period: judge these invoices by hand.",
        _swapped_line_begins_at_swap,
    ),
    Fact(
        "swapped-usage-is-counted-at-once",
        "In flexible billing mode a swapped price bills what Stripe had received of it at the swap.",
        "Four units were reported, the price swapped, and then a hundred units of before the swap reported.",
        "docs/endings.md#a-price-is-swapped",
        "Better than assumed: what is counted as unbillable there may be billed; compare the invoice.",
        _swapped_usage_is_counted_at_once,
    ),
    Fact(
        "schedule-keeps-items",
        "A schedule that changes a price at a renewal leaves the subscription item, and changes its price.",
        "A schedule put another price on a subscription at its renewal.",
        "docs/endings.md#a-schedule-swaps-prices-at-a-renewal",
        "Nothing: the ended period is billed at the old price either way.",
        _schedule_keeps_items,
    ),
)
