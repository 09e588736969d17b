"""Items that name no OpenMeter meter: which of them lost its name."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from tests.layer.builders import NOON, MemoryTable, span
from usage_reporting.errors import LedgerUnavailableError
from usage_reporting.ledger import Head, Item, Key, Ledger
from usage_reporting.model import Span, SpanState
from usage_reporting.unmapped import Unmapped, names_taken_away
from usage_reporting.windows import DAY

PK = "self#live#cus_1#mtr_1"
KNOWN = Unmapped("si_1", "sub_1", PK)


def taken_away(table: MemoryTable, *unmapped: Unmapped) -> list[Unmapped]:
    return asyncio.run(names_taken_away(Ledger(table), unmapped, NOON))


def table_with(*spans: Span) -> MemoryTable:
    table = MemoryTable()
    head = Head(PK, "cus_1", "m1", "1", spans=spans)
    asyncio.run(Ledger(table).write_head(head, NOON))
    return table


def test_it_is_one_whose_period_the_ledger_knows() -> None:
    others = [Unmapped("si_2", "sub_1", PK), Unmapped("si_1", "sub_1", "self#live#cus_2#mtr_1")]

    assert taken_away(table_with(span(NOON - DAY, NOON + 1)), *others, KNOWN) == [KNOWN]


@pytest.mark.parametrize(
    "known",
    [
        span(NOON - DAY, NOON),
        span(NOON - DAY, NOON + 1, state=SpanState.BILLED),
        span(NOON - DAY, NOON + 1, state=SpanState.FREE),
    ],
)
def test_of_what_is_over_or_takes_nothing_more_nothing_is_lost(known: Span) -> None:
    assert taken_away(table_with(known), KNOWN) == []


def test_it_is_said_what_to_do() -> None:
    assert KNOWN.reason == (
        "subscription item si_1 of sub_1 names no OpenMeter meter any more, so that its further usage of "
        "this period will be on no invoice; put om_meter_id back on the item, its price or its product. "
        "If it is meant, this ends with the period"
    )


def test_without_a_ledger_the_next_tick_looks(caplog: pytest.LogCaptureFixture) -> None:
    class Throttled(MemoryTable):
        def get(self, keys: Sequence[Key]) -> list[Item]:
            raise LedgerUnavailableError("DynamoDB is throttled")

    assert taken_away(Throttled(), KNOWN) == []
    assert "looked for by the next tick: DynamoDB is throttled" in caplog.text
