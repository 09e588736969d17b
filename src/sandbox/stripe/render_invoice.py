"""Invoices and their lines as JSON."""

from __future__ import annotations

from sandbox.stripe.account import Account, Json
from sandbox.stripe.objects import Charge, Invoice, InvoiceLine, Price
from sandbox.stripe.render_values import decimal_text, embedded_list, price_json
from sandbox.stripe.versions import ApiVersion


def invoice_json(account: Account, row: Invoice, version: ApiVersion) -> Json:
    """An invoice; since basil its subscription stands under `parent.subscription_details`."""
    paid = row.total if row.status == "paid" else 0
    due = max(row.total, 0)
    customer = account.customers.find(row.customer)
    invoice: Json = {
        "id": row.id,
        "object": "invoice",
        "account_country": "US",
        "account_name": "Sandbox",
        "account_tax_ids": None,
        "amount_due": due,
        "amount_overpaid": 0,
        "amount_paid": paid,
        "amount_remaining": due - paid,
        "amount_shipping": 0,
        "application": None,
        "attempt_count": 1 if row.paid_at is not None else 0,
        "attempted": row.paid_at is not None,
        "auto_advance": row.auto_advance,
        "automatic_tax": {
            "disabled_reason": None,
            "enabled": False,
            "liability": None,
            "provider": None,
            "status": None,
        },
        "automatically_finalizes_at": row.finalizes_at,
        "billing_reason": row.billing_reason,
        "collection_method": row.collection_method,
        "created": row.created,
        "currency": row.currency,
        "custom_fields": None,
        "customer": row.customer,
        "customer_address": None,
        "customer_email": customer.email if customer else None,
        "customer_name": customer.name if customer else None,
        "customer_phone": customer.phone if customer else None,
        "customer_shipping": None,
        "customer_tax_exempt": "none",
        "customer_tax_ids": [],
        "default_payment_method": None,
        "default_source": None,
        "default_tax_rates": [],
        "description": row.description,
        "discounts": [],
        "due_date": row.due_date,
        "effective_at": row.finalized_at,
        "ending_balance": None if row.status == "draft" else 0,
        "footer": None,
        "from_invoice": None,
        "hosted_invoice_url": None,
        "invoice_pdf": None,
        "issuer": {"type": "self"},
        "last_finalization_error": None,
        "latest_revision": None,
        "lines": embedded_list(
            [item for line in row.lines for item in line_items(account, line, version, row)],
            f"/v1/invoices/{row.id}/lines",
        ),
        "livemode": account.settings.livemode,
        "metadata": dict(row.metadata),
        "next_payment_attempt": row.finalizes_at,
        "number": row.number,
        "on_behalf_of": None,
        "payment_settings": {
            "default_mandate": None,
            "payment_method_options": None,
            "payment_method_types": None,
        },
        "period_end": row.period_end,
        "period_start": row.period_start,
        "post_payment_credit_notes_amount": 0,
        "pre_payment_credit_notes_amount": 0,
        "receipt_number": None,
        "rendering": None,
        "shipping_cost": None,
        "shipping_details": None,
        "starting_balance": 0,
        "statement_descriptor": None,
        "status": row.status,
        "status_transitions": {
            "finalized_at": row.finalized_at,
            "marked_uncollectible_at": row.marked_uncollectible_at,
            "paid_at": row.paid_at,
            "voided_at": row.voided_at,
        },
        "subtotal": row.total,
        "subtotal_excluding_tax": row.total,
        "test_clock": customer.test_clock if customer else None,
        "total": row.total,
        "total_discount_amounts": [],
        "total_excluding_tax": row.total,
        "total_pretax_credit_amounts": [],
        "webhooks_delivered_at": row.webhooks_delivered_at,
    }
    if version.is_basil:
        invoice["amount_paid_off_stripe"] = 0
        invoice["parent"] = _parent(row)
        invoice["total_taxes"] = []
    else:
        invoice["subscription"] = row.subscription
        invoice["subscription_details"] = {"metadata": {}}
        invoice["paid"] = row.status == "paid"
    return invoice


def _parent(row: Invoice) -> Json:
    return {
        "quote_details": None,
        "subscription_details": {"metadata": {}, "subscription": row.subscription},
        "type": "subscription_details",
    }


def line_items(account: Account, row: InvoiceLine, version: ApiVersion, invoice: Invoice) -> list[Json]:
    """The line items of what is billed, one for each charge; the first has the id of the whole."""
    ids = (row.id, *(f"{row.id}{number}" for number in range(2, len(row.charges) + 1)))
    return [
        {"id": id_, **_line_item(account, row, charge, version, invoice)}
        for id_, charge in zip(ids, row.charges, strict=True)
    ]


def _line_item(
    account: Account, row: InvoiceLine, charge: Charge, version: ApiVersion, invoice: Invoice
) -> Json:
    """A line item; fractional quantities show in full only in `quantity_decimal`."""
    price = account.prices.get(row.price)
    line: Json = {
        "object": "line_item",
        "amount": charge.amount,
        "currency": price.currency,
        "description": charge.description,
        "discount_amounts": [],
        "discountable": row.invoice_item is None,
        "discounts": [],
        "invoice": invoice.id,
        "livemode": account.settings.livemode,
        "metadata": dict(row.metadata),
        "period": {"end": row.period_end, "start": row.period_start},
        "pretax_credit_amounts": [],
        "quantity": int(charge.quantity),
    }
    if version.is_basil:
        line["parent"] = _line_parent(row)
        line["pricing"] = _pricing(price, charge)
        line["quantity_decimal"] = decimal_text(charge.quantity)
        line["subtotal"] = charge.amount
        line["subscription"] = row.subscription
        line["taxes"] = []
    else:
        line["price"] = price_json(account, price, version)
        line["proration"] = False
        line["subscription"] = row.subscription
        line["subscription_item"] = row.subscription_item
        line["type"] = "subscription" if row.invoice_item is None else "invoiceitem"
        if row.invoice_item is not None:
            line["invoice_item"] = row.invoice_item
    return line


def _line_parent(row: InvoiceLine) -> Json:
    details: Json = {
        "invoice_item": row.invoice_item,
        "proration": False,
        "proration_details": {"credited_items": None},
        "subscription": row.subscription,
    }
    if row.invoice_item is not None:
        return {
            "invoice_item_details": details,
            "subscription_item_details": None,
            "type": "invoice_item_details",
        }
    return {
        "invoice_item_details": None,
        "subscription_item_details": {**details, "subscription_item": row.subscription_item},
        "type": "subscription_item_details",
    }


def _pricing(price: Price, charge: Charge) -> Json:
    return {
        "price_details": {"price": price.id, "product": price.product},
        "type": "price_details",
        "unit_amount_decimal": None if charge.unit_amount is None else decimal_text(charge.unit_amount),
    }
