"""Invoices."""

from __future__ import annotations

from sandbox.stripe.account import Json
from sandbox.stripe.api.route import Call, Route, fields
from sandbox.stripe.errors import invalid
from sandbox.stripe.lifecycle import in_order, in_trial, is_metered
from sandbox.stripe.metadata import merged
from sandbox.stripe.objects import Invoice
from sandbox.stripe.render_invoice import line_items
from sandbox.stripe.schema import (
    EXPAND,
    METADATA,
    PAGE,
    RANGE,
    Flag,
    Moment,
    Text,
    choice,
    in_range,
)

_FIVE_YEARS = 5 * 365 * 24 * 3600


def _list(call: Call) -> Json:
    params = call.params
    return call.page(
        call.account.invoices,
        lambda row: (
            _is_shown(call, row)
            and params.get("status") in (None, row.status)
            and params.get("customer") in (None, row.customer)
            and params.get("subscription") in (None, row.subscription)
            and params.get("collection_method") in (None, row.collection_method)
            and in_range(row.created, params.get("created"))
            and in_range(row.due_date, params.get("due_date"))
        ),
        subscription=params.get("subscription"),
        customer=params.get("customer"),
    )


def _is_shown(call: Call, row: Invoice) -> bool:
    """On a test clock: only where its customer's, or its subscription's, are asked for."""
    is_asked_for = "customer" in call.params or "subscription" in call.params
    return is_asked_for or call.account.test_clock_of(row.customer) is None


def _preview(call: Call) -> Json:
    """The next renewal's invoice as summaries show it now; nothing is kept of it."""
    subscription = call.account.subscriptions.refer(call.params["subscription"], "subscription")
    if not subscription.is_live:
        raise invalid(
            "No upcoming invoices for a canceled subscription.", "subscription", "invoice_upcoming_none"
        )
    end = min(item.period_end for item in subscription.items)
    lines = [
        call.books.invoices.metered_line(subscription, item, end, free=in_trial(subscription))
        for item in subscription.items
        if is_metered(call.books, item) and item.period_end == end
    ]
    invoice = Invoice(
        id=call.account.new_id("upcoming_in"),
        created=end,
        customer=subscription.customer,
        subscription=subscription.id,
        currency=subscription.currency,
        billing_reason="upcoming",
        collection_method=subscription.collection_method,
        period_start=min(item.period_start for item in subscription.items),
        period_end=end,
        lines=[*subscription.pending, *in_order(lines)],
    )
    return call.show(invoice)


def _lines(call: Call) -> Json:
    invoice = call.account.invoices.get(call.id)
    rows = [item for line in invoice.lines for item in line_items(call.account, line, call.version, invoice)]
    return call.page_of(rows)


def _update(call: Call) -> Json:
    invoice = call.account.invoices.get(call.id)
    before = call.stripe.events.render(invoice)
    if "auto_advance" in call.params or "automatically_finalizes_at" in call.params:
        _reschedule(call, invoice)
    if "description" in call.params:
        invoice.description = call.params["description"] or None
    invoice.metadata = merged(invoice.metadata, call.params.get("metadata", {}))
    call.stripe.events.emit("invoice.updated", invoice, before)
    return call.show(invoice)


def _reschedule(call: Call, invoice: Invoice) -> None:
    """A custom time needs `auto_advance=true` in the same call, the stricter of two readings."""
    params = call.params
    now = call.account.now()
    if invoice.status != "draft":
        raise invalid("You can only change this on a draft invoice.", "auto_advance")
    at = params.get("automatically_finalizes_at")
    if at is not None:
        if params.get("auto_advance") is not True:
            raise invalid(
                "`automatically_finalizes_at` requires `auto_advance` to be true.",
                "automatically_finalizes_at",
            )
        if not now < at <= now + _FIVE_YEARS:
            raise invalid(
                "`automatically_finalizes_at` must be in the future, at most five years away.",
                "automatically_finalizes_at",
            )
        invoice.auto_advance, invoice.custom_schedule, invoice.finalizes_at = True, True, at
    elif not params["auto_advance"]:
        invoice.auto_advance, invoice.finalizes_at = False, None
    elif not invoice.auto_advance:
        invoice.auto_advance = True
        invoice.finalizes_at = now + call.account.settings.finalization_grace


def _finalize(call: Call) -> Json:
    invoice = call.account.invoices.get(call.id)
    if invoice.status != "draft":
        raise invalid("This invoice is already finalized, you can't re-finalize it.", "invoice")
    invoice.auto_advance = call.params.get("auto_advance", invoice.auto_advance)
    call.books.invoices.finalize(invoice)
    return call.show(invoice)


ROUTES = [
    Route(
        "GET",
        "/v1/invoices",
        "invoice",
        _list,
        fields(
            PAGE,
            status=choice("draft", "open", "paid", "uncollectible", "void"),
            customer=Text(),
            subscription=Text(),
            collection_method=choice("charge_automatically", "send_invoice"),
            created=RANGE,
            due_date=RANGE,
        ),
    ),
    Route(
        "POST",
        "/v1/invoices/create_preview",
        "invoice",
        _preview,
        fields(EXPAND, {"subscription*": Text()}, customer=Text()),
    ),
    Route(
        "GET",
        "/v1/invoices/{invoice}",
        "invoice",
        lambda call: call.show(call.account.invoices.get(call.id)),
        fields(EXPAND),
    ),
    Route(
        "POST",
        "/v1/invoices/{invoice}",
        "invoice",
        _update,
        fields(
            EXPAND,
            auto_advance=Flag(),
            automatically_finalizes_at=Moment(),
            description=Text(1500, clearable=True),
            metadata=METADATA,
        ),
    ),
    Route("GET", "/v1/invoices/{invoice}/lines", "invoice", _lines, fields(PAGE)),
    Route(
        "POST",
        "/v1/invoices/{invoice}/finalize",
        "invoice",
        _finalize,
        fields(EXPAND, auto_advance=Flag()),
    ),
]
