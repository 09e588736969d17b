"""Invoices: lines from usage and prices, drafts, and their finalization."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

from sandbox.stripe.account import Account
from sandbox.stripe.charges import charges_of
from sandbox.stripe.events import Events
from sandbox.stripe.meter_ledger import MeterLedger
from sandbox.stripe.objects import Charge, Invoice, InvoiceLine, Price, Subscription, SubscriptionItem
from sandbox.stripe.usage_ledger import UsageLedger

CYCLE = "subscription_cycle"
UPDATE = "subscription_update"
CREATE = "subscription_create"


class Invoices:
    """Makes and finalizes the account's invoices."""

    def __init__(self, account: Account, events: Events, meters: MeterLedger, usage: UsageLedger) -> None:
        self._account = account
        self._events = events
        self._meters = meters
        self._usage = usage

    def metered_line(
        self, subscription: Subscription, item: SubscriptionItem, until: int, *, free: bool = False
    ) -> InvoiceLine:
        """Usage of the item at its present price, stamped before `until` (UTC unix seconds).

        The line's period begins where usage began to count on this price; whether Stripe shows the
        whole period after a swap in its course is not documented.
        """
        price = self._account.prices.get(item.price)
        spans_period = self._account.settings.undocumented.swap_line_spans_period
        line = InvoiceLine(
            id=self._account.new_id("il"),
            subscription=subscription.id,
            subscription_item=item.id,
            price=price.id,
            period_start=item.period_start if spans_period else item.usage_from,
            period_end=max(until, item.usage_from),
            usage_from=item.usage_from,
            quantity=Decimal(0),
            open=price.meter is not None,
            free=free,
            metadata=dict(item.metadata),
        )
        return self._counted(line, subscription.customer, settled=True)

    def item_line(self, subscription: Subscription, item: SubscriptionItem, until: int) -> InvoiceLine:
        """Usage received so far as an invoice item, whose quantity does not change any more."""
        line = self._counted(
            self.metered_line(subscription, item, until), subscription.customer, settled=False
        )
        stays_open = self._account.settings.undocumented.swapped_usage_stays_open
        return replace(line, open=stays_open, invoice_item=self._account.new_id("ii"))

    def licensed_line(
        self, subscription: Subscription, item: SubscriptionItem, *, free: bool = False
    ) -> InvoiceLine:
        """The item's quantity for its present period, paid in advance."""
        price = self._account.prices.get(item.price)
        quantity = Decimal(item.quantity if item.quantity is not None else 1)
        return InvoiceLine(
            id=self._account.new_id("il"),
            subscription=subscription.id,
            subscription_item=item.id,
            price=price.id,
            period_start=item.period_start,
            period_end=item.period_end,
            quantity=quantity,
            charges=self._charges(quantity, price, free=free),
            free=free,
            metadata=dict(item.metadata),
        )

    def draft(
        self,
        subscription: Subscription,
        lines: list[InvoiceLine],
        reason: str,
        *,
        period_start: int,
        at_once: bool = False,
    ) -> Invoice:
        """A new invoice of the pending items and these lines; `at_once`: final already.

        Only drafts of a renewal or a scheduled end wait for the grace period; an invoice that
        collects automatically because of a creation or a change is final at once.
        """
        account = self._account
        now = account.now()
        immediate = at_once and subscription.collection_method == "charge_automatically"
        kept = subscription.pause_behavior == "keep_as_draft"
        invoice = Invoice(
            id=account.new_id("in"),
            created=now,
            customer=subscription.customer,
            subscription=subscription.id,
            currency=subscription.currency,
            billing_reason=reason,
            collection_method=subscription.collection_method,
            period_start=period_start,
            period_end=now,
            lines=[*subscription.pending, *lines],
            auto_advance=not kept,
            pause_behavior=subscription.pause_behavior,
            days_until_due=subscription.days_until_due,
            finalizes_at=None if kept else now + account.settings.finalization_grace,
        )
        subscription.pending = []
        subscription.latest_invoice = account.invoices.add(invoice).id
        created = self._events.emit("invoice.created", invoice)
        invoice.held_by = created.id
        if immediate and not kept:
            self.finalize(invoice)
        return invoice

    def finalize(self, invoice: Invoice) -> None:
        """Count the open lines for the last time and close the invoice.

        Everything accepted until now counts, whether or not summaries show it already.
        """
        now = self._account.now()
        if not self._is_closed(invoice):
            invoice.lines = [
                self._counted(line, invoice.customer, settled=False) if line.open else line
                for line in invoice.lines
            ]
        for line in invoice.lines:
            line.open = False
        event = self._events.table.find(invoice.held_by)
        invoice.webhooks_delivered_at = event.acknowledged_at if event else None
        invoice.status = "open"
        invoice.finalizes_at = None
        invoice.finalized_at = now
        invoice.number = f"{invoice.customer[-8:].upper()}-{len(self._account.invoices):04d}"
        if invoice.collection_method == "send_invoice":
            invoice.due_date = now + 86_400 * (invoice.days_until_due or 0)
        self._events.emit("invoice.finalized", invoice)
        self._collect(invoice)

    def finalization_due(self, invoice: Invoice) -> int | None:
        """When the draft becomes final, in UTC unix seconds; None while nothing finalizes it.

        Unanswered `invoice.created` deliveries hold an automatically collected invoice without a
        custom schedule up to 72 hours (Subscription webhooks). Once all are answered, or given up,
        it is final at the scheduled time or at once, whichever is later: documentation also
        mentions a further hour, which a strict stand-in does not grant.
        """
        if invoice.status != "draft" or not invoice.auto_advance or invoice.finalizes_at is None:
            return None
        event = self._events.table.find(invoice.held_by)
        holds = self._account.settings.undocumented.custom_time_keeps_hold or not invoice.custom_schedule
        if event is None or not holds or invoice.collection_method != "charge_automatically":
            return invoice.finalizes_at
        limit = invoice.created + self._account.settings.invoice_created_hold
        answered = event.acknowledged_at
        held_until = limit if answered is None else min(answered, limit)
        return max(invoice.finalizes_at, held_until)

    def _is_closed(self, invoice: Invoice) -> bool:
        """Whether it takes no usage after it was made; a cancellation's draft has a setting of its own."""
        drafts_are_closed = self._account.settings.undocumented.drafts_are_closed
        subscription = self._account.subscriptions.get(invoice.subscription)
        return drafts_are_closed and subscription.is_live and invoice.created < self._account.now()

    def _collect(self, invoice: Invoice) -> None:
        """Pay, or do what a paused collection asks for; every customer here can pay."""
        now = self._account.now()
        if invoice.pause_behavior == "void":
            invoice.status, invoice.voided_at = "void", now
            self._events.emit("invoice.voided", invoice)
        elif invoice.pause_behavior == "mark_uncollectible":
            invoice.status, invoice.marked_uncollectible_at = "uncollectible", now
            self._events.emit("invoice.marked_uncollectible", invoice)
        elif invoice.collection_method == "charge_automatically" or invoice.total == 0:
            invoice.status, invoice.paid_at = "paid", now
            self._events.emit("invoice.paid", invoice)
            self._events.emit("invoice.payment_succeeded", invoice)

    def _counted(self, line: InvoiceLine, customer: str, *, settled: bool) -> InvoiceLine:
        """The line with the usage of its period; a total below zero is billed as zero."""
        price = self._account.prices.get(line.price)
        start = line.period_start if line.usage_from is None else line.usage_from
        end = line.period_end
        if price.meter is not None:
            meter = self._account.meters.get(price.meter)
            usage = self._meters.usage(meter, customer, start, end, settled=settled)
        else:
            item = self._account.items.get(line.subscription_item)
            how = price.recurring.aggregate_usage if price.recurring else None
            usage = self._usage.usage(item, how, start, end)
        bills_negative = self._account.settings.undocumented.negative_totals_are_billed
        quantity = usage if bills_negative else max(usage, Decimal(0))
        charges = self._charges(quantity, price, free=line.free)
        return replace(line, quantity=quantity, charges=charges)

    def _charges(self, quantity: Decimal, price: Price, *, free: bool) -> tuple[Charge, ...]:
        name = self._account.products.get(price.product).name
        if free:
            text = f"Free trial for {quantity.normalize():f} x {name}"
            return (Charge(quantity, Decimal(0), 0, text),)
        packages = self._account.settings.undocumented.lines_show_packages
        return charges_of(quantity, price, name, shows_packages=packages)
