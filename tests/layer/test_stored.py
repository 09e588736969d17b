"""What comes back from the ledger or a message is what went in, to the type: numbers come back as Decimal."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from boto3.dynamodb.types import TypeDeserializer, TypeSerializer

from tests.layer.builders import METER, NOON, D, customer_meter, legacy, send, span
from usage_reporting.brake import Usual
from usage_reporting.doubts import Doubts, Look, Window
from usage_reporting.ledger import KEPT_FOR, Entry, Head, HourRead
from usage_reporting.model import CustomerMeter, SendState, Span, SpanState
from usage_reporting.windows import BOUNDS_KEPT, HOUR, Slice

SPANS = (
    span(),
    span(1, 2, first=True),
    span(2, 3, state=SpanState.DRAFT, deadline=9, invoice="in_1", is_kept_open=True),
    span(3, 4, when_left=SpanState.DROPPED, last=True),
)
HEAD = Head(
    "pk",
    "cus_1",
    "m1",
    "1",
    bounds=frozenset({5, 3}),
    spans=SPANS,
    seen_at=6,
    full_read_at=7,
    read_at=8,
    known_from=9,
    doubts_seen=10,
    doubtful=frozenset({"2026-07-15"}),
    usual=Usual({20_649: D("1.5"), 20_650: D(2)}, D(9), NOON),
    version=11,
)
ENTRY = Entry(
    "pk",
    "2026-07-15",
    12,
    {
        "a": replace(send("a", "1.5", attempt=2, state=SendState.SENT), sent_at=NOON),
        "b": replace(send("b", 2, state=SendState.DISCARDED), code="archived_meter"),
    },
    hours={NOON: HourRead(D(3), frozenset({Slice(NOON, NOON + 5, 1, 2), Slice(NOON + 5, NOON + HOUR)}))},
    undelivered={NOON: D("0.5")},
    cuts={NOON + 7: NOON},
    looks={NOON: Look(NOON + 1, D(4), D(5), frozenset({"b", "a"}), True)},
    braked={NOON: D("4999.5")},
    usual=D("7.25"),
)
DOUBTS = Doubts("pk", {"evt_1": Window(NOON, NOON + HOUR, 3)}, 4, 5)


def stored(item: dict[str, Any]) -> dict[str, Any]:
    serialize, deserialize = TypeSerializer().serialize, TypeDeserializer().deserialize
    return {name: deserialize(serialize(value)) for name, value in item.items()}


def shown(thing: Any) -> str:
    """With the types of all numbers, and sets in one order."""
    if isinstance(thing, Head):
        rest = replace(thing, bounds=frozenset(), doubtful=frozenset())
        return f"{rest!r} {sorted(thing.bounds)!r} {type(thing.bounds)} {type(thing.doubtful)}"
    if isinstance(thing, Entry):
        hours = [(hour, one.total, sorted(one.slices)) for hour, one in thing.hours.items()]
        looks = [(hour, replace(look, doubted=frozenset())) for hour, look in thing.looks.items()]
        return f"{replace(thing, hours={}, looks={})!r} {hours!r} {looks!r}"
    return repr(thing)


@pytest.mark.parametrize("thing", [HEAD, ENTRY, DOUBTS], ids=["head", "entry", "doubts"])
def test_the_ledger_gives_back_what_it_was_given(thing: Head | Entry | Doubts) -> None:
    item = stored(thing.to_item(NOON))
    back = type(thing).from_item(item)

    assert back == replace(thing, version=thing.version + 1)
    assert shown(back) == shown(replace(thing, version=thing.version + 1))
    kept = BOUNDS_KEPT if isinstance(thing, Doubts) else KEPT_FOR
    assert item["expires_at"] == NOON + kept


@pytest.mark.parametrize("thing", [HEAD, ENTRY, DOUBTS], ids=["head", "entry", "doubts"])
def test_what_a_later_version_added_is_no_obstacle(thing: Head | Entry | Doubts) -> None:
    """After a roll-back the older version reads the ledger of the newer one."""
    item = with_more(stored(thing.to_item(NOON)))

    assert type(thing).from_item(item) == replace(thing, version=thing.version + 1)


def with_more(item: dict[str, Any]) -> dict[str, Any]:
    """The item, and each send and span in it, with an attribute that nobody knows here."""
    more = {**item, "of_a_later_version": {"x": 1}}
    if "sends" in item:
        more["sends"] = {name: {**one, "of_a_later_version": 1} for name, one in item["sends"].items()}
    if "spans" in item:
        more["spans"] = [{**one, "of_a_later_version": 1} for one in item["spans"]]
    return more


def test_sets_are_stored_in_order() -> None:
    head = replace(HEAD, doubtful=frozenset("gfedcba")).to_item(NOON)
    look = Look(1, D(1), D(1), frozenset("gfedcba")).to_item()

    assert (head["bounds"], head["doubtful"]) == ([3, 5], list("abcdefg"))
    assert look["doubted"] == list("abcdefg")
    assert ENTRY.to_item(NOON)["hours"][str(NOON)]["slices"][0][:2] == [NOON, NOON + 5]


def test_what_is_empty_takes_no_room() -> None:
    assert not {"cuts", "looks", "braked", "usual"} & Entry("pk", "sk").to_item(NOON).keys()
    assert not {"doubts_seen", "doubtful", "usual"} & Head("pk", "s", "m", "1").to_item(NOON).keys()
    assert not {"sent", "code"} & send().to_item().keys()
    assert span().to_json().keys() == {"start", "end", "subscription", "item", "price", "state"}
    optional = {"meter", "closing", "partial", "read_until", "is_deleted", "refusal"}
    assert not optional & legacy().to_json().keys()


def test_a_head_of_before_has_read_what_it_read_in_full() -> None:
    item = HEAD.to_item(NOON)
    for name in ("read_at", "known_from", "doubts_seen", "doubtful", "usual"):
        del item[name]
    old = Head.from_item(item)

    assert (old.read_at, old.known_from, old.doubts_seen, old.doubtful) == (7, 0, 0, frozenset())
    assert old.usual == Usual()


MESSAGES = [
    legacy(),
    customer_meter(*SPANS, closing=True, partial=True, read_until=4, is_deleted=True, refusal="no"),
    customer_meter(meter=replace(METER, customer_key="c", value_key="v")),
]


@pytest.mark.parametrize("one", MESSAGES)
def test_a_message_gives_back_what_it_was_given(one: CustomerMeter) -> None:
    assert CustomerMeter.from_json(one.to_json()) == one


@pytest.mark.parametrize("one", SPANS)
def test_a_span_is_given_back_to_the_type(one: Span) -> None:
    back = Span.from_json(stored(one.to_json()))

    assert repr(back) == repr(one)


def test_keys() -> None:
    assert customer_meter().meter_pk == "self#test#mtr_1"
    assert legacy().meter_pk == ""
    assert isinstance(stored(ENTRY.to_item(NOON))["version"], Decimal)
