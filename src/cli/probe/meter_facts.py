"""Facts about what meters take, and which of it counts."""

from __future__ import annotations

from decimal import Decimal

import stripe

from cli.probe.fact import Expected, Fact, NotSeenError, Result, Seen
from cli.probe.scene import DAY, HOUR, MINUTE, Scene, ids, quantity
from cli.probe.workshop import Workshop
from usage_reporting.amounts import to_wire
from usage_reporting.windows import rfc3339

_SUMMARY_WITHIN = HOUR
"""What `doubts` gives Stripe's summaries before it looks at them."""


def _last_by_stamp(workshop: Workshop) -> Seen:
    meter = workshop.meter("last")
    price = workshop.price(meter)
    with Scene(workshop, "last-by-stamp") as scene:
        subscription, end = scene.subscribe(price)
        scene.go_to(end - HOUR)
        scene.report(meter, "7", end - 2 * HOUR)
        scene.wait_until_counted(meter)
        scene.report(meter, "3", end - 4 * HOUR)
        scene.wait_until_counted(meter)
        scene.go_to(end + MINUTE)
        scene.finish(subscription)
        lines = scene.lines(subscription, price, end=end)
        billed = quantity(lines)
        return Expected(Decimal(7), Decimal(3), "last_by_receipt").judge(
            billed,
            f"Of 7, and of 3 received later with an older stamp, {to_wire(billed)} was billed.",
            *ids(lines),
        )


def _last_tie(workshop: Workshop) -> Seen:
    meter = workshop.meter("last")
    price = workshop.price(meter)
    with Scene(workshop, "last-tie") as scene:
        subscription, end = scene.subscribe(price)
        scene.go_to(end - HOUR)
        scene.report(meter, "7", end - 2 * HOUR)
        scene.wait_until_counted(meter)
        scene.report(meter, "3", end - 2 * HOUR)
        scene.wait_for_nothing()
        scene.go_to(end + MINUTE)
        scene.finish(subscription)
        lines = scene.lines(subscription, price, end=end)
        billed = quantity(lines)
        return Expected(Decimal(7), Decimal(3), "last_tie_takes_newest").judge(
            billed,
            f"Of 7, and of 3 received later with the same stamp, {to_wire(billed)} was billed.",
            *ids(lines),
        )


def _last_of_nothing(workshop: Workshop) -> Seen:
    meter = workshop.meter("last")
    price = workshop.price(meter)
    with Scene(workshop, "last-of-nothing") as scene:
        subscription, end = scene.subscribe(price)
        scene.go_to(end - HOUR)
        scene.report(meter, "7", end - 2 * HOUR)
        scene.wait_until_counted(meter)
        scene.go_to(end + MINUTE)
        following = scene.item(subscription)["current_period_end"]
        scene.go_to(following + MINUTE)
        scene.finish(subscription)
        lines = scene.lines(subscription, price, end=following)
        billed = quantity(lines)
        return Expected(Decimal(0), Decimal(7), "last_carries_over").judge(
            billed, f"After a period with 7, one without an event billed {to_wire(billed)}.", *ids(lines)
        )


def _identifier_in_both_ways(workshop: Workshop) -> Seen:
    meter = workshop.meter("sum")
    with Scene(workshop, "identifier-in-both-ways") as scene:
        identifier, at = f"probe.{scene.customer}", scene.now - HOUR
        scene.report(meter, "5", at, identifier)
        scene.wait_until_counted(meter)
        workshop.stream([{**scene.event(meter, "5", at, identifier), "timestamp": rfc3339(at)}])
        scene.wait_for_nothing()
        held = sum(scene.hours(meter).values(), Decimal(0))
        return Expected(Decimal(5), Decimal(10), "identifier_per_way").judge(
            held,
            f"Of 5 units sent by the v1 API, and streamed with the same identifier, {to_wire(held)} counted.",
            identifier,
        )


