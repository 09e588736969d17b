"""Facts about periods, their drafts and their sums."""

from __future__ import annotations

from decimal import Decimal

import stripe

from cli.errors import explain
from cli.probe.fact import Expected, Fact, NotSeenError, Seen
from cli.probe.scene import HOUR, MINUTE, Scene, ids, quantity
from cli.probe.workshop import DEAD_END, Json, Workshop
from usage_reporting.amounts import to_wire
from usage_reporting.stripe_api import LEGACY_API_VERSION


def _period_end(workshop: Workshop) -> Seen:
    meter = workshop.meter("sum")
    price = workshop.price(meter)
    with Scene(workshop, "period-end") as scene:
        subscription, end = scene.subscribe(price)
        scene.go_to(end - 2 * MINUTE)
        scene.report(meter, "1", end - 1)
        scene.report(meter, "2", end)
        scene.wait_until_counted(meter)
        scene.go_to(end + MINUTE)
        scene.finish(subscription)
        lines = scene.lines(subscription, price, end=end)
        billed = quantity(lines)
        return Expected(Decimal(1), Decimal(3), "end_is_in_ended_period").judge(
            billed,
            f"Of 1 unit at the last second and 2 at the end, the ended period billed {to_wire(billed)}.",
            *ids(lines),
        )


def _draft_takes_usage(workshop: Workshop) -> Seen:
    meter = workshop.meter("sum")
    price = workshop.price(meter)
    with Scene(workshop, "draft-takes-usage") as scene:
        subscription, end = scene.subscribe(price)
        scene.go_to(end + MINUTE)
        draft = scene.draft(subscription)
        scene.report(meter, "5", end - HOUR)
        scene.wait_until_counted(meter)
        scene.finish(subscription)
        billed = quantity(scene.lines(subscription, price, end=end))
        return Expected(Decimal(5), Decimal(0), "drafts_are_closed").judge(
            billed,
            f"Of 5 units of the ended period that came after its draft, the final invoice bills "
            f"{to_wire(billed)}.",
            draft["id"],
        )


def _custom_time(workshop: Workshop) -> Seen:
    """Two drafts, none of whose webhooks is answered: one with a time of its own."""
    price = workshop.price(workshop.meter("sum"))
    hook = workshop.post("webhook_endpoints", url=DEAD_END, enabled_events=["invoice.created"])
    try:
        with Scene(workshop, "custom-time-loses-hold") as scene:
            first, end = scene.subscribe(price)
            second, _ = scene.subscribe(price)
            scene.go_to(end + MINUTE)
            custom, control = scene.draft(first), scene.draft(second)
            at = (control["automatically_finalizes_at"] or end) + HOUR
            workshop.post(f"invoices/{custom['id']}", auto_advance=True, automatically_finalizes_at=at)
            scene.go_to(at + 2 * HOUR)
            shown = [workshop.get(f"invoices/{row['id']}")["status"] for row in (custom, control)]
    finally:
        workshop.put_away_one(hook["id"], lambda: workshop.delete(f"webhook_endpoints/{hook['id']}"))
    if shown[1] != "draft":
        raise NotSeenError(f"Stripe did not wait for the webhook of {control['id']} either: it is {shown[1]}")
    is_held = shown[0] == "draft"
    return Expected(assumed=False, otherwise=True, setting="custom_time_keeps_hold").judge(
        is_held,
        f"While a draft whose webhook was not answered waited, the one with a time of its own "
        f"{'waited, too' if is_held else 'became final'}.",
        custom["id"],
        control["id"],
    )


def _negative_event(workshop: Workshop) -> Seen:
    return _negative(workshop, "negative-event", ["5", "-2"], "3", "5", "negative_events_are_dropped")


def _negative_sum(workshop: Workshop) -> Seen:
    return _negative(workshop, "negative-sum", ["-5"], "0", "-5", "negative_totals_are_billed")


def _negative(
    workshop: Workshop, fact: str, values: list[str], assumed: str, otherwise: str, setting: str
) -> Seen:
    meter = workshop.meter("sum")
    price = workshop.price(meter)
    with Scene(workshop, fact) as scene:
        subscription, end = scene.subscribe(price)
        scene.go_to(end - HOUR)
        for number, value in enumerate(values):
            scene.report(meter, value, scene.now - (4 - number) * HOUR)
        scene.wait_until_counted(meter)
        scene.go_to(end + MINUTE)
        scene.finish(subscription)
        lines = scene.lines(subscription, price, end=end)
        billed = quantity(lines)
        return Expected(Decimal(assumed), Decimal(otherwise), setting).judge(
            billed, f"Of {' and '.join(values)}, {to_wire(billed)} was billed.", *ids(lines)
        )


def _legacy_set(workshop: Workshop) -> Seen:
    try:
        price = workshop.legacy_price()
    except stripe.InvalidRequestError as error:
        raise NotSeenError(f"This account makes no price without a meter: {explain(error)[0]}") from error
    with Scene(workshop, "legacy-set") as scene:
        subscription, end = scene.subscribe(price, version=LEGACY_API_VERSION)
        item = scene.item(subscription)["id"]
        scene.go_to(end - 2 * HOUR)
        for value, at in ((5, scene.now), (3, scene.now), (4, scene.now - HOUR)):
            workshop.post(
                f"subscription_items/{item}/usage_records",
                LEGACY_API_VERSION,
                quantity=value,
                timestamp=at,
                action="set",
            )
        scene.go_to(end + MINUTE)
        scene.finish(subscription)
        lines = scene.lines(subscription, price, end=end)
        billed = quantity(lines)
        return Expected(Decimal(7), Decimal(4), "set_replaces_all").judge(
            billed,
            f"Of 5 and then 3 set at one instant, and 4 at an earlier one, {to_wire(billed)} was billed.",
            *ids(lines),
        )


