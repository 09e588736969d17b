"""The examples in the documents are what the code reads, writes and computes."""

from __future__ import annotations

import json
import re
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.docs.documents import DOCUMENTS, HOW_IT_WORKS, README, blocks, section, tables, text
from usage_reporting.amounts import loads
from usage_reporting.billing import Finalized
from usage_reporting.daily_sums import DailyCursor
from usage_reporting.doubts import Doubts
from usage_reporting.ledger import Entry, Head
from usage_reporting.model import Line
from usage_reporting.pages import Cursor, daily_message, finalized_message, read_message
from usage_reporting.verdict import Judgement, Known, causes_of
from usage_reporting.windows import Slice, cut, read_until, rfc3339, stamp_of

DAY_OF_EXAMPLE = "2026-07-14"
END_OF_EXAMPLE = "10:37:42"


def at(time: str) -> int:
    return int(datetime.fromisoformat(f"{DAY_OF_EXAMPLE}T{time}Z").timestamp())


def time_of(instant: int) -> str:
    return rfc3339(instant)[11:-1]


def example(part: str) -> dict[str, Any]:
    [found] = [block for block in blocks(HOW_IT_WORKS, "json") if part in block]
    read: dict[str, Any] = loads(found)
    return read


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_json_can_be_read(document: Path) -> None:
    for block in blocks(document, "json"):
        json.loads(block)
    for heredoc in re.findall(r"<<'JSON'\n(.*?)\nJSON$", text(document), re.MULTILINE | re.DOTALL):
        json.loads(heredoc)


def test_a_day_entry() -> None:
    item = example('"sk": "2026-07-14"')
    entry = Entry.from_item(item)
    before_end, after_end = cut(at("10:00:00"), at("11:00:00"), [at(END_OF_EXAMPLE)])
    assert entry.mirrored(before_end) == Decimal("3.25")
    assert entry.mirrored(after_end) == 7
    written = entry.to_item(item["expires_at"])
    assert written.keys() == item.keys()
    assert written["sends"] == item["sends"]


def test_a_head() -> None:
    item = example('"sk": "head"')
    head = Head.from_item(item)
    assert at(END_OF_EXAMPLE) in head.bounds
    written = head.to_item(item["expires_at"])
    assert {**written, "version": item["version"], "expires_at": item["expires_at"]} == item


def test_the_doubts_of_a_stripe_meter() -> None:
    item = example('"sk": "doubts"')
    written = Doubts.from_item(item).to_item(0)
    assert {**written, "version": item["version"], "expires_at": item["expires_at"]} == item


def test_a_page_and_a_cursor() -> None:
    page = read_message(json.dumps(example('"customer_meters": [')))
    assert isinstance(page, list)
    assert [one.to_json() for one in page] == example('"customer_meters": [')["customer_meters"]
    assert isinstance(read_message(json.dumps(example('"scope"'))), Cursor)


def test_a_daily_reconciliation_that_goes_on() -> None:
    message = example('"reconcile"')
    found = read_message(json.dumps(message))
    assert isinstance(found, DailyCursor)
    assert daily_message(found) == message


def test_a_page_of_final_invoices() -> None:
    message = example('"finalized"')
    found = read_message(json.dumps(message))
    assert isinstance(found, Finalized)
    assert finalized_message(found) == message


def test_a_verdict_and_its_line() -> None:
    item = example('"sk": "verdict"')
    judgement = Judgement.from_item(item)
    written = judgement.to_item()
    assert {**written, "version": item["version"]} == item
    [line] = judgement.lines
    assert causes_of(Decimal("14.25"), line.quantity, Known(undelivered=Decimal(3))) == line.causes
    assert f"stripe_invoice: {judgement.pk.split('#')[-1]}, {line}" in text(HOW_IT_WORKS).splitlines()


def test_a_line() -> None:
    line = Line(
        customer="cus_AmgPsEu23bmu9W",
        price="price_jGkqSCtDbxAlg3FmLYbbjSjR",
        meter="m1",
        total=Decimal("7.50"),
        start=at("04:00:00"),
        end=at("10:29:00"),
    )
    assert str(line) in text(HOW_IT_WORKS).splitlines()


def reading(piece: Slice, now: int) -> tuple[str, str]:
    until = read_until(piece, now)
    if until is None:
        return "", ""
    stamp = stamp_of(piece, until)
    return time_of(until), "too early" if stamp is None else time_of(stamp)


def test_the_readings_around_a_bound() -> None:
    pieces = list(cut(at("10:00:00"), at("11:00:00"), [at(END_OF_EXAMPLE)]))
    table = tables(section(HOW_IT_WORKS, "Time"))[0]
    assert len(table) > 5
    for row in table:
        shown = [re.sub(r"not yet|:? would be.*", "", cell) for cell in row[1:]]
        now = at(row[0].split()[0])
        assert [*reading(pieces[0], now), *reading(pieces[1], now)] == shown, row[0]


def test_the_costs_add_up() -> None:
    [table] = tables(section(README, "Costs"))
    *rows, total = [[float(cell.strip("*")) for cell in row[1:4]] for row in table]
    sums = [sum(column) for column in zip(*rows, strict=True)]
    assert sums == pytest.approx(total, abs=0.15)
