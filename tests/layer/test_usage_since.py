"""`om_usage_since`: which of an item's periods it is about, and what it cannot be."""

from __future__ import annotations

from typing import Any

import pytest

from tests.layer.builders import MONTH_END, MONTH_START
from tests.layer.test_customer_meters import facts, item, price, subscription
from usage_reporting.customer_meters import customer_meter, span_of
from usage_reporting.model import SpanState
from usage_reporting.usage_since import refusal, usage_since
from usage_reporting.windows import DAY, HOUR, MINUTE

Json = dict[str, Any]
LONG_AGO = MONTH_START - 300 * DAY


def since(instant: int | str, *, created: int = LONG_AGO, **recurring: Any) -> Json:
    metered = {"usage_type": "metered", "meter": "mtr_1", "interval": "month", **recurring}
    return item(created=created, metadata={"om_usage_since": str(instant)}, price=price(recurring=metered))


@pytest.mark.parametrize(
    ("instant", "found"),
    [
        (MONTH_START - 30 * MINUTE, MONTH_START - 30 * MINUTE),
        (MONTH_START, None),
        (MONTH_START + 1, None),
        (MONTH_START - 28 * DAY + 1, MONTH_START - 28 * DAY + 1),
        (MONTH_START - 28 * DAY, None),
        ("", None),
        ("soon", None),
    ],
)
def test_it_is_about_the_first_period_after_it(instant: int | str, found: int | None) -> None:
    """A schedule may keep the item, so that only the time between tells the first period from later ones."""
    assert usage_since(since(instant), MONTH_START) == found


def test_an_item_that_was_made_with_its_period_is_in_its_first() -> None:
    early = MONTH_START - 34 * DAY

    assert usage_since(since(early, created=MONTH_START + 16), MONTH_START) == early
    assert usage_since(since(early, created=MONTH_START + 61), MONTH_START) is None


@pytest.mark.parametrize(
    ("interval", "count", "reach"), [("day", 1, DAY), ("week", 2, 14 * DAY), ("year", 1, 35 * DAY + 1)]
)
def test_how_far_back_it_reaches_is_less_than_a_period(interval: str, count: int, reach: int) -> None:
    for back, is_found in ((reach - 1, True), (reach, False)):
        one = since(MONTH_START - back, interval=interval, interval_count=count)
        assert (usage_since(one, MONTH_START) is not None) is is_found


def test_it_says_nothing_of_a_legacy_price() -> None:
    one = since(MONTH_START - HOUR, meter=None)

    assert usage_since(one, MONTH_START) is None
    assert refusal(one, MONTH_START) is None


@pytest.mark.parametrize(
    ("one", "why"),
    [
        (since("soon"), "no time in UTC seconds"),
        (since(MONTH_START + 1), "after its period began"),
        (since(MONTH_START - 36 * DAY, created=MONTH_START), "more than 35 days before"),
        (since(MONTH_START - 36 * DAY), ""),
        (since(MONTH_START), ""),
        (since(""), ""),
    ],
)
def test_what_cannot_be_is_refused_in_words(one: Json, why: str) -> None:
    said = refusal(one, MONTH_START)

    assert (said is not None) == bool(why)
    assert why in (said or "")


def test_a_running_period_has_it_and_an_ended_one_is_not_refused_for_it() -> None:
    one = since(MONTH_START - HOUR)
    running = span_of(subscription(), one)
    assert running is not None
    assert (running.usage_since, running.begins) == (MONTH_START - HOUR, MONTH_START - HOUR)

    later = since(MONTH_START + 1)
    refused = {}
    for state in (SpanState.CURRENT, SpanState.ENDED):
        found = span_of(subscription(), later, state)
        assert found is not None
        refused[state] = customer_meter(
            subscription(), later, facts(), openmeter_meter="m1", spans=[found]
        ).refusal
    assert "after its period began" in str(refused[SpanState.CURRENT])
    assert refused[SpanState.ENDED] is None
    assert running.end == MONTH_END
