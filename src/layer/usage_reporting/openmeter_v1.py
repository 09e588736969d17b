"""OpenMeter's v1 API: meters are named by their slug, and values are JSON numbers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode

import httpx

from usage_reporting.errors import (
    OpenMeterUnavailableError,
    RefusedError,
    UnknownCustomerError,
    UnknownMeterError,
)
from usage_reporting.openmeter_dialect import NO_NUMBER, OpenMeterCustomer, Query, Row, instant
from usage_reporting.openmeter_http import OpenMeterHttp, Refusal
from usage_reporting.windows import rfc3339

CUSTOMERS_A_PAGE = 1000
"""The most that OpenMeter gives at once."""
MOST_SOUGHT = 10
"""Customers that are sought by themselves where a list lacks them; if it is more, the list is believed."""


class OpenMeterV1:
    """The dialect of `url`/api/v1; see `Dialect`."""

    def __init__(self, url: str, http: OpenMeterHttp) -> None:
        self._base = f"{url}/api/v1"
        self._http = http

    async def aggregation(self, meter: str) -> str:
        """How the meter aggregates, in capitals."""
        answer = await self._http.json_object("GET", f"{self._base}/meters/{meter}", _refusal_of(meter))
        return str(answer.get("aggregation", "")).upper()

    async def slugs(self) -> list[str]:
        """The slugs of all meters."""
        return [str(one["slug"]) for one in await self._list("meters")]

    async def subjects(self, meter: str) -> frozenset[str]:
        """The subjects that ever had an event of the meter's type."""
        url = f"{self._base}/meters/{meter}/subjects"
        return frozenset(str(one) for one in await self._http.json_array(url, _refusal_of(meter)))

    async def newest_events(self) -> list[dict[str, Any]]:
        """Up to 100 events of the last three days."""
        return [one for one in await self._list("events") if isinstance(one, dict)]

    async def rows(self, query: Query) -> list[Row]:
        """The rows of a query."""
        body: dict[str, Any] = {
            "from": rfc3339(query.start),
            "to": rfc3339(query.end),
            "filterCustomerId" if query.by_customer else "subject": list(query.subjects),
        }
        if query.by_hour:
            body["windowSize"] = "HOUR"
        url = f"{self._base}/meters/{query.meter}/query"
        answer = await self._http.json_object("POST", url, _refusal_of(query.meter), body)
        try:
            return [_row(row, "customerId" if query.by_customer else "subject") for row in answer["data"]]
        except (KeyError, TypeError, ValueError) as error:
            raise OpenMeterUnavailableError(f"OpenMeter answered a query with odd data: {error}") from error

    async def customers(self, keys: Sequence[str]) -> list[OpenMeterCustomer]:
        """The customers with these keys: by a list of all, or one by one where that takes fewer calls.

        No call takes several keys. Who is not in the list may have slipped from one page to another.
        """
        listed: list[OpenMeterCustomer] = []
        if len(keys) > 1:
            listed, others = await self._customer_page(1)
            if others <= len(keys):
                pages = await asyncio.gather(*(self._customer_page(2 + number) for number in range(others)))
                listed += [one for page, _ in pages for one in page]
        missing = set(keys) - {one.key for one in listed}
        if len(keys) > 1 and others <= len(keys) and len(missing) > MOST_SOUGHT:
            return listed
        sought = await asyncio.gather(*(self._with_key(key) for key in sorted(missing)))
        return [*listed, *(one for some in sought for one in some)]

    async def _with_key(self, key: str) -> list[OpenMeterCustomer]:
        """Those that have a text in their keys, the one with just this key among them."""
        found, others = await self._customer_page(1, key=key)
        for number in range(others):
            if any(one.key == key for one in found):
                break
            found += (await self._customer_page(2 + number, key=key))[0]
        return found

    async def _customer_page(self, number: int, **filters: str) -> tuple[list[OpenMeterCustomer], int]:
        """A page of the customers that have a key, and how many pages follow on it."""
        asked = {**filters, "orderBy": "id", "pageSize": CUSTOMERS_A_PAGE, "page": number}
        url = f"{self._base}/customers?{urlencode(asked)}"
        answer = await self._http.json_object("GET", url, _refusal_of_list("customers"))
        try:
            pages = -(-int(answer["totalCount"]) // CUSTOMERS_A_PAGE)
            return [_customer(one) for one in answer["items"] if one.get("key")], max(pages - number, 0)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise OpenMeterUnavailableError(f"OpenMeter answered with odd customers: {error!r}") from error

    async def _list(self, path: str) -> list[Any]:
        return await self._http.json_array(f"{self._base}/{path}", _refusal_of_list(path))


def _customer(one: dict[str, Any]) -> OpenMeterCustomer:
    subjects = (one.get("usageAttribution") or {}).get("subjectKeys") or ()
    return OpenMeterCustomer(str(one["id"]), str(one["key"]), tuple(str(subject) for subject in subjects))


def _row(row: dict[str, Any], name: str) -> Row:
    subject = row[name]
    start = instant(row["windowStart"])
    return Row(subject if isinstance(subject, str) else "", start, _value(row["value"]))


def _value(value: object) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        return NO_NUMBER
    return Decimal(value)


def _refusal_of_list(path: str) -> Refusal:
    def refusal(response: httpx.Response) -> RefusedError:
        return RefusedError(
            f"OpenMeter answers {response.status_code} to /api/v1/{path}; OPENMETER_URL must be the base "
            "address of an OpenMeter with the v1 API"
        )

    return refusal


def _refusal_of(meter: str) -> Refusal:
    def refusal(response: httpx.Response) -> RefusedError:
        detail = _detail(response)
        if response.status_code == 404 and "customer with id" in detail:
            return UnknownCustomerError(f"OpenMeter refuses the query of meter {meter!r} (404): {detail}")
        if response.status_code == 404:
            return UnknownMeterError(
                f"OpenMeter has no meter {meter!r} (404); create it or correct om_meter_id"
            )
        return RefusedError(
            f"OpenMeter refuses the query of meter {meter!r} ({response.status_code}): {detail}"
        )

    return refusal


def _detail(response: httpx.Response) -> str:
    try:
        problem = response.json()
        return str(problem.get("detail") or problem.get("title") or "")
    except (ValueError, AttributeError):
        return ""
