"""Customers: whose usage an event counts as, by its subject."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from sandbox.openmeter.instants import local_text
from sandbox.openmeter.problems import Problem, invalid, invalid_body, invalid_parameter, not_found
from sandbox.openmeter.values import ulid

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

LONGEST_KEY: Final = 256
_LONGEST: Final = {"name": 256, "key": LONGEST_KEY, "description": 1024}
_TEXTS: Final = ("name", "key", "description", "primaryEmail", "currency")
_ADDRESS: Final = ("country", "postalCode", "state", "city", "line1", "line2", "phoneNumber")


@dataclass(frozen=True, slots=True)
class Customer:
    """A customer; times are UTC unix seconds."""

    id: str
    name: str
    created_at: int
    updated_at: int
    key: str | None = None
    subject_keys: tuple[str, ...] = ()
    optional: tuple[tuple[str, Any], ...] = ()
    """Description, e-mail address, currency, billing address, metadata: what was set of them."""
    deleted_at: int | None = None

    @property
    def subjects(self) -> tuple[str, ...]:
        """The subjects whose events are the customer's: its key, too, but not its id.

        Source: OpenMeter, `CustomerUsageAttribution.GetValues`.
        """
        return (*(() if self.key is None else (self.key,)), *self.subject_keys)

    def document(self) -> dict[str, object]:
        """The customer as the v1 API shows it; what is not set is left out."""
        document: dict[str, object] = {
            "id": self.id,
            "name": self.name,
            "createdAt": local_text(self.created_at),
            "updatedAt": local_text(self.updated_at),
            **dict(self.optional),
        }
        if self.key is not None:
            document["key"] = self.key
        if self.subject_keys:
            document["usageAttribution"] = {"subjectKeys": list(self.subject_keys)}
        if self.deleted_at is not None:
            document["deletedAt"] = local_text(self.deleted_at)
        return document


class Customers:
    """The customers of one OpenMeter."""

    def __init__(self) -> None:
        self._by_id: dict[str, Customer] = {}
        self._random = random.Random(1)

    def create(self, document: object, now: int) -> Customer:
        """Add the customer that a request body describes. Raises Problem (400, 409)."""
        body = _check_document(document)
        self._check_conflicts(body, None)
        customer = _described(body, Customer(ulid(now, self._random), "", now, now))
        self._by_id[customer.id] = customer
        return customer

    def replace(self, id_or_key: str, document: object, now: int) -> Customer:
        """Put what a request body describes in a customer's place. Raises Problem (400, 404, 409, 412)."""
        body = _check_document(document)
        customer = self._living(id_or_key)
        self._check_conflicts(body, customer)
        self._by_id[customer.id] = replaced = replace(_described(body, customer), updated_at=now)
        return replaced

    def delete(self, id_or_key: str, now: int) -> None:
        """Hide a customer, and free its key and subjects. Raises Problem (400, 404, 412)."""
        customer = self._living(id_or_key)
        self._by_id[customer.id] = replace(customer, deleted_at=now, updated_at=now)

    def get(self, id_or_key: str) -> Customer:
        """A customer by its id, deleted or not, or by its key, if it lives. Raises Problem (400, 404)."""
        if not 1 <= len(id_or_key) <= LONGEST_KEY:
            invalid_parameter("customerIdOrKey", "path", f"string length must be 1 to {LONGEST_KEY}")
        if customer := self._by_id.get(id_or_key):
            return customer
        for customer in self._all(include_deleted=False):
            if customer.key == id_or_key:
                return customer
        raise not_found(f"customer with id or key {id_or_key} not found in default namespace")

    def listed(
        self, contains: Mapping[str, str | None], *, order_by: str, is_descending: bool, include_deleted: bool
    ) -> list[Customer]:
        """Those that have these texts in their key, name, e-mail address or a subject, in any case."""

        def matches(customer: Customer) -> bool:
            values: dict[str, Sequence[str]] = {
                "key": (customer.key or "",),
                "name": (customer.name,),
                "primaryEmail": (dict(customer.optional).get("primaryEmail", ""),),
                "subject": customer.subject_keys,
            }
            return all(
                any(text.casefold() in value.casefold() for value in values[name])
                for name, text in contains.items()
                if text is not None
            )

        found = [one for one in self._all(include_deleted=include_deleted) if matches(one)]
        by_id = order_by == "id"
        return sorted(found, key=lambda one: one.id if by_id else one.name, reverse=is_descending)

    def asked(self, ids: Iterable[str], *, include_deleted: bool = False) -> list[Customer]:
        """The customers of a query's filter, by name. Raises Problem (404) for the first that is not there.

        Source: OpenMeter, `getFilterCustomer`.
        """
        found: dict[str, Customer] = {}
        for customer_id in ids:
            customer = self._by_id.get(customer_id)
            if customer is None or (customer.deleted_at is not None and not include_deleted):
                raise not_found(f"customer with id {customer_id} not found")
            found[customer_id] = customer
        return sorted(found.values(), key=lambda one: one.name)

    def _all(self, *, include_deleted: bool) -> list[Customer]:
        return [one for one in self._by_id.values() if include_deleted or one.deleted_at is None]

    def _living(self, id_or_key: str) -> Customer:
        customer = self.get(id_or_key)
        if customer.deleted_at is not None:
            text = f"customer is deleted [namespace=default customer.id={customer.id}]"
            raise Problem(412, f"precondition failed error: {text}")
        return customer

    def _check_conflicts(self, body: Mapping[str, Any], own: Customer | None) -> None:
        """The rules of OpenMeter's customer adapter: keys and subjects are the living customers' own."""
        others = [one for one in self._all(include_deleted=False) if own is None or one.id != own.id]
        key, subject_keys = body.get("key"), _subject_keys(body)
        if key in self._by_id:
            raise _conflict(f"key {key} overlaps with id of another customer")
        for other in others:
            if key is not None and key in other.subject_keys:
                raise _conflict(f"key {key} overlaps with subject of another customer: {other.id}")
        if key is not None and any(other.key == key for other in others):
            raise _conflict(f'key "{key}" is already used by an another customer in the namespace default')
        taken = {subject for other in others for subject in other.subject_keys}
        if taken.intersection(subject_keys) or len(set(subject_keys)) < len(subject_keys):
            listed = ", ".join(subject_keys)
            raise _conflict(
                f"one or multiple subject keys of [{listed}] are already associated with an different "
                "customer in the namespace default"
            )


