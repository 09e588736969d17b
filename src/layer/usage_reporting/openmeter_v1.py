"""OpenMeter's v1 API: meters are named by their slug, and values are JSON numbers."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import httpx

from usage_reporting.errors import OpenMeterUnavailableError, RefusedError
from usage_reporting.openmeter_dialect import NO_NUMBER, Query, Row, instant
from usage_reporting.openmeter_http import OpenMeterHttp, Refusal
from usage_reporting.windows import rfc3339


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
            "subject": list(query.subjects),
        }
        if query.by_hour:
            body["windowSize"] = "HOUR"
        url = f"{self._base}/meters/{query.meter}/query"
        answer = await self._http.json_object("POST", url, _refusal_of(query.meter), body)
        try:
            return [_row(row) for row in answer["data"]]
        except (KeyError, TypeError, ValueError) as error:
            raise OpenMeterUnavailableError(f"OpenMeter answered a query with odd data: {error}") from error

    async def _list(self, path: str) -> list[Any]:
        def refusal(response: httpx.Response) -> RefusedError:
            return RefusedError(
                f"OpenMeter answers {response.status_code} to /api/v1/{path}; OPENMETER_URL must be the base "
                "address of an OpenMeter with the v1 API"
            )

        return await self._http.json_array(f"{self._base}/{path}", refusal)


def _row(row: dict[str, Any]) -> Row:
    subject = row["subject"]
    start = instant(row["windowStart"])
    return Row(subject if isinstance(subject, str) else "", start, _value(row["value"]))


def _value(value: object) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        return NO_NUMBER
    return Decimal(value)


def _refusal_of(meter: str) -> Refusal:
    def refusal(response: httpx.Response) -> RefusedError:
        if response.status_code == 404:
            return RefusedError(f"OpenMeter has no meter {meter!r} (404); create it or correct om_meter_id")
        try:
            problem = response.json()
            detail = problem.get("detail") or problem.get("title") or ""
        except (ValueError, AttributeError):
            detail = ""
        return RefusedError(
            f"OpenMeter refuses the query of meter {meter!r} ({response.status_code}): {detail}"
        )

    return refusal
