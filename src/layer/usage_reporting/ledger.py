"""The ledger in DynamoDB: what Stripe was told, one item a UTC day, and one head a customer meter.

Every write names the version that was read (a condition): who read earlier loses and reads again.
"""

from __future__ import annotations

import asyncio
import functools
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, Protocol, cast

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from usage_reporting import aws
from usage_reporting.amounts import ZERO
from usage_reporting.backoff import pause
from usage_reporting.brake import Usual
from usage_reporting.doubts import DOUBTS, Doubts, Look
from usage_reporting.errors import LedgerUnavailableError, LostRaceError
from usage_reporting.model import CustomerMeter, Send, SendState, Span, SpanState
from usage_reporting.once_soon import OnceSoon
from usage_reporting.period_bounds import PeriodBounds, cuts_of
from usage_reporting.windows import BOUNDS_KEPT, DAY, Slice

_CLOSED = frozenset({SpanState.BILLED, SpanState.DROPPED, SpanState.FREE})
_LASTING = _CLOSED | {SpanState.CANCELED, SpanState.BESIDE}
"""States that a head keeps; the others are asked for again."""
_IN_QUESTION = frozenset({SendState.DOUBTED, SendState.REJECTED, SendState.DISCARDED})

HEAD = "head"
KEPT_FOR = 400 * DAY
BATCH = 100
CALLS_AT_ONCE = 16
"""Each takes a thread and a connection for a few milliseconds."""
UNPROCESSED_TRIES = 6
"""A throttled table gives a part of a batch; the rest is asked for after a pause ("BatchGetItem")."""

Item = dict[str, Any]
Key = tuple[str, str]


class Table(Protocol):
    """The table as the ledger needs it; a faster stand-in must pass the same contract tests."""

    def created_at(self) -> str:
        """When the table was made: another value than the heads hold means a restored copy."""

    def get(self, keys: Sequence[Key]) -> list[Item]:
        """Read items consistently, in any order; missing ones are left out."""

    def put(self, item: Item, read_version: int) -> None:
        """Write an item whose stored version is still `read_version` (0: there is none).

        Raises LostRaceError.
        """