def _stamps_by_test_clock(workshop: Workshop) -> Seen:
    meter = workshop.meter("sum")
    with Scene(workshop, "stamps-by-test-clock") as scene:
        expected = Expected(assumed=True, otherwise=False, setting="stamps_checked_by_real_time")
        identifier = f"probe.{scene.customer}"
        try:
            scene.report(meter, "1", scene.now + DAY, identifier)
        except stripe.InvalidRequestError as error:
            said = error.user_message or "no reason"
            what = f"An event a day after the clock's time, but not after the real one, was refused: {said}"
            return expected.judge(True, what, scene.clock)
        try:
            scene.wait_until_counted(meter)
        except NotSeenError:
            what = "An event a day after the clock's time was taken, but never counted."
            return expected.judge(True, what, scene.clock, identifier)
        what = "An event a day after the clock's time, but not after the real one, was counted."
        return expected.judge(False, what, scene.clock, identifier)


def _summaries_within_an_hour(workshop: Workshop) -> Seen:
    meter = workshop.meter("sum")
    with Scene(workshop, "summaries-within-an-hour") as scene:
        lags_before = len(workshop.lags)
        scene.report(meter, "1", scene.now - HOUR)
        try:
            scene.wait_until_counted(meter)
        except NotSeenError:
            if workshop.pace.patience <= _SUMMARY_WITHIN:
                raise
            return Seen(Result.DIFFERS, "The hourly summary did not show an event within an hour.")
        took = workshop.lags[lags_before]
        longest = max(workshop.lags)
        return Expected(assumed=True).judge(
            longest < _SUMMARY_WITHIN,
            f"The hourly summary showed an event after {took} s; the longest that any took was {longest} s.",
            scene.customer,
        )


def _stored_500(_workshop: Workshop) -> Seen:
    raise NotSeenError("Nothing makes Stripe answer 500 on demand, so there is no stored answer to ask for")


METER_FACTS = (
    Fact(
        "last-by-stamp",
        "Formula last bills the value with the newest stamp, whichever was received last.",
        "On formula last, seven was reported, and afterwards three with an older stamp.",
        "docs/how-it-works.md#meters-that-take-the-last-value",
        "A repeated older total could replace a newer one: do not use meters with formula last.",
        _last_by_stamp,
    ),
    Fact(
        "last-tie",
        "Of two values with one stamp, formula last bills the one received first; neither is relied on.",
        "On formula last, seven was reported, and afterwards three with the same stamp.",
        "docs/how-it-works.md#meters-that-take-the-last-value",
        "Nothing: two values with one stamp are never sent; only the stand-in behaves otherwise then.",
        _last_tie,
        4,
    ),
    Fact(
        "last-of-nothing",
        "Formula last bills zero for a period without an event, whatever the one before held.",
        "On formula last, seven was reported in one period, and nothing in the next.",
        "docs/how-it-works.md#meters-that-take-the-last-value",
        "A period without usage is billed again by the one before: do not use meters with formula last.",
        _last_of_nothing,
    ),
    Fact(
        "identifier-in-both-ways",
        "An identifier that came by the v1 API is known to the stream of the v2 API.",
        "An event was sent by the v1 API, and streamed by the v2 API with the same identifier.",
        "docs/how-it-works.md#streamed-meter-events",
        "Nothing while a repeat goes the way that its send went; change nothing about that.",
        _identifier_in_both_ways,
        4,
    ),
    Fact(
        "stamps-by-test-clock",
        "Of a customer on a test clock, 35 days back and 5 minutes ahead are counted from the clock's time.",
        "An event was stamped a day after the clock's time, which was still before the real time.",
        "docs/probe.md#what-a-probe-is-worth",
        "Nothing for bills; tests with test clocks must keep their stamps near the real time.",
        _stamps_by_test_clock,
        1,
    ),
    Fact(
        "summaries-within-an-hour",
        "Stripe's hourly summaries show usage within an hour of its receipt.",
        "An event was sent, and the hourly summary asked for until it showed it.",
        "docs/how-it-works.md#refused-afterwards-and-doubted",
        "What is doubted is settled later, in a day at most; nothing is billed twice by it.",
        _summaries_within_an_hour,
        2,
    ),
    Fact(
        "stored-500",
        "An answered 500 is given again for a day to whoever asks with the same Idempotency-Key.",
        "Nothing was tried.",
        "docs/how-it-works.md#the-protocol",
        "Nothing: the next try has the same identifier and a new key, which is right either way.",
        _stored_500,
        0,
    ),
)
