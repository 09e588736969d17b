"""Products and prices."""

from __future__ import annotations

from typing import Any

from sandbox.stripe.account import Json
from sandbox.stripe.api.price_billing import BILLING, billing_of
from sandbox.stripe.api.route import Call, Route, fields
from sandbox.stripe.errors import invalid, missing, unknown
from sandbox.stripe.metadata import merged
from sandbox.stripe.objects import Price, Product, Recurring
from sandbox.stripe.schema import (
    EXPAND,
    METADATA,
    PAGE,
    RANGE,
    Fields,
    Flag,
    Integer,
    Members,
    Rows,
    Text,
    choice,
    in_range,
)

_INTERVAL = choice("day", "week", "month", "year")
_LONGEST = {"day": 1095, "week": 156, "month": 36, "year": 3}
_TAX = choice("exclusive", "inclusive", "unspecified")


def _create_product(call: Call) -> Json:
    params = dict(call.params)
    id_ = params.get("id") or call.account.new_id("prod", 14)
    if call.account.products.find(id_):
        raise invalid(f"Product already exists: {id_}", "id", "resource_already_exists")
    now = call.account.now()
    product = Product(
        id=id_,
        created=now,
        updated=now,
        name=params["name"],
        active=params.get("active", True),
        description=params.get("description"),
        unit_label=params.get("unit_label"),
        statement_descriptor=params.get("statement_descriptor"),
        url=params.get("url"),
        metadata=merged({}, params.get("metadata", {})),
    )
    call.account.products.add(product)
    call.stripe.events.emit("product.created", product)
    return call.show(product)


def _update_product(call: Call) -> Json:
    product = call.account.products.get(call.id)
    before = call.stripe.events.render(product)
    for name in ("name", "active"):
        if name in call.params:
            setattr(product, name, call.params[name])
    for name in ("description", "unit_label", "statement_descriptor", "url"):
        if name in call.params:
            setattr(product, name, call.params[name] or None)
    if "default_price" in call.params:
        price = call.account.prices.refer(call.params["default_price"], "default_price")
        if price.product != product.id:
            raise invalid("The default price must belong to the product.", "default_price")
        product.default_price = price.id
    product.metadata = merged(product.metadata, call.params.get("metadata", {}))
    product.updated = call.account.now()
    call.stripe.events.emit("product.updated", product, before)
    return call.show(product)


def _list_products(call: Call) -> Json:
    params = call.params
    return call.page(
        call.account.products,
        lambda row: (
            params.get("active") in (None, row.active)
            and row.id in params.get("ids", [row.id])
            and in_range(row.created, params.get("created"))
        ),
    )


def _delete_product(call: Call) -> Json:
    product = call.account.products.get(call.id)
    if any(price.product == product.id for price in call.account.prices):
        raise invalid("This product cannot be deleted because it has one or more prices.", "id")
    call.account.products.remove(product.id)
    call.stripe.events.emit("product.deleted", product)
    return {"id": product.id, "object": "product", "deleted": True}


def _create_price(call: Call) -> Json:
    params = call.params
    recurring = _recurring(call, params.get("recurring"))
    if ("product" in params) == ("product_data" in params):
        raise missing("product")
    currency = params["currency"].lower()
    if len(currency) != 3 or not currency.isalpha():
        raise invalid(f"Invalid currency: {currency}.", "currency")
    billing = billing_of(params)
    if "product" in params:
        product = call.account.products.refer(params["product"], "product").id
    else:
        product = _inline_product(call, params["product_data"])
    price = Price(
        id=call.account.new_id("price"),
        created=call.account.now(),
        product=product,
        currency=currency,
        unit_amount=billing.unit_amount,
        tiers=billing.tiers,
        tiers_mode=billing.tiers_mode,
        transform_quantity=billing.transform_quantity,
        recurring=recurring,
        active=params.get("active", True),
        nickname=params.get("nickname"),
        lookup_key=_lookup_key(call, params),
        tax_behavior=params.get("tax_behavior", "unspecified"),
        metadata=merged({}, params.get("metadata", {})),
    )
    call.account.prices.add(price)
    call.stripe.events.emit("price.created", price)
    return call.show(price)


def _inline_product(call: Call, data: Any) -> str:
    now = call.account.now()
    product = Product(
        id=call.account.new_id("prod", 14),
        created=now,
        updated=now,
        name=data["name"],
        unit_label=data.get("unit_label"),
        metadata=merged({}, data.get("metadata", {})),
    )
    call.account.products.add(product)
    call.stripe.events.emit("product.created", product)
    return product.id


def _lookup_key(call: Call, params: Any) -> str | None:
    key: str | None = params.get("lookup_key")
    holder = next((row for row in call.account.prices if key and row.lookup_key == key), None)
    if holder is not None:
        if not params.get("transfer_lookup_key"):
            raise invalid(f"A price (`{holder.id}`) already uses that lookup key.", "lookup_key")
        holder.lookup_key = None
    return key


