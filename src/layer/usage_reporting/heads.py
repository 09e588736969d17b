"""Keeps the heads: first sight, the pinned subject and meter, restored tables, and prices that changed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from usage_reporting import advice
from usage_reporting.amounts import ZERO, is_same, to_wire
from usage_reporting.billing import Billing
from usage_reporting.errors import HeldError, LostRaceError, RefusedError, StripeUnavailableError
from usage_reporting.ledger import Head, Ledger
from usage_reporting.model import CustomerMeter, Reading, Span, SpanState, Target
from usage_reporting.openmeter_customers import OpenMeterCustomers
from usage_reporting.side_by_side import RACES
from usage_reporting.subjects import Subjects
from usage_reporting.swaps import parts, within
from usage_reporting.windows import BOUNDS_KEPT

LONG_AGO = 1
"""A full read: so old that the next report reads everything, and not for the first time, so that usage from
before is not counted as lost."""


@dataclass(frozen=True, slots=True)
class Options:
    """How a report is made."""

    full: bool = False
    """Read all that is still billable."""
    eager: bool = False
    """Read the open hour even when it is young."""
    accept: bool = False
    """An operator has looked: take decreases and another subject or meter as right."""
    accept_empty: bool = False
    """Take it as right, too, that OpenMeter has nothing at all of what Stripe holds."""
    dry_run: bool = False
    """Write nothing and send nothing."""


@dataclass(slots=True)
class Heads:
    """Checks a customer meter against its head in the ledger, and writes what is new."""

    billing: Billing
    ledger: Ledger
    clock: Callable[[], int]
    subjects: Subjects | None = None
    """None: every customer is its own subject."""
    customers: OpenMeterCustomers | None = None
    """None: subjects are just subjects, and not the keys of OpenMeter's customers."""

    def openmeter_meter(self, customer_meter: CustomerMeter, stored: Head | None) -> str:
        """The OpenMeter meter that Stripe's objects or the ledger name. Raises RefusedError."""
        name = customer_meter.openmeter_meter or (stored.openmeter_meter if stored else "")
        if not name:
            raise RefusedError(
                "the subscription item of a draft's line is gone and the ledger never knew it, so its "
                "usage cannot be told; bill it by an invoice item"
            )
        return name

    async def settled(self, customer_meter: CustomerMeter, stored: Head | None, options: Options) -> Head:
        """`checked`, again after each lost race. Raises what it raises."""
        for _ in range(RACES):
            try:
                return await self.checked(customer_meter, stored, options)
            except LostRaceError:
                stored = (await self.ledger.heads([customer_meter.pk])).get(customer_meter.pk)
        raise LostRaceError("others keep writing this customer meter's head")

    async def checked(self, customer_meter: CustomerMeter, stored: Head | None, options: Options) -> Head:
        """The head with all that is known now, written before anything is sent.

        Raises HeldError where a person has to look first.
        """
        table = await self.ledger.created_at()
        if stored is None:
            return await self._at_first_sight(customer_meter, table, options)
        if not stored.table:
            raise HeldError(
                "an entry of its ledger is gone, and with it what was sent last; when an hour is over, run "
                f"{advice.adopt(customer_meter.customer)} to rebuild it from Stripe"
            )
        if stored.table != table:
            raise HeldError(
                "the ledger is in another table than it was written in (a restored copy?); "
                f"run {advice.adopt(customer_meter.customer)} to rebuild it from Stripe"
            )
        openmeter_customer = await self.openmeter_customer(customer_meter.subject or stored.subject)
        if not options.accept:
            await self._check_pinned(customer_meter, stored, openmeter_customer)
        pinned = _pinned(customer_meter, stored, openmeter_customer)
        known = await self._with_price_changes(
            customer_meter, await self._with_unseen_parts(customer_meter, pinned)
        )
        seen = known.sees(customer_meter, self.clock())
        new = _not_claimed(seen, stored, self.clock())
        await self._claim(customer_meter, seen, new, options)
        seen = replace(seen, is_claimed=self.subjects is not None and (stored.is_claimed or bool(new)))
        if seen == stored or options.dry_run:
            return seen
        newest = max(stored.seen_at, customer_meter.seen_at)
        return await self.ledger.write_head(replace(seen, seen_at=newest), self.clock())

    async def was_read(self, head: Head, read_at: int, *, is_full: bool) -> None:
        """Remember that hours were read; losing this to another writer does no harm."""
        full_read_at = read_at if is_full else head.full_read_at
        await self.ledger.write_head(replace(head, full_read_at=full_read_at, read_at=read_at), read_at)

    async def accept(self, head: Head, readings: Collection[Reading]) -> Head:
        """Remember what an operator took as right, before it is sent: more of it is then no jump.

        Raises LostRaceError.
        """
        now = self.clock()
        return await self.ledger.write_head(replace(head, usual=head.usual.accepting(readings, now)), now)

    async def remember(self, head: Head, now_known: Mapping[Span, Sequence[Span]], options: Options) -> Head:
        """Put what is known better of some spans in their place. Raises LostRaceError."""
        gone = {span.key for span in now_known}
        kept = {span.key: span for span in head.spans if span.key not in gone}
        known = {**kept, **{span.key: span for spans in now_known.values() for span in spans}}
        better = replace(head, spans=tuple(known.values()))
        return better if options.dry_run else await self.ledger.write_head(better, self.clock())

    async def _at_first_sight(self, customer_meter: CustomerMeter, table: str, options: Options) -> Head:
        now = self.clock()
        if not customer_meter.subject:
            raise RefusedError(
                f"customer {customer_meter.customer} is deleted, its metadata with it, and the ledger never "
                "knew its subject, so its usage cannot be told; bill it by an invoice item"
            )
        subject = customer_meter.subject
        first = Head.at_first_sight(customer_meter, table, now).of_usage(
            subject, customer_meter.openmeter_meter, await self.openmeter_customer(subject)
        )
        if options.accept:
            # It counts, though usage that Stripe holds may have to be adopted yet.
            await self._claim(customer_meter, first, customer_meter.spans, options)
        if customer_meter.meter is not None:
            held = await self.billing.usage_held(
                customer_meter.customer, customer_meter.meter.id, now - BOUNDS_KEPT, now
            )
            if not is_same(held, ZERO):
                if await self.ledger.heads([customer_meter.pk]):
                    raise LostRaceError("another worker saw the customer meter first, and sent its usage")
                raise HeldError(
                    f"the ledger does not know {customer_meter.customer} on Stripe meter "
                    f"{customer_meter.meter.id}, but Stripe already holds {to_wire(held)} units of the last "
                    "35 days; stop every other reporter, then run " + advice.adopt(customer_meter.customer)
                )
        await self._claim(customer_meter, first, customer_meter.spans, options)
        # A total has its parts told apart when it is sent.
        left = await self.left_unseen(customer_meter) if customer_meter.target is Target.MIRROR else []
        head = replace(first.with_left(left).sees(customer_meter, now), is_claimed=self.subjects is not None)
        return head if options.dry_run else await self.ledger.write_head(head, now)

    async def _claim(
        self, customer_meter: CustomerMeter, head: Head, spans: Sequence[Span], options: Options
    ) -> None:
        if self.subjects is None:
            return
        if not options.dry_run:
            await self.subjects.claim(customer_meter.customer, head, spans, accepted=options.accept)
        elif not options.accept:
            await self.subjects.check(customer_meter.customer, head, spans)

    async def openmeter_customer(self, key: str) -> str:
        """The id of the OpenMeter customer with a key; empty where subjects are just subjects.

        Raises RefusedError where there is none.
        """
        if self.customers is None:
            return ""
        return (await self.customers.every([key]))[key].id

    async def _check_pinned(self, customer_meter: CustomerMeter, head: Head, openmeter_customer: str) -> None:
        """Hold a customer meter whose subject, OpenMeter meter or customer is another than the ledger's."""
        for what, now_named, before in (
            ("subject", customer_meter.subject, head.subject),
            ("OpenMeter meter", customer_meter.openmeter_meter, head.openmeter_meter),
            (f"OpenMeter customer with key {head.subject!r}", openmeter_customer, head.openmeter_customer),
        ):
            if now_named and before and now_named != before:
                raise HeldError(
                    f"the {what} is now {now_named!r}, but what was reported so far came from {before!r}; "
                    f"{await self._whose(customer_meter, head)}"
                    f"if that is meant, release it with {advice.accept(customer_meter.customer)}"
                )

    async def _whose(self, customer_meter: CustomerMeter, head: Head) -> str:
        """Who else is billed for the usage that a customer meter would be billed for now."""
        if self.subjects is None:
            return ""
        pinned = _pinned(customer_meter, head, head.openmeter_customer)
        others = await self.subjects.beside_whom(customer_meter.customer, pinned, customer_meter.spans)
        return f"{others}; " if others else ""

    async def left_unseen(self, customer_meter: CustomerMeter) -> list[Span]:
        """The parts of running periods that were over before anything was known of them: under another price,
        or in a pause."""
        running = [span for span in customer_meter.spans if span.state is SpanState.CURRENT]
        return [part for span in running for part in await self._left(span, customer_meter)]

    async def _with_unseen_parts(self, customer_meter: CustomerMeter, head: Head) -> Head:
        """Tell apart what is over of a period that is seen for the first time: a pause, or another price.

        A pause follows on a trial, or on more of itself of which no period was seen ("Pause subscriptions").
        Only Stripe's events say when such a part was over, and the webhook for that may be late.
        """
        left: list[Span] = []
        for span in customer_meter.spans:
            known = head.known(span)
            is_new = known is None or (known.state is SpanState.FREE and known.end == span.end)
            if span.state is SpanState.CURRENT and is_new and _may_hide_a_part(span, head):
                left += await self._left(span, customer_meter)
        return head.with_left(left)

    async def _left(self, span: Span, customer_meter: CustomerMeter) -> list[Span]:
        """The parts of a running period that are over, by Stripe's events."""
        try:
            swaps = await self.billing.price_changes.swaps(span.start + 1, customer_meter.seen_at)
        except StripeUnavailableError:
            return []  # a key that may not read events must not stop anything
        return parts(span, within(span, swaps, span.start))[:-1]

    async def _with_price_changes(self, customer_meter: CustomerMeter, head: Head) -> Head:
        """Close what Stripe billed at once because a price was swapped or an item removed."""
        if customer_meter.seen_at < head.seen_at:
            return head
        closed = [one for span in head.spans for one in await self._closed_if_left(span, customer_meter)]
        return head if tuple(closed) == head.spans else replace(head, spans=tuple(closed))

    async def _closed_if_left(self, span: Span, customer_meter: CustomerMeter) -> list[Span]:
        """Asks for all events since the span's start: a look since then may have shown other spans alone."""
        is_over = _ended_at_another_price if customer_meter.partial else _left_behind
        if not is_over(span, customer_meter, self.clock()):
            return [span]
        if customer_meter.target is Target.LAST:
            swaps = await self.billing.price_changes.swaps(span.start + 1, customer_meter.seen_at)
            if told_apart := parts(span, within(span, swaps, span.start)):
                return told_apart
        changed_at = await self.billing.price_changes.left_at(span, span.start, self.clock())
        if changed_at >= span.end:
            return [span]
        return [replace(span, end=max(changed_at, span.start), state=span.when_left)]