class DynamoTable:
    """The table in DynamoDB. Raises LedgerUnavailableError when it cannot be reached."""

    def __init__(self, name: str, client: Any = None, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self._name = name
        self._sleep = sleep
        self._client = client or aws.client(
            "dynamodb",
            Config(
                retries={"mode": "standard", "total_max_attempts": 6},
                connect_timeout=3,
                read_timeout=5,
                max_pool_connections=CALLS_AT_ONCE,
            ),
        )
        self._created_at = ""

    def created_at(self) -> str:
        """The table's creation time in whole seconds, asked once (DynamoDB, "DescribeTable")."""
        if not self._created_at:
            table = _reached(lambda: self._client.describe_table(TableName=self._name))
            self._created_at = str(int(table["Table"]["CreationDateTime"].timestamp()))
        return self._created_at

    def get(self, keys: Sequence[Key]) -> list[Item]:
        """Read items consistently, 100 keys a request."""
        found: list[Item] = []
        for start in range(0, len(keys), BATCH):
            wanted: list[Item] = [
                {"pk": {"S": pk}, "sk": {"S": sk}} for pk, sk in keys[start : start + BATCH]
            ]
            for attempt in range(UNPROCESSED_TRIES):
                if attempt:
                    self._sleep(pause(attempt - 1))
                request = {self._name: {"Keys": wanted, "ConsistentRead": True}}
                read = functools.partial(self._client.batch_get_item, RequestItems=request)
                answer = _reached(read)
                found.extend(
                    {name: aws.value_of(value) for name, value in item.items()}
                    for item in answer["Responses"].get(self._name, [])
                )
                wanted = answer.get("UnprocessedKeys", {}).get(self._name, {}).get("Keys", [])
                if not wanted:
                    break
            else:
                raise LedgerUnavailableError("DynamoDB leaves keys unread; it is throttled")
        return found

    def put(self, item: Item, read_version: int) -> None:
        """Write an item under the condition that nobody wrote it since it was read."""
        condition: dict[str, Any] = {"ConditionExpression": "attribute_not_exists(pk)"}
        if read_version:
            condition = {
                "ConditionExpression": "version = :read",
                "ExpressionAttributeValues": {":read": {"N": str(read_version)}},
            }
        written = {name: aws.attribute(value) for name, value in item.items()}
        _reached(lambda: self._client.put_item(TableName=self._name, Item=written, **condition))


def _reached[T](call: Callable[[], T]) -> T:
    try:
        return call()
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        if code == "ConditionalCheckFailedException":
            raise LostRaceError("the ledger entry was written by somebody else; read it again") from error
        raise LedgerUnavailableError(f"DynamoDB refused a ledger call: {code}") from error
    except BotoCoreError as error:
        raise LedgerUnavailableError(f"DynamoDB could not be reached: {error}") from error


@dataclass(frozen=True, slots=True)
class Head:
    """What is known of a customer meter; times in UTC seconds."""

    pk: str
    subject: str
    openmeter_meter: str
    table: str
    """Creation time of the table in which it was written; empty: an entry is gone, so that it is held."""
    bounds: frozenset[int] = frozenset()
    spans: tuple[Span, ...] = ()
    seen_at: int = 0
    """When Stripe's side was last looked at."""
    full_read_at: int = 0
    read_at: int = 0
    """When its hours were read last, but for the ticks of up to three hours since."""
    known_from: int = 0
    """When the ledger was made anew, or first knew a legacy item: of periods that were over by then it cannot
    say what Stripe was told. 0: Stripe held nothing at first sight."""
    doubts_seen: int = 0
    """The number of the newest window of refusals that its sends were compared with."""
    doubtful: frozenset[str] = frozenset()
    """The sort keys of the entries with sends that are doubted."""
    usual: Usual = field(default_factory=Usual)
    """What the brake compares hours with; empty where it is off."""
    openmeter_customer: str = ""
    """The id of the OpenMeter customer whose key the subject is; empty where subjects are just subjects."""
    is_claimed: bool = False
    """Whether the ledger notes whom its subject's usage is billed to; False: nobody else could claim it."""
    version: int = 0

    @classmethod
    def at_first_sight(cls, customer_meter: CustomerMeter, table: str, now: int) -> Head:
        """The head of a customer meter that the ledger did not know; `sees` adds what Stripe shows."""
        return cls(
            pk=customer_meter.pk,
            subject=customer_meter.subject,
            openmeter_meter=customer_meter.openmeter_meter,
            table=table,
            seen_at=customer_meter.seen_at,
            bounds=frozenset(span.start for span in customer_meter.spans),
            known_from=now if customer_meter.meter is None else 0,
        )

    def sees(self, customer_meter: CustomerMeter, now: int) -> Head:
        """The head after a look at Stripe: bounds and spans of the last 35 days are kept."""
        oldest = now - BOUNDS_KEPT
        known = {span.key: span for span in self.spans if span.end > oldest}
        is_stale = customer_meter.seen_at < self.seen_at
        for span in customer_meter.spans:
            if is_stale and self.known(span):
                continue  # a later look has shown how it ended
            clipped = self.clip(span)
            state = span.state if span.state in _LASTING else SpanState.CURRENT
            known[clipped.key] = replace(clipped, state=state, deadline=None, invoice="", is_kept_open=False)
        bounds = {bound for bound in self.bounds | customer_meter.bounds if bound > oldest}
        return replace(self, spans=tuple(known.values()), bounds=frozenset(bounds))

    def with_left(self, parts: Sequence[Span]) -> Head:
        """The head with parts of running periods that are over; a pause is cut off where it ended."""
        if not parts:
            return self
        known = {span.key: span for span in (*self.spans, *parts)}
        ends = {part.end for part in parts if part.state is SpanState.FREE}
        return replace(self, spans=tuple(known.values()), bounds=self.bounds | ends)

    def clip(self, span: Span) -> Span:
        """A span without what was billed or dropped of it under an earlier price, or in a pause."""
        start = span.start
        for other in sorted(self.spans, key=lambda other: other.start):
            closed = other.state in _CLOSED and other.item == span.item and other.end < span.end
            # A period that begins later shows that a pause is over.
            is_past_pause = other.state is SpanState.FREE and other.start < span.start
            if closed and not is_past_pause and other.start <= start < other.end:
                start = other.end
        clipped = self._with_usage(replace(span, start=start) if start != span.start else span)
        if span.state is SpanState.CANCELED and self._is_free(clipped):
            return replace(clipped, when_left=SpanState.FREE)
        return clipped

    def _with_usage(self, span: Span) -> Span:
        """A span with where its usage begins and ends, which an invoice's line does not show."""
        known = self.known(span)
        if known is None or known.state is SpanState.BESIDE:
            return span
        since = known.usage_since if span.usage_since is None else span.usage_since
        return span if since == span.usage_since else replace(span, usage_since=since)

    def _is_free(self, span: Span) -> bool:
        """Whether a span began with a pause that no resumption is known of."""
        known = self.known(span)
        return known is not None and SpanState.FREE in {known.state, known.when_left}

    def known(self, span: Span) -> Span | None:
        """The ledger's span of just this item, price and start; one that is closed first."""
        same = [other for other in self.spans if other.key == span.key]
        return min(same, key=lambda other: other.state not in _CLOSED, default=None)

    def of_usage(self, subject: str, openmeter_meter: str, openmeter_customer: str = "") -> Head:
        """The head billed for this usage; what was usual of another subject or meter says nothing of it."""
        is_same = (subject, openmeter_meter) == (self.subject, self.openmeter_meter)
        is_same = is_same and self.openmeter_customer in {"", openmeter_customer}
        return replace(
            self,
            subject=subject,
            openmeter_meter=openmeter_meter,
            openmeter_customer=openmeter_customer,
            usual=self.usual if is_same else Usual(),
        )

    def to_item(self, now: int) -> Item:
        """The head as it is stored, one version on."""
        doubts = {"doubts_seen": self.doubts_seen, "doubtful": sorted(self.doubtful)}
        usual = {"usual": self.usual.to_item()} if self.usual != Usual() else {}
        return {
            "pk": self.pk,
            "sk": HEAD,
            "subject": self.subject,
            "openmeter_meter": self.openmeter_meter,
            "table": self.table,
            "bounds": sorted(self.bounds),
            "spans": [span.to_json() for span in self.spans],
            "seen_at": self.seen_at,
            "full_read_at": self.full_read_at,
            "read_at": self.read_at,
            "known_from": self.known_from,
            **{name: value for name, value in doubts.items() if value},
            **usual,
            **({"openmeter_customer": self.openmeter_customer} if self.openmeter_customer else {}),
            **({"claimed": True} if self.is_claimed else {}),
            "version": self.version + 1,
            "expires_at": now + KEPT_FOR,
        }

    @classmethod
    def from_item(cls, item: Item) -> Head:
        """Read what `to_item` wrote."""
        return cls(
            pk=item["pk"],
            subject=item["subject"],
            openmeter_meter=item["openmeter_meter"],
            table=item["table"],
            bounds=frozenset(int(bound) for bound in item["bounds"]),
            spans=tuple(Span.from_json(span) for span in item["spans"]),
            seen_at=int(item["seen_at"]),
            full_read_at=int(item["full_read_at"]),
            read_at=int(item["read_at"] if "read_at" in item else item["full_read_at"]),
            known_from=int(item.get("known_from", 0)),
            doubts_seen=int(item.get("doubts_seen", 0)),
            doubtful=frozenset(item.get("doubtful", ())),
            usual=Usual.from_item(item.get("usual", {})),
            openmeter_customer=item.get("openmeter_customer", ""),
            is_claimed=bool(item.get("claimed", False)),
            version=int(item["version"]),
        )


@dataclass(frozen=True, slots=True)
class HourRead:
    """A whole hour's usage at the time when these slices of it were read exactly and were all there."""

    total: Decimal
    slices: frozenset[Slice]


@dataclass(frozen=True, slots=True)
class _Ordered:
    """The sends of an entry by stamp, and how many of them used up an identifier, by their slice's start."""

    sends: list[Send]
    stamps: list[int]
    used: Counter[int]

    @classmethod
    def of(cls, sends: Iterable[Send]) -> _Ordered:
        """Put sends in order."""
        ordered = sorted(sends, key=lambda send: send.stamp)
        used = Counter(send.slice_start for send in ordered if send.uses_identifier)
        return cls(ordered, [send.stamp for send in ordered], used)

    def within(self, piece: Slice) -> list[Send]:
        """The sends that are stamped in a slice."""
        first = bisect_left(self.stamps, piece.opens)
        return self.sends[first : bisect_left(self.stamps, piece.closes, lo=first)]


@dataclass(frozen=True, slots=True)
class Entry:
    """The sends of one UTC day (legacy: of one period), and what was read but is not to be sent."""

    pk: str
    sk: str
    version: int = 0
    sends: Mapping[str, Send] = field(default_factory=dict)
    """By identifier."""
    hours: Mapping[int, HourRead] = field(default_factory=dict)
    """Hours with a bound inside whose slices were read exactly, by the hour's start."""
    undelivered: Mapping[int, Decimal] = field(default_factory=dict)
    """Usage already counted as late or unbillable, by the slice's start."""
    cuts: Mapping[int, int] = field(default_factory=dict)
    """Where usage was cut for a bound that PERIOD_BOUNDS rounds, by the bound."""
    looks: Mapping[int, Look] = field(default_factory=dict)
    """First looks at hours with doubted sends, by the hour's start."""
    braked: Mapping[int, Decimal] = field(default_factory=dict)
    """Units that the brake holds, by the start of the slice (of a total: of its span)."""
    usual: Decimal = ZERO
    """Of an entry of totals: what the brake compares its own with. 0: not known."""
    _in_order: _Ordered | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def doubted(self) -> list[Send]:
        """The sends of which it is being found out whether Stripe counts them."""
        return [send for send in self.sends.values() if send.state is SendState.DOUBTED]

    @property
    def is_in_question(self) -> bool:
        """Whether Stripe refused what it was told last, or may have."""
        newest = max(self.sends.values(), key=lambda send: (send.intended_at, send.stamp), default=None)
        return newest is not None and newest.state in _IN_QUESTION

    @property
    def intents(self) -> list[Send]:
        """The sends of which it is not known whether Stripe has them, in order."""
        open_sends = [send for send in self.sends.values() if send.state is SendState.INTENT]
        return sorted(open_sends, key=lambda send: (send.intended_at, send.stamp, send.identifier))

    def told_at(self, otherwise: int) -> int:
        """When Stripe was last told of what counts, UTC seconds; `otherwise`, where it never was."""
        return max((send.told_at for send in self.sends.values() if send.counts), default=otherwise)

    def mirrored(self, piece: Slice) -> Decimal:
        """What Stripe holds, or may hold, of a slice: the sum of our sends stamped in it."""
        return sum((send.value for send in self._ordered.within(piece) if send.counts), ZERO)

    def is_placed(self, pieces: Iterable[Slice]) -> bool:
        """Whether every send in these slices was meant for the slice that it is stamped in."""
        return all(
            send.slice_start == piece.start
            for piece in pieces
            for send in self._ordered.within(piece)
            if send.counts
        )

    def sequence(self, piece: Slice) -> int:
        """How many identifiers a slice has used up; what Stripe rejected at once used none."""
        return self._ordered.used[piece.start]

    def discarded_as(self, piece: Slice) -> str:
        """Stripe's code, if it discarded the newest send of a slice for one; else empty."""
        found = newest_discarded(self._ordered.within(piece))
        return found.code if found else ""

    def newest_stamp(self, piece: Slice) -> int | None:
        """The newest stamp of the sends in a slice."""
        return max((send.stamp for send in self._ordered.within(piece) if send.counts), default=None)

    @property
    def _ordered(self) -> _Ordered:
        """Its sends, put in order once: an entry is asked about each of its slices."""
        if self._in_order is None:
            object.__setattr__(self, "_in_order", _Ordered.of(self.sends.values()))
        return cast("_Ordered", self._in_order)

    def with_sends(self, sends: Iterable[Send]) -> Entry:
        """The entry with sends added or replaced; a rejected one gives way to its repetition."""
        merged = dict(self.sends)
        merged.update({send.identifier: send for send in sends})
        return replace(self, sends=merged)

    def discarding(self, codes: Mapping[str, str]) -> Entry:
        """The entry after Stripe turned out not to count these sends: codes by identifier.

        The hours that were as known when it was believed to hold them are to be asked again.
        """
        discarded = [
            replace(send, state=SendState.DISCARDED, code=codes[send.identifier])
            for send in self.sends.values()
            if send.identifier in codes and send.counts
        ]
        kept = {
            hour: read
            for hour, read in self.hours.items()
            if not any(holds(piece, send) for piece in read.slices for send in discarded)
        }
        return replace(self.with_sends(discarded), hours=kept) if discarded else self

    def refusing(self, refused: Mapping[str, str], suspected: Mapping[str, str]) -> Entry:
        """The entry after Stripe refused sends, or may have: codes by identifier.

        Of a send that another request may have carried, a refusal says nothing for certain.
        """
        unsure = {send.identifier for send in self.sends.values() if send.may_count_by_another}
        sure = {name: code for name, code in refused.items() if name not in unsure}
        return self.discarding(sure).doubting({**refused, **suspected})

    def doubting(self, codes: Mapping[str, str]) -> Entry:
        """The entry after Stripe turned out to have refused some of these sends: codes by identifier."""
        known = {SendState.INTENT, SendState.SENT}
        doubted = [
            replace(send, state=SendState.DOUBTED, code=codes[send.identifier])
            for send in self.sends.values()
            if send.identifier in codes and send.state in known
        ]
        return self.with_sends(doubted) if doubted else self

    def to_item(self, now: int) -> Item:
        """The entry as it is stored, one version on."""
        looks = {str(hour): look.to_item() for hour, look in self.looks.items()}
        return {
            "pk": self.pk,
            "sk": self.sk,
            "version": self.version + 1,
            "sends": {send.identifier: send.to_item() for send in self.sends.values()},
            "hours": {
                str(hour): {
                    "total": read.total,
                    "slices": [_stored(piece) for piece in sorted(read.slices)],
                }
                for hour, read in self.hours.items()
            },
            "undelivered": {str(start): value for start, value in self.undelivered.items()},
            **({"cuts": {str(bound): at for bound, at in self.cuts.items()}} if self.cuts else {}),
            **({"looks": looks} if looks else {}),
            **(
                {"braked": {str(start): value for start, value in self.braked.items()}} if self.braked else {}
            ),
            **({"usual": self.usual} if self.usual else {}),
            "expires_at": now + KEPT_FOR,
        }

    @classmethod
    def from_item(cls, item: Item) -> Entry:
        """Read what `to_item` wrote."""
        return cls(
            pk=item["pk"],
            sk=item["sk"],
            version=int(item["version"]),
            sends={name: Send.from_item(name, send) for name, send in item["sends"].items()},
            hours={
                int(hour): HourRead(
                    read["total"],
                    frozenset(Slice(*(int(number) for number in piece)) for piece in read["slices"]),
                )
                for hour, read in item["hours"].items()
            },
            undelivered={int(start): value for start, value in item["undelivered"].items()},
            cuts={int(bound): int(at) for bound, at in item.get("cuts", {}).items()},
            looks={int(hour): Look.from_item(look) for hour, look in item.get("looks", {}).items()},
            braked={int(start): value for start, value in item.get("braked", {}).items()},
            usual=item.get("usual", ZERO),
        )


def newest_discarded(sends: Iterable[Send]) -> Send | None:
    """The newest of the sends that used up an identifier, if Stripe discarded it."""
    tried = [send for send in sends if send.uses_identifier]
    newest = max(tried, key=lambda send: (send.intended_at, send.stamp), default=None)
    return newest if newest is not None and newest.state is SendState.DISCARDED else None


def holds(piece: Slice, send: Send) -> bool:
    """Whether a send is stamped in a slice."""
    return piece.opens <= send.stamp < piece.closes


def cuts_told(
    entries: Iterable[Entry], bounds: Iterable[int], spans: Iterable[Span], setting: PeriodBounds
) -> dict[int, int]:
    """Where usage is cut for each bound, with regard to what Stripe was told."""
    told = tuple(entries)
    kept = {bound: at for entry in told for bound, at in entry.cuts.items()}
    stamps: list[int] = []
    if kept or setting is not PeriodBounds.EXACT:
        stamps = sorted(send.stamp for entry in told for send in entry.sends.values() if send.counts)
    return cuts_of(bounds, spans, setting, stamps=stamps, kept=kept)


def _stored(piece: Slice) -> list[int]:
    beside = [piece.shift, piece.early]
    return [piece.start, piece.end, *(beside if any(beside) else [])]


class Ledger:
    """The ledger off the event loop: boto3 blocks, so every call runs in a thread."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._created_at = ""
        self._puts: list[_Put] = []
        self._write_soon = OnceSoon(self._write_puts)

    async def created_at(self) -> str:
        """The creation time of the table that the ledger lives in, asked once."""
        if not self._created_at:
            self._created_at = await asyncio.to_thread(self._table.created_at)
        return self._created_at

    async def heads(self, pks: Sequence[str]) -> dict[str, Head]:
        """The heads that exist, by partition key."""
        items = await asyncio.to_thread(self._table.get, [(pk, HEAD) for pk in dict.fromkeys(pks)])
        return {item["pk"]: Head.from_item(item) for item in items}

    async def page(
        self, pks: Sequence[str], meter_pks: Sequence[str]
    ) -> tuple[dict[str, Head], dict[str, Doubts]]:
        """In one read the heads of a page and what is doubted of its Stripe meters, by partition key."""
        keys = [
            *((pk, HEAD) for pk in dict.fromkeys(pks)),
            *((pk, DOUBTS) for pk in dict.fromkeys(meter_pks)),
        ]
        items = await asyncio.to_thread(self._table.get, keys)
        heads = {item["pk"]: Head.from_item(item) for item in items if item["sk"] == HEAD}
        return heads, {item["pk"]: Doubts.from_item(item) for item in items if item["sk"] == DOUBTS}

    async def entries(self, keys: Sequence[Key]) -> dict[Key, Entry]:
        """The entries asked for; a missing one comes back empty, at version 0."""
        found = {(pk, sk): Entry(pk, sk) for pk, sk in keys}
        for item in await asyncio.to_thread(self._table.get, list(found)):
            found[(item["pk"], item["sk"])] = Entry.from_item(item)
        return found

    async def write_doubts(self, doubts: Doubts, now: int) -> None:
        """Write windows read before. Raises LostRaceError."""
        await self._put(doubts.to_item(now), doubts.version)

    async def write_head(self, head: Head, now: int) -> Head:
        """Write a head read before. Raises LostRaceError."""
        await self._put(head.to_item(now), head.version)
        return replace(head, version=head.version + 1)

    async def write_entry(self, entry: Entry, now: int) -> Entry:
        """Write an entry read before. Raises LostRaceError."""
        await self._put(entry.to_item(now), entry.version)
        return replace(entry, version=entry.version + 1)

    async def items(self, keys: Sequence[Key]) -> dict[Key, Item]:
        """Other items that exist, as they are stored."""
        found = await asyncio.to_thread(self._table.get, list(dict.fromkeys(keys)))
        return {(item["pk"], item["sk"]): item for item in found}

    async def write_item(self, item: Item, read_version: int) -> None:
        """Write another item whose stored version is still `read_version`. Raises LostRaceError."""
        await self._put(item, read_version)

    async def _put(self, item: Item, read_version: int) -> None:
        """Write an item, together with others that are ready now: a page's writes share a few threads."""
        put = _Put(item, read_version, asyncio.get_running_loop().create_future())
        self._puts.append(put)
        self._write_soon()
        await put.done

    def _write_puts(self) -> None:
        puts = [put for put in self._puts if not put.done.done()]  # a stopped page's are not written
        self._puts = []
        loop = asyncio.get_running_loop()
        for first in range(min(len(puts), CALLS_AT_ONCE)):
            some = puts[first::CALLS_AT_ONCE]
            written = loop.run_in_executor(None, self._write_some, some)
            written.add_done_callback(functools.partial(_settle, some))

    def _write_some(self, puts: Sequence[_Put]) -> list[Exception | None]:
        """In a thread: write one after the other; the errors of those that failed."""
        outcomes: list[Exception | None] = []
        for put in puts:
            try:
                self._table.put(put.item, put.read_version)
            except Exception as error:  # noqa: BLE001 - it belongs to whoever waits for this one
                outcomes.append(error)
            else:
                outcomes.append(None)
        return outcomes


@dataclass(eq=False, slots=True)
class _Put:
    """A write that somebody waits for."""

    item: Item
    read_version: int
    done: asyncio.Future[None]


def _settle(puts: Sequence[_Put], written: asyncio.Future[list[Exception | None]]) -> None:
    """Tell those who wait what came of their writes."""
    crash = None if written.cancelled() else written.exception()
    outcomes = [crash] * len(puts) if crash or written.cancelled() else written.result()
    for put, error in zip(puts, outcomes, strict=True):
        if put.done.done():
            continue
        if written.cancelled():
            put.done.cancel()
        elif error is None:
            put.done.set_result(None)
        else:
            put.done.set_exception(error)
