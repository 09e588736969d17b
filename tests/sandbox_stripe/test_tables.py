"""Tables of many objects, and lists of them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Any

import pytest

from sandbox.clock import ManualClock
from sandbox.stripe import StripeSandbox
from sandbox.stripe.table import Table
from tests.sandbox_stripe.direct import DAY, Direct, World


@dataclass
class Row:
    id: str
    created: int
    owner: str = "a"


def table_of(*created: int) -> Table[Row]:
    table: Table[Row] = Table("row", by=("owner",))
    for number, instant in enumerate(created):
        table.add(Row(f"r{number}", instant, "ab"[number % 2]))
    return table


def ids(rows: Any) -> list[str]:
    return [row.id for row in rows]


def test_rows_come_in_the_order_of_creation_from_any_place() -> None:
    table = table_of(*range(6))
    assert ids(table.newest()) == ["r5", "r4", "r3", "r2", "r1", "r0"]
    assert ids(table.newest(table.order("r2", "id"))) == ["r1", "r0"]
    assert ids(table.oldest(table.order("r2", "id"))) == ["r3", "r4", "r5"]
    table.remove("r2")
    table.remove("r4")
    assert ids(table.newest(table.order("r4", "id"))) == ["r3", "r1", "r0"]
    assert ids(table.oldest(table.order("r2", "id"))) == ["r3", "r5"]
    table.put_back(Row("r4", 4))
    assert ids(table.newest()) == ["r5", "r4", "r3", "r1", "r0"]


def test_rows_are_found_by_what_never_changes() -> None:
    table = table_of(*range(6))
    assert ids(table.newest(owner="b")) == ["r5", "r3", "r1"]
    assert ids(table.newest(table.order("r4", "id"), owner="b")) == ["r3", "r1"]
    assert ids(table.oldest(table.order("r1", "id"), owner="b")) == ["r3", "r5"]
    assert ids(table.newest(owner="c")) == []
    assert len(ids(table.newest(owner=None))) == 6


def test_what_lies_before_an_instant_is_left_out_only_where_nothing_newer_follows() -> None:
    assert ids(table_of(1, 2, 3, 4).newest(since=3)) == ["r3", "r2"]
    assert "r0" in ids(table_of(9, 2, 3, 4).newest(since=5))


@pytest.mark.parametrize("filters", [{}, {"customer": True}])
def test_pages_in_both_directions_hold_what_one_list_does(world: World, filters: dict[str, Any]) -> None:
    for _ in range(7):
        world.subscribe()
    other = world.api.post("customers", {})
    for _ in range(3):
        world.api.post("subscriptions", {"customer": other["id"], "items": [{"price": world.price["id"]}]})
    asked = {"customer": world.customer["id"]} if filters else {}
    whole = world.api.get("subscriptions", {"limit": 100, **asked})["data"]
    assert len(whole) == (7 if filters else 10)
    there = [row["id"] for row in whole]
    for place in range(len(there)):
        down = world.api.get("subscriptions", {"limit": 3, "starting_after": there[place], **asked})
        assert [row["id"] for row in down["data"]] == there[place + 1 : place + 4]
        assert down["has_more"] == (place + 4 < len(there))
        up = world.api.get("subscriptions", {"limit": 3, "ending_before": there[place], **asked})
        assert [row["id"] for row in up["data"]] == there[max(place - 3, 0) : place]
        assert up["has_more"] == (place > 3)


def test_a_page_looks_at_no_more_rows_than_it_shows(
    stripe: StripeSandbox, api: Direct, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(30):
        api.post("customers", {})
    seen: list[str] = []
    find = stripe.account.customers.newest

    def counting(*args: Any, **rest: Any) -> Any:
        for row in find(*args, **rest):
            seen.append(row.id)
            yield row

    monkeypatch.setattr(stripe.account.customers, "newest", counting)
    newest = api.get("customers", {"limit": 5})["data"]
    api.get("customers", {"limit": 5, "starting_after": newest[-1]["id"]})
    assert len(seen) == 12


def test_events_of_a_span_are_found_without_looking_at_older_ones(
    stripe: StripeSandbox, api: Direct, clock: ManualClock
) -> None:
    for _ in range(3):
        api.post("customers", {})
        clock.advance(DAY)
    for bound, found in (({"gte": clock() - DAY}, 1), ({"gt": clock() - DAY}, 0), (clock() - DAY, 1)):
        assert len(api.get("events", {"created": bound})["data"]) == found
    recent = stripe.events.table.newest(since=clock() - DAY)
    assert [event.created for event in islice(recent, 5)] == [clock() - DAY]


def test_an_event_shows_what_was_when_it_happened(world: World) -> None:
    made = world.api.get("events", {"type": "customer.created"})["data"][0]
    world.api.post(f"customers/{world.customer['id']}", {"name": "new"})
    assert world.api.get(f"events/{made['id']}") == made
    assert made["data"]["object"] == world.customer