def _pinned(customer_meter: CustomerMeter, head: Head, openmeter_customer: str) -> Head:
    subject = customer_meter.subject or head.subject
    return head.of_usage(subject, customer_meter.openmeter_meter or head.openmeter_meter, openmeter_customer)


def _not_claimed(seen: Head, stored: Head, now: int) -> list[Span]:
    """The spans that are new to the ledger; all, where they are billed for another subject or meter now.

    Where there were no claims when they began: those that run at `now`, UTC seconds.
    """
    if (seen.subject, seen.openmeter_meter) != (stored.subject, stored.openmeter_meter):
        return list(seen.spans)
    if not stored.is_claimed:
        return [span for span in seen.spans if span.end > now]
    latest = max((span.start for span in stored.spans), default=0)
    return [span for span in seen.spans if span.start > latest]


def _may_hide_a_part(span: Span, head: Head) -> bool:
    """Whether something else is known last of an item than the billed period before this one at its price."""
    own = [one for one in head.spans if one.item == span.item]
    billed = [one for one in own if SpanState.FREE not in {one.state, one.when_left}]
    is_same = {one for one in billed if one.price == span.price or one.state is SpanState.BESIDE}
    follows = any(one.end == span.start for one in is_same)
    unbilled = {SpanState.FREE, SpanState.BESIDE}
    is_known = any(one.holds(span.start) for one in own if one.state not in unbilled)
    return bool(own) and not follows and not is_known


def _ended_at_another_price(span: Span, customer_meter: CustomerMeter, now: int) -> bool:
    """Whether the span's period is over by `now`, UTC seconds, and its item had another price in the end."""
    return (
        span.state is SpanState.CURRENT
        and span.end <= now
        and any(
            (other.item, other.start, other.end) == (span.item, span.start, span.end)
            and other.price != span.price
            for other in customer_meter.spans
        )
    )


def _left_behind(span: Span, customer_meter: CustomerMeter, now: int) -> bool:
    """Whether the span's item is no longer on its price, though its period goes on."""
    if span.state is not SpanState.CURRENT or span.end <= now:
        return False
    siblings = [
        other
        for other in customer_meter.spans
        if other.subscription == span.subscription and other.state is SpanState.CURRENT
    ]
    if not siblings:
        return False
    same_item = [other for other in siblings if other.item == span.item]
    if not same_item:
        return True
    return all(other.price != span.price and other.end == span.end for other in same_item)
