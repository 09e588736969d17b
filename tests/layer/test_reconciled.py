"""What a difference is, and what it is put down to; nothing but arithmetic."""

from __future__ import annotations

from decimal import Decimal

import pytest

from tests.layer.builders import NOON
from usage_reporting.model import Send, SendState, Span, SpanState
from usage_reporting.reconciled import Columns, Difference
from usage_reporting.verdict import Cause, Known

HOUR = 3600
RECENT = Send("recent", NOON, NOON + 59, Decimal(4), NOON, SendState.SENT)


def columns(metered: str, held: str, **known: str) -> Columns:
    amounts = {name: Decimal(units) for name, units in known.items()}
    return Columns(NOON, NOON + HOUR, Decimal(metered), Decimal(held), Known(**amounts))


def difference(metered: str, held: str, **known: str) -> Difference:
    found = columns(metered, held, **known).difference()
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("metered", "held", "known"),
    [
        ("5", "5", {"sent": "5"}),
        ("5", "5.0000000001", {"sent": "5"}),
        ("5", "5", {"sent": "2", "unknown": "3"}),
        ("-2", "-2", {"sent": "-2"}),
        # A person has noted that a final invoice bills 3 too much.
        ("5", "8", {"sent": "8", "undelivered": "-3"}),
    ],
)
def test_no_difference(metered: str, held: str, known: dict[str, str]) -> None:
    assert columns(metered, held, **known).difference() is None


@pytest.mark.parametrize(
    ("metered", "held", "known", "causes"),
    [
        ("5", "3", {"sent": "3"}, {Cause.NOT_REPORTED: 2}),
        ("5", "3", {"sent": "3", "rejected": "2"}, {Cause.REJECTED: 2}),
        ("5", "3", {"sent": "3", "unknown": "2"}, {Cause.UNKNOWN: 2}),
        ("9", "3", {"sent": "1", "unknown": "2"}, {Cause.NOT_REPORTED: 6}),
        ("5", "3", {"sent": "3", "undelivered": "2"}, {Cause.LATE: 2}),
        ("5", "3", {"sent": "3", "braked": "2"}, {Cause.HELD: 2}),
        ("5", "3", {"sent": "5"}, {Cause.NOT_BILLED: 2}),
        ("3", "5", {"sent": "5"}, {Cause.DECREASE: 2}),
        ("3", "5", {"sent": "3"}, {Cause.OTHER_WRITER: 2}),
        ("3", "9", {"sent": "5"}, {Cause.OTHER_WRITER: 4, Cause.DECREASE: 2}),
        ("3", "5", {}, {Cause.OTHER_WRITER: 2}),
    ],
)
def test_causes(metered: str, held: str, known: dict[str, str], causes: dict[Cause, int]) -> None:
    assert difference(metered, held, **known).causes == causes


@pytest.mark.parametrize(
    ("held", "known", "beyond"),
    [
        ("5", {"sent": "5"}, "0"),
        ("5", {"sent": "4", "unknown": "3"}, "0"),
        ("5", {"sent": "3", "unknown": "1"}, "1"),
        ("5", {"sent": "7"}, "-2"),
        ("5", {}, "5"),
    ],
)
def test_what_stripe_holds_beyond_the_ledger(held: str, known: dict[str, str], beyond: str) -> None:
    assert difference("6", held, **known).beyond_ledger == Decimal(beyond)


def test_what_was_billed_at_once_is_unbillable_and_not_late() -> None:
    span = Span(NOON, NOON + HOUR, "sub", "si", "price", SpanState.BILLED)
    known = Known(sent=Decimal(3), undelivered=Decimal(2))

    found = Columns(NOON, NOON + HOUR, Decimal(5), Decimal(3), known, spans=(span,)).difference()

    assert found is not None
    assert found.causes == {Cause.UNBILLABLE: 2}


@pytest.mark.parametrize(
    ("metered", "held", "shown"),
    [
        ("9", "5", "9"),  # not shown yet, and right with it
        ("9", "9", "9"),  # shown already
        ("12", "5", "9"),  # not shown yet, and 3 are missing all the same
        ("12", "9", "9"),  # shown already, and 3 are missing
        ("12", "7", None),  # nobody can tell
    ],
)
def test_what_was_sent_lately_is_not_missed(metered: str, held: str, shown: str | None) -> None:
    known = Known(sent=Decimal(9))
    both = Columns(NOON, NOON + HOUR, Decimal(metered), Decimal(held), known, (RECENT,), to_come=RECENT.value)

    found = both.with_awaited()

    assert (None if found is None else str(found.held)) == shown
