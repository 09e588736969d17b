"""Reads OpenMeter: hours and totals of many subjects in one query, whichever version of its API is spoken."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import httpx

from usage_reporting.credentials import Credentials
from usage_reporting.errors import OpenMeterUnavailableError, RefusedError, UnknownCustomerError
from usage_reporting.openmeter_customers import OpenMeterCustomers
from usage_reporting.openmeter_dialect import Dialect, Query, Row
from usage_reporting.openmeter_http import OpenMeterHttp
from usage_reporting.openmeter_v1 import OpenMeterV1
from usage_reporting.openmeter_v3 import OpenMeterV3
from usage_reporting.windows import HOUR, floor_hour, query_windows

MOST_SUBJECTS = 100

ADDITIVE = frozenset({"SUM", "COUNT"})
FALLS_NATURALLY = frozenset({"AVG", "MIN", "LATEST"})

_METER = re.compile(r"[a-z0-9]+(?:_[a-z0-9]+)*|[0-7][0-9A-HJKMNP-TV-Z]{25}")

_DIALECTS: dict[str, type[OpenMeterV1 | OpenMeterV3]] = {"v1": OpenMeterV1, "v3": OpenMeterV3}

Hours = dict[str, dict[int, Decimal]]
_Part = tuple[int, int, bool]


@dataclass(frozen=True, slots=True)
class OpenMeterMeter:
    """A meter in OpenMeter."""

    slug: str
    aggregation: str

    def check_adds_up(self) -> None:
        """Raises RefusedError where the values of hours do not add up, for a Stripe meter that sums."""
        if self.aggregation not in ADDITIVE:
            raise RefusedError(
                f"OpenMeter meter {self.slug!r} aggregates by {self.aggregation}, which does not add up "
                "over hours, and its Stripe meter sums; use a Stripe meter with formula 'last', or an "
                "OpenMeter meter of SUM or COUNT"
            )


class OpenMeter:
    """Reads OpenMeter in version `api` of its API, at most `concurrency` queries at once.

    `whole_windows`: ask for hours with full hours as bounds, and for parts of hours by totals. Servers of
    2023 refused a query by hours with other bounds, and servers before March 2025 refused odd seconds.
    Raises OpenMeterUnavailableError when asking again may help, RefusedError when it will not.
    """

    def __init__(
        self,
        url: str,
        credentials: Credentials,
        *,
        api: str = "v1",
        concurrency: int = 2,
        whole_windows: bool = False,
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._url = url
        self.http = OpenMeterHttp(credentials, concurrency=concurrency, transport=transport, sleep=sleep)
        self._dialect: Dialect = _DIALECTS[api](url, self.http)
        self.customers: OpenMeterCustomers | None = None
        self._whole_windows = whole_windows
        self._meters: dict[str, OpenMeterMeter] = {}

    def ask_by_customer(self, clock: Callable[[], float]) -> None:
        """From now on subjects are the keys of OpenMeter's customers, with the usage of all subjects of each.

        Who has a key is believed for some minutes of `clock`, in seconds.
        """
        self.customers = OpenMeterCustomers(self._dialect, clock)

    async def meter(self, slug: str) -> OpenMeterMeter:
        """The meter, asked once a process."""
        if slug not in self._meters:
            if not _METER.fullmatch(slug) or len(slug) > 64:
                raise RefusedError(
                    f"om_meter_id {slug!r} cannot be the slug of an OpenMeter meter; "
                    "it takes lower-case letters, digits and single underscores"
                )
            self._meters[slug] = OpenMeterMeter(slug, await self._dialect.aggregation(slug))
        return self._meters[slug]

    async def slugs(self) -> list[str]:
        """The slugs of all meters, asked afresh."""
        return await self._dialect.slugs()

    async def subjects(self, slug: str) -> frozenset[str]:
        """The subjects that ever had an event of the meter's type."""
        return await self._dialect.subjects(slug)

    async def newest_events(self) -> list[dict[str, Any]]:
        """Up to 100 events of the last three days, each with what OpenMeter has against it."""
        return await self._dialect.newest_events()

    async def hours(self, slug: str, subjects: Sequence[str], start: int, end: int) -> Hours:
        """Usage by subject and UTC hour in [start, end); an hour without usage has no value.

        An hour that [start, end) holds in part has the usage of that part. A value that is not a
        finite number comes back as NaN, so that one bad subject does not stop the others.
        """
        parts = list(_hour_parts(start, end) if self._whole_windows else _parts(start, end))
        answers = await asyncio.gather(*(self._rows(Query(slug, subjects, *part)) for part in parts))
        found: Hours = {}
        for answer in answers:
            for row in answer:
                hours = found.setdefault(row.subject, {})
                hour = floor_hour(row.start)
                hours[hour] = hours[hour] + row.value if hour in hours else row.value
        return found

    async def totals(self, slug: str, subjects: Sequence[str], start: int, end: int) -> dict[str, Decimal]:
        """Usage by subject in exactly [start, end); a subject without usage is missing."""
        rows = await self._rows(Query(slug, subjects, start, end, by_hour=False))
        found = {row.subject: row.value for row in rows}
        if len(found) < len(rows):
            raise OpenMeterUnavailableError("OpenMeter answered a query of totals with parts of them")
        return found

    async def serves(self, api: str) -> bool:
        """Whether the address answers to that version of the API, with the key that there is."""
        try:
            await _DIALECTS[api](self._url, self.http).slugs()
        except (OpenMeterUnavailableError, RefusedError):
            return False
        return True

    async def aclose(self) -> None:
        """Close the connections."""
        await self.http.aclose()

    async def _rows(self, query: Query) -> list[Row]:
        if not 0 < len(query.subjects) <= MOST_SUBJECTS:
            # No subjects at all would ask OpenMeter for the usage of everybody.
            raise ValueError(f"a query takes 1 to {MOST_SUBJECTS} subjects, not {len(query.subjects)}")
        if self.customers is not None:
            return await self._rows_of_customers(query, self.customers)
        wanted = set(query.subjects)
        return [row for row in _named(await self._dialect.rows(query)) if row.subject in wanted]

    async def _rows_of_customers(self, query: Query, customers: OpenMeterCustomers) -> list[Row]:
        """A query whose subjects are keys of customers: OpenMeter knows them by their ids."""
        found = await customers.every(query.subjects)
        key_of = {customer.id: key for key, customer in found.items()}
        try:
            rows = await self._dialect.rows(replace(query, subjects=list(key_of), by_customer=True))
        except UnknownCustomerError:
            customers.forget()
            raise
        return [replace(row, subject=key_of[row.subject]) for row in _named(rows) if row.subject in key_of]


def _named(rows: list[Row]) -> list[Row]:
    """The rows. Raises OpenMeterUnavailableError where one is of nobody.

    OpenMeter answers so where it did not take the subjects from the query: the usage of everybody in one
    row, and of each of them, it would seem, none.
    """
    if any(not row.subject for row in rows):
        raise OpenMeterUnavailableError("OpenMeter answered a query of subjects with usage that names none")
    return rows


def _parts(start: int, end: int) -> Iterator[_Part]:
    for left, right in query_windows(start, end):
        yield left, right, True


def _hour_parts(start: int, end: int) -> Iterator[_Part]:
    """Parts of which those asked by hours have full hours as bounds."""
    first, last = min(floor_hour(start + HOUR - 1), end), max(floor_hour(end), start)
    parts = [(start, first)] if first > last else [(start, first), (last, end)]
    yield from ((left, right, False) for left, right in parts if left < right)
    yield from _parts(first, last)