def _window_at_period_end(workshop: Workshop) -> Seen:
    meter = workshop.meter("sum", "hour")
    price = workshop.price(meter)
    with Scene(workshop, "window-at-period-end") as scene:
        subscription, end = scene.subscribe(price)
        scene.go_to(end - 2 * MINUTE)
        scene.report(meter, "5", end - 10 * MINUTE)
        scene.wait_until_counted(meter)
        scene.report(meter, "2", end + MINUTE)
        scene.wait_for_nothing()
        scene.go_to(end + MINUTE)
        scene.finish(subscription)
        lines = scene.lines(subscription, price, end=end)
        billed = quantity(lines)
        return Expected(Decimal(0), Decimal(5), "window_ends_with_period").judge(
            billed,
            f"Of 5 units before the period's end, and 2 after it in the same hour, the ended period billed "
            f"{to_wire(billed)}.",
            *ids(lines),
        )


def _tiers(workshop: Workshop) -> Seen:
    meter = workshop.meter("sum")
    lines = _billed(workshop, "tiers-fill-exactly", meter, workshop.tiered_price(meter), "7.5")
    shown = sorted(Decimal(line["quantity_decimal"]) for line in lines)
    said = " and ".join(to_wire(one) for one in shown) or "nothing"
    return Expected([Decimal("2.5"), Decimal(5)]).judge(
        shown, f"7.5 units became lines of {said}.", *ids(lines)
    )


def _packages(workshop: Workshop) -> Seen:
    meter = workshop.meter("sum")
    lines = _billed(workshop, "packages-shown-in-units", meter, workshop.package_price(meter), "12")
    shown = quantity(lines)
    return Expected(Decimal(12), Decimal(3), "lines_show_packages").judge(
        shown, f"The line of 12 units in packages of 5 shows {to_wire(shown)}.", *ids(lines)
    )


def _billed(workshop: Workshop, fact: str, meter: Json, price: Json, value: str) -> list[Json]:
    """The lines of a period in which this was used."""
    with Scene(workshop, fact) as scene:
        subscription, end = scene.subscribe(price)
        scene.go_to(end - HOUR)
        scene.report(meter, value, scene.now - HOUR)
        scene.wait_until_counted(meter)
        scene.go_to(end + MINUTE)
        scene.finish(subscription)
        return scene.lines(subscription, price, end=end)


PERIOD_FACTS = (
    Fact(
        "period-end",
        "An event stamped at a period's last second is billed in it, one stamped at its end in the next.",
        "One unit was stamped at the last second of a daily period, two more a second later.",
        "docs/how-it-works.md#time",
        "Bills are one period off for usage stamped at an end; the stamps of windows.py have to move.",
        _period_end,
    ),
    Fact(
        "draft-takes-usage",
        "Usage of the ended period that comes after its draft was made is on the final invoice.",
        "After the draft of a renewal had been made, five units were stamped inside its period.",
        "docs/how-it-works.md#what-becomes-of-usage-in-an-ended-span",
        "What is not reported before a period's end is lost: do not go live before that is understood.",
        _draft_takes_usage,
    ),
    Fact(
        "custom-time-loses-hold",
        "A draft with a finalization time of its own becomes final then, though a webhook is unanswered.",
        "Of two drafts whose webhook had no answer, one was given a finalization time of its own.",
        "docs/endings.md#while-usage-is-missing-the-draft-waits",
        "Better than assumed: such a draft waits, too; HoldDrafts is then not needed for it.",
        _custom_time,
    ),
    Fact(
        "negative-event",
        "A negative event lowers the sum of its period.",
        "Five units were reported, and then minus two.",
        "README.md#how-usage-is-mirrored-and-why-it-is-safe",
        "A decrease that was accepted is never billed less: make credit notes by hand instead.",
        _negative_event,
    ),
    Fact(
        "negative-sum",
        "A period whose sum is below zero is billed as zero.",
        "Minus five units were reported in a period without other usage.",
        "docs/how-it-works.md#the-verdict",
        "Stripe gives a credit that nobody meant: accept no decrease beyond what a period holds.",
        _negative_sum,
    ),
    Fact(
        "legacy-set",
        "A usage record with action=set replaces what is held at that very instant, and nothing else.",
        "Usage records set five and then three at one instant, and four at an earlier one.",
        "docs/prices.md",
        "Old records need not be taken for usage beside the total; the total itself is billed as before.",
        _legacy_set,
    ),
    Fact(
        "window-at-period-end",
        "With event_time_window, an event of the next period replaces the ended one's in the same hour.",
        "On an hourly window, five units were stamped before a period's end, two after it in the same hour.",
        "README.md#what-it-does-not-do",
        "Better than assumed: such meters lose nothing at a period's end; they are refused all the same.",
        _window_at_period_end,
    ),
    Fact(
        "tiers-fill-exactly",
        "A graduated price has a line for each tier, and a quantity with decimals fills a tier to its bound.",
        "Seven and a half units were reported on a graduated price whose first tier has five.",
        "docs/plan.md#how-a-period-is-priced",
        "What `plan` says of such prices in money is wrong, and so may be their verdicts: look at the lines.",
        _tiers,
    ),
    Fact(
        "packages-shown-in-units",
        "The line of a price that divides quantities shows units, not packages.",
        "Twelve units were reported on a price for each five units that were begun.",
        "README.md#what-it-does-not-do",
        "Nothing: the verdict tells by the line's amount which of the two it shows.",
        _packages,
    ),
)
