"""What the doctor's checks compute, without anything to ask."""

from __future__ import annotations

from decimal import Decimal

import pytest

from cli.checks.destinations import next_page
from cli.checks.finding import count, duration, some_of
from cli.checks.writers import foreign_hours
from usage_reporting.model import Send, SendState
from usage_reporting.windows import HOUR

NOON = 1_784_116_800
TEN, ELEVEN = NOON - 2 * HOUR, NOON - HOUR


def send(stamp: int, value: str, state: SendState = SendState.SENT, at: int = 0) -> Send:
    return Send(f"i.{stamp}.{value}.{state}", stamp // HOUR * HOUR, stamp, Decimal(value), at or stamp, state)


def found(held: str, *sends: Send, is_last: bool = False) -> dict[int, tuple[Decimal, Decimal]]:
    return foreign_hours({TEN: Decimal(held)}, sends, NOON, is_last=is_last)


def test_what_was_sent_is_not_foreign() -> None:
    sends = send(TEN + 60, "1.5"), send(TEN + 3599, "2"), send(ELEVEN, "9")
    assert found("3.5", *sends) == {}
    assert found("4", *sends) == {TEN: (Decimal(4), Decimal("3.5"))}
    assert found("3", *sends) == {}  # less is no other writer's, but Stripe's own to explain


@pytest.mark.parametrize("state", [SendState.REJECTED, SendState.DISCARDED])
def test_what_stripe_refused_does_not_count(state: SendState) -> None:
    assert found("2", send(TEN, "1"), send(TEN + 1, "1", state)) == {TEN: (Decimal(2), Decimal(1))}


@pytest.mark.parametrize("state", [SendState.INTENT, SendState.DOUBTED])
def test_an_hour_that_is_not_settled_says_nothing(state: SendState) -> None:
    assert found("7", send(TEN, "1"), send(TEN + 1, "1", state)) == {}


def test_an_hour_of_which_a_send_is_young_says_nothing() -> None:
    assert found("7", send(TEN, "1", at=NOON - HOUR + 1)) == {}
    assert found("7", send(TEN, "1", at=NOON - HOUR)) == {TEN: (Decimal(7), Decimal(1))}


def test_of_totals_the_newest_is_the_hours() -> None:
    totals = send(TEN + 60, "5"), send(TEN + 120, "8")
    assert found("8", *totals, is_last=True) == {}
    assert found("6", *totals, is_last=True) == {TEN: (Decimal(6), Decimal(8))}
    assert found("6", is_last=True) == {TEN: (Decimal(6), Decimal(0))}


def test_lists_of_the_second_api_go_on_by_their_url() -> None:
    included = {"include": ["webhook_endpoint.url"]}
    url = "/v2/core/event_destinations?page=20&limit=20&include[0]=webhook_endpoint.url"
    assert next_page(url) == {"page": "20", "limit": "20", **included}
    assert next_page(None) is None


def test_words() -> None:
    assert (count(1, "page"), count(1_000, "page")) == ("1 page", "1,000 pages")
    assert some_of(["a", "b"]) == "a, b"
    assert some_of([str(number) for number in range(7)]) == "0, 1, 2, 3, 4 and 2 more"
    assert [duration(seconds) for seconds in (59, 119, 120, 3600, 5400, 7200, 259_200)] == [
        "59 seconds",
        "119 seconds",
        "2 minutes",
        "60 minutes",
        "90 minutes",
        "2 hours",
        "3 days",
    ]
