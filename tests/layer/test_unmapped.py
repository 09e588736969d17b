"""Items that name no OpenMeter meter: which of them lost its name."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import closing

import pytest

from tests.layer.builders import NOON, MemoryTable, span
from usage_reporting.errors import LedgerUnavailableError
from usage_reporting.ledger import Head, Item, Key, Ledger
from usage_reporting.model import Span, SpanState
from usage_reporting.unmapped import LostNames, Unmapped
from usage_reporting.windows import DAY

PK = "self#live#cus_1#mtr_1"
KNOWN = Unmapped("si_1", "sub_1", PK)


def taken_away(table: MemoryTable, *unmapped: Unmapped) -> list[Unmapped]:
    return in_portions(table, unmapped)


def in_portions(table: MemoryTable, *portions: Sequence[Unmapped]) -> list[Unmapped]:
    async def look_up(names: LostNames) -> list[Unmapped]:
        for portion in portions:
            await names.look_up(portion, NOON)
        return list(names.found())

    with closing(LostNames(Ledger(table))) as names:
        return asyncio.run(look_up(names))


def table_with(*spans: Span) -> MemoryTable:
    table = MemoryTable()
    head = Head(PK, "cus_1", "m1", "1", spans=spans)
    asyncio.run(Ledger(table).write_head(head, NOON))
    return table


def test_it_is_one_whose_period_the_ledger_knows() -> None:
    other = Unmapped("si_1", "sub_1", "self#live#cus_2#mtr_1")

    assert taken_away(table_with(span(NOON - DAY, NOON + 1)), other, KNOWN) == [KNOWN]


@pytest.mark.parametrize(
    "known",
    [
        span(NOON - 9 * DAY, NOON - 3 * DAY + 1),
        span(NOON - DAY, NOON, item="si_2"),
        span(NOON - DAY, NOON - 1, item="si_2", state=SpanState.BILLED),
        span(NOON - DAY, NOON + 1, item="si_2", state=SpanState.BILLED),
        span(NOON - DAY, NOON + 1, item="si_3"),
        span(NOON - DAY, NOON + 1, item="si_2", state=SpanState.BESIDE),
    ],
    ids=["ended", "another item ended", "was removed", "was swapped", "is nameless, too", "is not billed"],
)
def test_of_another_item_that_is_gone_it_may_be_the_follower(known: Span) -> None:
    beside = Unmapped("si_3", "sub_1", PK)

    assert taken_away(table_with(known), KNOWN, beside) == [KNOWN, beside]


@pytest.mark.parametrize(
    "known",
    [
        (),
        (span(NOON - 9 * DAY, NOON - 3 * DAY),),
        (span(NOON - DAY, NOON), span(NOON, NOON + 1, item="si_2")),
    ],
    ids=["nothing", "long over", "another item has a name"],
)
def test_where_nothing_is_lost_nothing_is_said(known: tuple[Span, ...]) -> None:
    assert taken_away(table_with(*known), KNOWN) == []


@pytest.mark.parametrize("last", ["si_1", "si_3"])
def test_items_of_one_customer_meter_may_be_looked_up_far_from_each_other(last: str) -> None:
    """Two subscriptions of a customer are listed when they were created."""
    running = [span(NOON - DAY, NOON + 1, item=item) for item in ("si_1", "si_2", "si_3")]
    items = [Unmapped(item, "sub_1", PK) for item in ("si_2", "si_3", "si_1")]
    items.sort(key=lambda one: one.item == last)
    others = [Unmapped(f"si_{number}", "sub_9", "self#live#cus_9#mtr_1") for number in range(10, 14)]

    found = in_portions(table_with(*running), items[:1], others, items[1:2], items[1:])
    assert found == sorted(items, key=lambda one: one.item)
    assert in_portions(table_with(*running), items[:1], others, items[1:2]) == []


def test_it_is_said_what_to_do() -> None:
    assert KNOWN.reason == (
        "subscription item si_1 of sub_1 names no OpenMeter meter, though usage of this customer was sent to "
        "its Stripe meter; what is used from now on will be on no invoice. Put om_meter_id on the item, its "
        "price or its product. If it is meant so, this ends three days after the period"
    )


def test_without_a_ledger_the_next_tick_looks(caplog: pytest.LogCaptureFixture) -> None:
    class Throttled(MemoryTable):
        def get(self, keys: Sequence[Key]) -> list[Item]:
            raise LedgerUnavailableError("DynamoDB is throttled")

    assert taken_away(Throttled(), KNOWN) == []
    assert "looked for by the next tick: DynamoDB is throttled" in caplog.text