def _recurring(call: Call, params: Any) -> Recurring | None:
    if params is None:
        return None
    usage_type = params.get("usage_type", "licensed")
    meter = params.get("meter")
    count = params.get("interval_count", 1)
    aggregate = params.get("aggregate_usage")
    if count > _LONGEST[params["interval"]]:
        raise invalid("The interval can be at most three years.", "recurring[interval_count]")
    if aggregate is not None and call.version.is_basil:
        raise unknown("recurring[aggregate_usage]")
    if usage_type == "licensed":
        if meter is not None or aggregate is not None:
            raise invalid("A licensed price has no meter.", "recurring[meter]")
        return Recurring(params["interval"], count, usage_type)
    if meter is not None:
        found = call.account.meters.refer(meter, "recurring[meter]")
        if found.status != "active":
            raise invalid(f"The meter {meter} is inactive.", "recurring[meter]")
        return Recurring(params["interval"], count, usage_type, meter)
    if call.version.is_basil:
        raise invalid(
            "A metered price must be backed by a meter since API version 2025-03-31.basil.",
            "recurring[meter]",
        )
    return Recurring(params["interval"], count, usage_type, None, aggregate or "sum")


def _update_price(call: Call) -> Json:
    price = call.account.prices.get(call.id)
    before = call.stripe.events.render(price)
    if call.params.get("active") is False and _is_default(call, price):
        raise invalid(
            "This price cannot be archived because it is the default price of its product.", "active"
        )
    if "active" in call.params:
        price.active = call.params["active"]
    if "nickname" in call.params:
        price.nickname = call.params["nickname"] or None
    if "lookup_key" in call.params:
        price.lookup_key = _lookup_key(call, call.params)
    if "tax_behavior" in call.params:
        price.tax_behavior = call.params["tax_behavior"]
    price.metadata = merged(price.metadata, call.params.get("metadata", {}))
    call.stripe.events.emit("price.updated", price, before)
    return call.show(price)


def _is_default(call: Call, price: Price) -> bool:
    """Whether a price is its product's default, which cannot be archived (Manage products and prices)."""
    return call.account.products.get(price.product).default_price == price.id


def _list_prices(call: Call) -> Json:
    """The active prices, unless inactive ones are asked for ("List all prices")."""
    params = call.params
    wanted = params.get("recurring", {})

    def matches(row: Price) -> bool:
        part = row.recurring
        return (
            params.get("active", True) is row.active
            and params.get("product") in (None, row.product)
            and params.get("currency") in (None, row.currency)
            and params.get("type") in (None, "recurring" if part else "one_time")
            and (row.lookup_key in params["lookup_keys"] if "lookup_keys" in params else True)
            and all(getattr(part, name, None) == value for name, value in wanted.items())
            and in_range(row.created, params.get("created"))
        )

    return call.page(call.account.prices, matches)


_PRODUCT: Members = {
    "active": Flag(),
    "description": Text(clearable=True),
    "metadata": METADATA,
    "statement_descriptor": Text(22, clearable=True),
    "unit_label": Text(12, clearable=True),
    "url": Text(clearable=True),
    **EXPAND,
}
_PRICE: Members = {
    "active": Flag(),
    "lookup_key": Text(200, clearable=True),
    "metadata": METADATA,
    "nickname": Text(clearable=True),
    "tax_behavior": _TAX,
    "transfer_lookup_key": Flag(),
    **EXPAND,
}
_RECURRING = Fields(
    {
        "interval*": _INTERVAL,
        "interval_count": Integer(1),
        "meter": Text(),
        "usage_type": choice("licensed", "metered"),
        "aggregate_usage": choice("sum", "last_during_period", "last_ever", "max"),
    }
)
_INLINE_PRODUCT = Fields({"name*": Text(), "metadata": METADATA, "unit_label": Text(12)})
ROUTES = [
    Route(
        "POST",
        "/v1/products",
        "product",
        _create_product,
        fields(_PRODUCT, {"name*": Text(), "id": Text()}),
    ),
    Route(
        "GET",
        "/v1/products",
        "product",
        _list_products,
        fields(PAGE, active=Flag(), ids=Rows(Text()), created=RANGE),
    ),
    Route(
        "GET",
        "/v1/products/{id}",
        "product",
        lambda call: call.show(call.account.products.get(call.id)),
        fields(EXPAND),
    ),
    Route(
        "POST",
        "/v1/products/{id}",
        "product",
        _update_product,
        fields(_PRODUCT, name=Text(), default_price=Text()),
    ),
    Route("DELETE", "/v1/products/{id}", "product", _delete_product),
    Route(
        "POST",
        "/v1/prices",
        "plan",
        _create_price,
        fields(
            _PRICE,
            {"currency*": Text()},
            product=Text(),
            product_data=_INLINE_PRODUCT,
            recurring=_RECURRING,
            **BILLING,
        ),
    ),
    Route(
        "GET",
        "/v1/prices",
        "plan",
        _list_prices,
        fields(
            PAGE,
            active=Flag(),
            product=Text(),
            currency=Text(),
            type=choice("one_time", "recurring"),
            lookup_keys=Rows(Text(), 10),
            created=RANGE,
            recurring=Fields(
                {
                    "interval": _INTERVAL,
                    "meter": Text(),
                    "usage_type": choice("licensed", "metered"),
                }
            ),
        ),
    ),
    Route(
        "GET",
        "/v1/prices/{price}",
        "plan",
        lambda call: call.show(call.account.prices.get(call.id, "price")),
        fields(EXPAND),
    ),
    Route("POST", "/v1/prices/{price}", "plan", _update_price, fields(_PRICE)),
]
