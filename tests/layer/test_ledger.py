"""The ledger: what is written comes back, and nobody overwrites what he has not read."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from hypothesis import given
from hypothesis import strategies as st
from moto import mock_aws

from tests.layer.builders import MONTH_END, MONTH_START, NOON, D, MemoryTable, customer_meter, send, span
from usage_reporting.amounts import round_units
from usage_reporting.doubts import Doubts
from usage_reporting.errors import LedgerUnavailableError, LostRaceError
from usage_reporting.ledger import DynamoTable, Entry, Head, HourRead, Key, Ledger, Table, holds
from usage_reporting.model import Send, SendState, Span, SpanState
from usage_reporting.windows import DAY, HOUR, Slice

PK = customer_meter().pk
KEY = (PK, "2026-07-15")


@pytest.fixture(scope="module")
def dynamodb() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch, mock_aws():
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.delenv("AWS_ENDPOINT_URL", raising=False)
        yield boto3.client("dynamodb")


@pytest.fixture(params=["memory", "dynamodb"])
def table(request: pytest.FixtureRequest, dynamodb: Any) -> Iterator[Table]:
    if request.param == "memory":
        yield MemoryTable()
        return
    dynamodb.create_table(
        TableName="ledger",
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
        AttributeDefinitions=[
            {"AttributeName": "pk", "AttributeType": "S"},
            {"AttributeName": "sk", "AttributeType": "S"},
        ],
        BillingMode="PAY_PER_REQUEST",
    )
    yield DynamoTable("ledger")
    dynamodb.delete_table(TableName="ledger")


def head(**other: Any) -> Head:
    values: dict[str, Any] = {"pk": PK, "subject": "cus_1", "openmeter_meter": "m1", "table": "1", **other}
    return Head(**values)


def entry(*sends: Send, **other: Any) -> Entry:
    return Entry(*KEY, sends={one.identifier: one for one in sends}, **other)


# The table


def test_a_head_comes_back_as_it_was_written(table: Table) -> None:
    written = head(
        bounds=frozenset({MONTH_START, MONTH_END}),
        spans=(span(deadline=NOON, first=True), span(state=SpanState.BILLED)),
        seen_at=NOON,
        full_read_at=NOON - 5,
    )

    async def round_trip() -> None:
        ledger = Ledger(table)
        stored = await ledger.write_head(written, NOON)
        assert stored == replace(written, version=1)
        assert await ledger.heads([PK, PK, "self#test#cus_2#mtr_1"]) == {PK: stored}

    asyncio.run(round_trip())


def test_an_entry_comes_back_as_it_was_written(table: Table) -> None:
    written = entry(
        send("a", "0.000000001", state=SendState.SENT, attempt=3),
        send("b", "-123456.123456789", state=SendState.REJECTED),
        send("c", "100000000000000"),
        hours={NOON: HourRead(D("0.30000000000000004"), frozenset({Slice(NOON, NOON + 60)}))},
        undelivered={NOON: D("1.5"), NOON + HOUR: D(0)},
    )

    async def round_trip() -> None:
        ledger = Ledger(table)
        stored = await ledger.write_entry(written, NOON)
        assert stored == replace(written, version=1)
        assert await ledger.entries([KEY]) == {KEY: stored}

    asyncio.run(round_trip())


def test_a_missing_entry_is_an_empty_one(table: Table) -> None:
    assert asyncio.run(Ledger(table).entries([KEY])) == {KEY: Entry(*KEY)}
    assert asyncio.run(Ledger(table).entries([])) == {}
    assert asyncio.run(Ledger(table).heads([])) == {}


def test_who_read_an_older_version_loses(table: Table) -> None:
    async def race() -> None:
        ledger = Ledger(table)
        first = await ledger.write_entry(entry(), NOON)
        with pytest.raises(LostRaceError):
            await ledger.write_entry(entry(), NOON)
        second = await ledger.write_entry(first, NOON)
        with pytest.raises(LostRaceError):
            await ledger.write_entry(first, NOON)
        with pytest.raises(LostRaceError):
            await ledger.write_entry(replace(second, version=9), NOON)
        assert (await ledger.entries([KEY]))[KEY].version == 2
        stored = await ledger.write_head(head(), NOON)
        with pytest.raises(LostRaceError):
            await ledger.write_head(head(), NOON)
        assert (await ledger.write_head(stored, NOON)).version == 2

    asyncio.run(race())


def test_a_version_of_an_item_that_is_gone_loses_too(table: Table) -> None:
    with pytest.raises(LostRaceError):
        asyncio.run(Ledger(table).write_entry(replace(entry(), version=1), NOON))


def test_more_keys_than_one_request_takes(table: Table) -> None:
    keys = [(f"self#test#cus_n{number}#mtr_1", "2026-07-15") for number in range(230)]

    async def read() -> dict[Key, Entry]:
        ledger = Ledger(table)
        for pk, sk in keys:
            await ledger.write_entry(Entry(pk, sk), NOON)
        return await ledger.entries([*keys, KEY])

    found = asyncio.run(read())

    assert [one.version for one in found.values()] == [1] * 230 + [0]


def test_items_live_400_days(table: Table) -> None:
    asyncio.run(Ledger(table).write_entry(entry(), NOON))
    asyncio.run(Ledger(table).write_head(head(), NOON))

    assert [item["expires_at"] for item in table.get([KEY, (PK, "head")])] == [NOON + 400 * DAY] * 2


def test_the_table_says_when_it_was_made(dynamodb: Any) -> None:
    calls = []

    class Client:
        def describe_table(self, **asked: str) -> dict[str, Any]:
            calls.append(asked)
            return {"Table": {"CreationDateTime": datetime(2026, 7, 15, 12, 0, 0, 999, UTC)}}

    table = DynamoTable("ledger", Client())

    assert table.created_at() == table.created_at() == str(NOON)
    assert calls == [{"TableName": "ledger"}]
    assert asyncio.run(Ledger(table).created_at()) == str(NOON)


class Partial:
    """Leaves keys unread, so many at a time."""

    def __init__(self, reads: int) -> None:
        self.reads = reads
        self.requests: list[dict[str, Any]] = []

    def batch_get_item(self, RequestItems: dict[str, Any]) -> dict[str, Any]:  # noqa: N803 - boto3's
        self.requests.append(RequestItems["ledger"])
        keys = RequestItems["ledger"]["Keys"]
        read, left = keys[: self.reads], keys[self.reads :]
        answer: dict[str, Any] = {"Responses": {"ledger": read} if read else {}}
        if left:
            answer["UnprocessedKeys"] = {"ledger": {"Keys": left, "ConsistentRead": True}}
        return answer


def test_keys_that_dynamodb_leaves_unread_are_asked_again() -> None:
    client = Partial(30)
    keys = [(PK, str(number)) for number in range(150)]
    pauses: list[float] = []

    found = DynamoTable("ledger", client, sleep=pauses.append).get(keys)

    assert [(item["pk"], item["sk"]) for item in found] == keys
    assert [len(request["Keys"]) for request in client.requests] == [100, 70, 40, 10, 50, 20]
    assert all(request["ConsistentRead"] is True for request in client.requests)
    assert len(pauses) == 4
    assert min(pauses) > 0.1


def test_keys_that_stay_unread_are_given_up() -> None:
    pauses: list[float] = []

    with pytest.raises(LedgerUnavailableError, match="throttled"):
        DynamoTable("ledger", Partial(0), sleep=pauses.append).get([KEY])

    assert len(pauses) == 5


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ClientError({"Error": {"Code": "Throttled"}}, "GetItem"), r"refused a ledger call: Throttled$"),
        (
            ClientError({"Error": {"Code": "Denied"}}, "GetItem"),
            r"refused a ledger call: Denied$",
        ),
        (ClientError({"Error": {}}, "GetItem"), r"refused a ledger call: $"),
        (ClientError({}, "GetItem"), r"refused a ledger call: $"),
        (EndpointConnectionError(endpoint_url="https://dynamodb.test"), r"not be reached: Could not connect"),
    ],
)
def test_a_table_out_of_reach_is_a_reason_to_ask_again(error: Exception, reason: str) -> None:
    class Client:
        def __getattr__(self, name: str) -> Any:
            def fail(**asked: Any) -> None:
                raise error

            return fail

    table = DynamoTable("ledger", Client())
    for call in (table.created_at, lambda: table.get([KEY]), lambda: table.put(entry().to_item(NOON), 0)):
        with pytest.raises(LedgerUnavailableError, match=rf"^DynamoDB .*{reason}"):
            call()


def test_a_call_to_the_table_ends_within_the_time_of_a_function(dynamodb: Any) -> None:
    config = DynamoTable("ledger")._client.meta.config

    assert (config.connect_timeout, config.read_timeout) == (3, 5)
    assert config.retries == {"mode": "standard", "total_max_attempts": 6}


# Entries


def test_what_stripe_holds_of_a_slice() -> None:
    first, second = Slice(NOON, NOON + 1800), Slice(NOON + 1800, NOON + HOUR)
    one = entry(
        send("a", 1, NOON, slice_start=NOON, state=SendState.SENT),
        send("b", 2, NOON + 1799, slice_start=NOON),
        send("c", 4, NOON + 1799, slice_start=NOON, state=SendState.REJECTED),
        send("d", 8, NOON + 1800, slice_start=NOON + 1800, state=SendState.SENT),
    )

    assert one.mirrored(first) == 3
    assert one.mirrored(second) == 8
    assert (one.sequence(first), one.sequence(second)) == (2, 1)
    assert (one.newest_stamp(first), one.newest_stamp(second)) == (NOON + 1799, NOON + 1800)
    assert entry().newest_stamp(first) is None
    assert entry().mirrored(first) == 0
    assert entry().sequence(first) == 0


def test_a_slice_cut_later_holds_what_is_stamped_in_it() -> None:
    whole = send("a", 5, NOON + HOUR - 1, slice_start=NOON)

    assert not holds(Slice(NOON, NOON + 60), whole)
    assert holds(Slice(NOON + 60, NOON + HOUR), whole)


def test_intents_are_repeated_in_the_order_they_were_made() -> None:
    one = entry(
        send("b", 1, 10, intended_at=2),
        send("a", 1, 20, intended_at=1),
        send("sent", 1, 5, intended_at=0, state=SendState.SENT),
        send("c", 1, 5, intended_at=2),
        send("no", 1, 5, intended_at=0, state=SendState.REJECTED),
    )

    assert [found.identifier for found in one.intents] == ["a", "c", "b"]


def test_a_rejected_send_gives_way_to_its_repetition() -> None:
    one = entry(send("a", state=SendState.REJECTED), send("b")).with_sends([send("a", attempt=1)])

    assert [(found.identifier, found.state) for found in one.sends.values()] == [
        ("a", SendState.INTENT),
        ("b", SendState.INTENT),
    ]


amounts = st.decimals(min_value=-(10**14), max_value=10**14).map(round_units)
sends = st.builds(
    Send,
    identifier=st.text("abc.019", min_size=1, max_size=12),
    slice_start=st.integers(0, 2**33),
    stamp=st.integers(0, 2**33),
    value=amounts,
    intended_at=st.integers(0, 2**33),
    state=st.sampled_from(SendState),
    attempt=st.integers(0, 99),
)


@given(st.lists(sends, max_size=5), st.dictionaries(st.integers(0, 2**33), amounts, max_size=3))
def test_items_hold_all_of_an_entry(made: list[Send], counted: dict[int, Decimal]) -> None:
    hours = {hour: HourRead(units, frozenset({Slice(hour, hour + 9)})) for hour, units in counted.items()}
    one = entry(*made, undelivered=counted, hours=hours, version=7)

    assert Entry.from_item(one.to_item(NOON)) == replace(one, version=8)


# Heads


def test_a_head_keeps_bounds_and_spans_of_35_days() -> None:
    oldest = NOON - 35 * DAY
    known = head(
        bounds=frozenset({oldest, oldest + 1, NOON}),
        spans=(span(0, oldest), span(1, oldest + 1), span(MONTH_START, MONTH_END)),
    )

    seen = known.sees(customer_meter(span(MONTH_END, MONTH_END + DAY), bounds=frozenset({5, NOON + 1})), NOON)

    assert seen.bounds == {oldest + 1, NOON, NOON + 1}
    assert [(one.start, one.end) for one in seen.spans] == [
        (1, oldest + 1),
        (MONTH_START, MONTH_END),
        (MONTH_END, MONTH_END + DAY),
    ]


def test_a_head_remembers_no_state_of_an_invoice() -> None:
    seen = head().sees(customer_meter(span(state=SpanState.DRAFT, deadline=NOON)), NOON)

    assert seen.spans == (span(),)


def test_a_span_seen_again_takes_the_place_of_what_was_known() -> None:
    known = head(spans=(span(end=MONTH_END),))

    assert known.sees(customer_meter(span(end=NOON + 5)), NOON).spans == (span(end=NOON + 5),)


def test_spans_of_other_items_prices_and_starts_stay() -> None:
    known = head(spans=(span(item="si_2"), span(price="price_2"), span(MONTH_START - DAY)))

    assert len(known.sees(customer_meter(), NOON).spans) == 4


def test_what_stripe_billed_at_once_is_cut_off() -> None:
    known = head(spans=(span(end=NOON, state=SpanState.BILLED, price="price_old"),))

    assert known.clip(span()) == span(NOON)
    assert known.clip(span(item="si_2")) == span(item="si_2")
    assert known.clip(span(NOON + 1)) == span(NOON + 1)
    assert known.clip(span(NOON)) == span(NOON)
    assert head(spans=(span(end=NOON),)).clip(span()) == span()


@pytest.mark.parametrize("state", [SpanState.BILLED, SpanState.DROPPED, SpanState.FREE])
def test_what_is_closed_cuts_what_begins_in_it(state: SpanState) -> None:
    closed = span(end=NOON, state=state, price="price_old")

    assert head(spans=(closed,)).clip(span()) == span(NOON)
    assert head(spans=(span(), replace(span(), state=state))).known(span()) == span(state=state)


@pytest.mark.parametrize(
    ("state", "kept"),
    [
        (SpanState.BILLED, SpanState.BILLED),
        (SpanState.DROPPED, SpanState.DROPPED),
        (SpanState.FREE, SpanState.FREE),
        (SpanState.CANCELED, SpanState.CANCELED),
        (SpanState.ENDED, SpanState.CURRENT),
        (SpanState.FINAL, SpanState.CURRENT),
    ],
)
def test_a_head_keeps_the_states_that_last(state: SpanState, kept: SpanState) -> None:
    seen = head().sees(customer_meter(span(state=state)), NOON)

    assert [one.state for one in seen.spans] == [kept]


@pytest.mark.parametrize(
    ("known", "state", "when_left"),
    [
        (span(NOON, state=SpanState.FREE), SpanState.CANCELED, SpanState.FREE),
        (span(NOON, state=SpanState.CANCELED, when_left=SpanState.FREE), SpanState.CANCELED, SpanState.FREE),
        (span(NOON), SpanState.CANCELED, SpanState.BILLED),
        (span(NOON + 1, state=SpanState.FREE), SpanState.CANCELED, SpanState.BILLED),
        (span(NOON, state=SpanState.FREE), SpanState.ENDED, SpanState.BILLED),
        (span(NOON, state=SpanState.FREE), SpanState.CURRENT, SpanState.BILLED),
    ],
)
def test_what_is_canceled_in_a_pause_is_free(known: Span, state: SpanState, when_left: SpanState) -> None:
    over = span(NOON, NOON + HOUR, state=state)
    assert head(spans=(known,)).clip(over) == replace(over, when_left=when_left)


def test_a_period_that_begins_later_ends_a_pause() -> None:
    paused = span(NOON, NOON + HOUR, state=SpanState.FREE)
    began_in_it, began_with_it = span(NOON + 9), span(NOON)

    assert head(spans=(paused,)).clip(began_in_it) == began_in_it
    assert head(spans=(paused,)).clip(began_with_it) == span(NOON + HOUR)


def test_the_last_of_several_swaps_counts() -> None:
    swaps = tuple(span(end=NOON + n, state=SpanState.BILLED, price=f"price_{n}") for n in (3, 9, 6))

    assert head(spans=swaps).clip(span(price="price_new")) == span(NOON + 9, price="price_new")


def test_what_stripe_discarded_does_not_count_but_uses_its_identifier() -> None:
    piece = Slice(NOON, NOON + HOUR)
    sends = [
        send("a", 1, state=SendState.SENT),
        send("b", 2, state=SendState.DOUBTED),
        send("c", 4, state=SendState.REJECTED),
        send("d", 8, state=SendState.DISCARDED, stamp=NOON + HOUR - 1),
    ]
    entry = Entry(*KEY).with_sends(sends)

    assert entry.mirrored(piece) == 3
    assert entry.sequence(piece) == 3
    assert entry.doubted == [sends[1]]
    assert Entry.from_item(entry.to_item(NOON)) == replace(entry, version=1)


def test_discarding_a_send_has_its_hour_asked_again() -> None:
    starts = (NOON, NOON + HOUR)
    hours = {at: HourRead(D(1), frozenset({Slice(at, at + HOUR)})) for at in starts}
    sends = [send("a", 1, state=SendState.SENT), send("b", 2, stamp=NOON + 2 * HOUR - 1)]
    entry = replace(Entry(*KEY).with_sends(sends), hours=hours)

    after = entry.discarding({"a": "archived_meter", "unknown": "no_meter"})

    assert after.sends["a"] == replace(sends[0], state=SendState.DISCARDED, code="archived_meter")
    assert after.sends["b"] == sends[1]
    assert list(after.hours) == [NOON + HOUR]
    assert after.discarding({"a": "no_meter"}) == after, "what is discarded already stays as it was"
    assert Entry.from_item(after.to_item(NOON)) == replace(after, version=1)


def test_the_newest_send_of_a_slice_says_why_it_was_discarded() -> None:
    piece = Slice(NOON, NOON + HOUR)
    old = replace(send("a", state=SendState.DISCARDED), code="no_meter")
    entry = Entry(*KEY).with_sends([old])
    assert entry.discarded_as(piece) == "no_meter"
    assert entry.discarded_as(Slice(NOON + HOUR, NOON + 2 * HOUR)) == ""
    refused = entry.with_sends([send("c", intended_at=NOON + 3 * HOUR, state=SendState.REJECTED)])
    assert refused.discarded_as(piece) == "no_meter"
    assert entry.with_sends([send("b", intended_at=NOON + 2 * HOUR)]).discarded_as(piece) == ""
    assert Entry(*KEY).discarded_as(piece) == ""


def test_a_page_is_read_with_the_doubts_of_its_stripe_meters(table: Table) -> None:
    ledger = Ledger(table)
    doubts = Doubts("self#test#mtr_1").with_window("evt_1", NOON, NOON + 10, NOON)
    asyncio.run(ledger.write_head(head(doubts_seen=3, doubtful=frozenset({"2026-07-15"})), NOON))
    asyncio.run(ledger.write_doubts(doubts, NOON))

    heads, found = asyncio.run(ledger.page([PK, PK], ["self#test#mtr_1", "self#test#mtr_2"]))

    assert heads == {PK: head(doubts_seen=3, doubtful=frozenset({"2026-07-15"}), version=1)}
    assert found == {"self#test#mtr_1": replace(doubts, version=1)}
    with pytest.raises(LostRaceError):
        asyncio.run(ledger.write_doubts(doubts, NOON))


# Writes of a page


class CountedTable(MemoryTable):
    """Knows in which threads items were written; one sort key cannot be reached."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: set[int] = set()

    def put(self, item: dict[str, Any], read_version: int) -> None:
        self.threads.add(threading.get_ident())
        if item["sk"] == "gone":
            raise LedgerUnavailableError("DynamoDB could not be reached")
        super().put(item, read_version)


def test_writes_that_are_ready_together_share_threads_and_have_their_own_outcomes() -> None:
    table = CountedTable()
    ledger = Ledger(table)
    entries = [Entry(PK, f"day {number}") for number in range(100)]

    async def write_all() -> list[Any]:
        stale, lost = Entry(PK, "day 0", version=7), Entry(PK, "gone")
        return await asyncio.gather(
            *(ledger.write_entry(one, NOON) for one in [*entries, stale, lost]), return_exceptions=True
        )

    *written, stale, lost = asyncio.run(write_all())

    assert [one.version for one in written] == [1] * 100
    assert isinstance(stale, LostRaceError)
    assert isinstance(lost, LedgerUnavailableError)
    assert len(table.threads) <= 16


def test_a_write_that_nobody_waits_for_any_more_is_not_made() -> None:
    table = CountedTable()
    ledger = Ledger(table)

    async def stopped() -> None:
        task = asyncio.create_task(ledger.write_entry(Entry(PK, "never"), NOON))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(stopped())
    asyncio.run(ledger.write_entry(Entry(PK, "then"), NOON))  # on another event loop

    assert {sk for _, sk in table.items} == {"then"}