def _conflict(text: str) -> Problem:
    return Problem(409, f"conflict error: {text}")


def _described(body: Mapping[str, Any], customer: Customer) -> Customer:
    optional = {
        name: body[name]
        for name in ("description", "primaryEmail", "currency", "billingAddress", "metadata")
        if body.get(name)
    }
    return replace(
        customer,
        name=body["name"],
        key=body.get("key"),
        subject_keys=tuple(sorted(_subject_keys(body))),
        optional=tuple(optional.items()),
    )


def _subject_keys(body: Mapping[str, Any]) -> list[str]:
    return list((body.get("usageAttribution") or {}).get("subjectKeys", ()))


def _check_document(document: object) -> dict[str, Any]:
    """The body against the schema CustomerCreate; unlike OpenMeter, unknown fields are refused."""
    if not isinstance(document, dict):
        invalid_body("/", "value must be an object")
    for name, value in document.items():
        _check_field(name, value)
    if "name" not in document:
        invalid_body("/name", 'property "name" is missing')
    if not document.get("key") and not _subject_keys(document):
        invalid("either key or usageAttribution.subjectKeys must be provided")
    return document


def _check_field(name: str, value: object) -> None:
    if name == "usageAttribution":
        _check_attribution(value)
    elif name == "billingAddress":
        _check_texts(name, value, _ADDRESS)
    elif name == "metadata":
        if value is not None:
            _check_texts(name, value, None)
    elif name not in _TEXTS:
        invalid_body(f"/{name}", f'property "{name}" is unsupported')
    elif not isinstance(value, str):
        invalid_body(f"/{name}", "value must be a string")
    elif name in ("name", "key") and not value:
        invalid_body(f"/{name}", "minimum string length is 1")
    elif len(value) > _LONGEST.get(name, len(value)):
        invalid_body(f"/{name}", f"maximum string length is {_LONGEST[name]}")
    elif name == "currency" and not re.fullmatch("[A-Z]{3}", value):
        invalid_body("/currency", 'string doesn\'t match the regular expression "^[A-Z]{3}$"')


def _check_attribution(value: object) -> None:
    if not isinstance(value, dict) or not set(value) <= {"subjectKeys"}:
        invalid_body("/usageAttribution", "value must be an object of subjectKeys")
    keys = value.get("subjectKeys")
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        invalid_body("/usageAttribution/subjectKeys", "value must be an array of strings")
    if not all(keys):
        invalid_body("/usageAttribution/subjectKeys", "minimum string length is 1")


def _check_texts(name: str, value: object, allowed: Sequence[str] | None) -> None:
    if not isinstance(value, dict) or not all(isinstance(one, str) for one in value.values()):
        invalid_body(f"/{name}", "value must be an object of strings")
    for key in value:
        if allowed is not None and key not in allowed:
            invalid_body(f"/{name}/{key}", f'property "{key}" is unsupported')
