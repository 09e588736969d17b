"""Customers as the v3 API reads, lists and writes them.

Source: OpenMeter, api/v3/openapi.yaml, `list-customers` and `BillingCustomer`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from sandbox.openmeter.meters import ULID
from sandbox.openmeter.problems import Problem
from sandbox.openmeter.v3_documents import wrong

if TYPE_CHECKING:
    from sandbox.openmeter.customers import Customer
    from sandbox.openmeter.sandbox import OpenMeterSandbox

_V1_NAMES: Final = {
    "name": "name",
    "key": "key",
    "description": "description",
    "primary_email": "primaryEmail",
    "currency": "currency",
    "labels": "metadata",
}


def customer_by_id(sandbox: OpenMeterSandbox, customer: str) -> Customer:
    """A customer, deleted or not, by its ULID: v3's paths take no key. Raises Problem (404)."""
    try:
        found = sandbox.customer(customer) if ULID.fullmatch(customer) else None
    except Problem:
        found = None
    if found is None or found.id != customer:
        raise Problem(404, "The requested entity was not found")
    return found


def customer_document(customer: Customer) -> dict[str, object]:
    """The customer as v3 shows it; a customer without a key has an empty one."""
    v1 = customer.document()
    document = {
        "id": customer.id,
        "key": customer.key or "",
        "created_at": v1["createdAt"],
        "updated_at": v1["updatedAt"],
        **{name: v1[of_v1] for name, of_v1 in _V1_NAMES.items() if of_v1 in v1},
    }
    if customer.subject_keys:
        document["usage_attribution"] = {"subject_keys": list(customer.subject_keys)}
    if "deletedAt" in v1:
        document["deleted_at"] = v1["deletedAt"]
    return document


def read_customer(document: object, *, key: str = "") -> dict[str, object]:
    """The body of a creation, or of a replacement that keeps the `key`, in the words of v1.

    Raises Problem (400), unlike OpenMeter also for a billing address.
    """
    names = (*(name for name in _V1_NAMES if not key or name != "key"), "usage_attribution")
    if not isinstance(document, dict):
        wrong("", "value must be an object", "type")
    for name in document:
        if name not in names:
            wrong(name, f'property "{name}" is unsupported', "additionalProperties")
    for name in ("name",) if key else ("name", "key"):
        if name not in document:
            wrong(name, f'property "{name}" is missing', "required")
    body = {_V1_NAMES[name]: value for name, value in document.items() if name in _V1_NAMES}
    if "usage_attribution" in document:
        body["usageAttribution"] = {"subjectKeys": _subject_keys(document["usage_attribution"])}
    return {**body, **({"key": key} if key else {})}


def _subject_keys(attribution: Any) -> list[str]:
    if not isinstance(attribution, Mapping) or set(attribution) != {"subject_keys"}:
        wrong("usage_attribution", "value must be an object of subject_keys", "type")
    keys = attribution["subject_keys"]
    if not isinstance(keys, list) or not all(isinstance(key, str) and key for key in keys):
        wrong("usage_attribution.subject_keys", "value must be an array of texts", "type")
    return list(keys)
