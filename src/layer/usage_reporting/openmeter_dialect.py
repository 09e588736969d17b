"""What a version of OpenMeter's API has to be able to do, and in what form it gives what it read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Protocol

NO_NUMBER = Decimal("NaN")
"""Stands for a value that is not a finite number, so that one bad subject does not stop the others."""


@dataclass(frozen=True, slots=True)
class Query:
    """The usage of a meter in [start, end), UTC seconds; one row a subject, or one a subject and UTC hour.

    Never without subjects: that would ask OpenMeter for the usage of everybody.
    """

    meter: str
    subjects: Sequence[str]
    start: int
    end: int
    by_hour: bool
    by_customer: bool = False
    """Whether `subjects` are the ids of customers, each of whom has one row for all its subjects."""


@dataclass(frozen=True, slots=True)
class OpenMeterCustomer:
    """A customer in OpenMeter, that was not deleted."""

    id: str
    key: str
    subject_keys: tuple[str, ...] = ()
    """The subjects whose usage is the customer's, besides the key."""


@dataclass(frozen=True, slots=True)
class Row:
    """The usage of a subject, or of a customer by its id, in what begins at `start`, UTC seconds.

    No subject is an empty text.
    """

    subject: str
    start: int
    value: Decimal


class Dialect(Protocol):
    """One version of OpenMeter's API: its paths, the form of a query and of its rows, and its refusals.

    All raise OpenMeterUnavailableError when asking again may help, RefusedError when it will not.
    """

    async def aggregation(self, meter: str) -> str:
        """How the meter aggregates, in capitals."""

    async def slugs(self) -> list[str]:
        """The slugs of all meters."""

    async def subjects(self, meter: str) -> frozenset[str]:
        """The subjects that ever had an event of the meter's type."""

    async def newest_events(self) -> list[dict[str, Any]]:
        """Up to 100 events of the last three days, in the form of v1's list."""

    async def customers(self, keys: Sequence[str]) -> list[OpenMeterCustomer]:
        """The customers with these keys, as far as there are such; others may be among them."""

    async def rows(self, query: Query) -> list[Row]:
        """The rows of a query, of whichever subjects OpenMeter answered with.

        Raises UnknownCustomerError where one of the customers is not there.
        """


def instant(text: str) -> int:
    """An RFC 3339 time as UTC seconds. Raises ValueError, and TypeError for what is no text."""
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError(f"{text} has no time zone")
    return int(time.timestamp())
