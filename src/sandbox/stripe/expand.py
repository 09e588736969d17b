"""Expansion of ids into objects (API reference, "Expanding responses")."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sandbox.stripe.account import Json
from sandbox.stripe.errors import StripeError, invalid, malformed

MAX_DEPTH = 4
_EXPANDABLE = {
    "customer": "customers",
    "default_price": "prices",
    "latest_invoice": "invoices",
    "price": "prices",
    "product": "products",
    "subscription": "subscriptions",
    "test_clock": "test_clocks",
}
# Parts that are shown only when they are asked for; those of other prices than tiered ones never.
_HIDDEN = {("price", "tiers"), ("price", "currency_options")}
# Expandable as well, but never set here.
_ALWAYS_NULL = frozenset(
    {
        "application",
        "default_payment_method",
        "default_source",
        "latest_revision",
        "on_behalf_of",
        "pending_setup_intent",
        "schedule",
    }
)
# Parts of an object that may be missing from one and there in the next of a list.
_NULLABLE = frozenset({"parent", "subscription_details"})
# These carry plain ids.
_PLAIN = {("subscription_item", "subscription"), ("line_item", "subscription")}


def check_depth(paths: list[str]) -> None:
    """Raise StripeError (400) for more than four levels, before anything is done."""
    for path in paths:
        if len(path.split(".")) > MAX_DEPTH:
            raise malformed(
                f"You cannot expand more than {MAX_DEPTH} levels of a property. Property: {path}",
                "expand",
            )


def expand(answer: Json, paths: list[str], find: Callable[[str, str], Json]) -> None:
    """Replace ids by objects in place; `find(table, id)` renders one, `find("tiers", id)` a part of a price.

    Raises StripeError (400) for what is no expandable property; by then the request is executed.
    """
    for path in paths:
        _expand(answer, path.split("."), path, find)


def _expand(node: Any, keys: list[str], path: str, find: Callable[[str, str], Json]) -> None:
    if isinstance(node, list):
        for row in node:
            _expand(row, keys, path, find)
    elif isinstance(node, dict) and (node.get("object"), *keys) in _HIDDEN:
        node.update(find(keys[0], node["id"]))
    else:
        _expand_member(node, keys, path, find)


def _expand_member(node: Any, keys: list[str], path: str, find: Callable[[str, str], Json]) -> None:
    key, rest = keys[0], keys[1:]
    if not isinstance(node, dict) or key not in node:
        raise _refusal(path)
    value = node[key]
    if value is None:
        if key not in {*_EXPANDABLE, *_ALWAYS_NULL, *_NULLABLE}:
            raise _refusal(path)
        return
    if isinstance(value, str):
        if key not in _EXPANDABLE or (node.get("object"), key) in _PLAIN:
            raise _refusal(path)
        value = node[key] = find(_EXPANDABLE[key], value)
    elif not rest and key not in _EXPANDABLE:
        raise _refusal(path)
    if rest:
        _expand(value, rest, path, find)


def _refusal(path: str) -> StripeError:
    return invalid(
        f"This property cannot be expanded ({path}). You may want to try expanding another one.",
        "expand",
    )
