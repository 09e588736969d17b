"""OpenMeter's v3 API, the one of Kong's cloud: meters are asked by their ULID, values are decimal texts.

Source: OpenMeter, api/v3/openapi.yaml.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode, urlsplit

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

PAGE = 100
MOST_KEYS = 50
LONGEST_FILTER = 1024
"""What one filter takes. Source: OpenMeter, api/v3/filters/parse.go."""
KEPT_FOR_S = 600
"""How long the ULID of a key is believed: a meter that is deleted and made anew has another one."""

_KONNECT = ".api.konghq.com"
_ULID = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")
_NUMERIC = re.compile(r"-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,3})?")
"""The spec's own numbers have no exponent; one that has is a number all the same."""


@dataclass(frozen=True, slots=True)
class _Meter:
    id: str
    aggregation: str
    read_at: float


class OpenMeterV3:
    """The dialect of v3 at `url`; see `Dialect`. `om_meter_id` may be a meter's key or its ULID."""

    def __init__(self, url: str, http: OpenMeterHttp) -> None:
        self._base = f"{base_address(url)}/openmeter"
        self._http = http
        self._meters: dict[str, _Meter] = {}
        self._asking: dict[str, asyncio.Lock] = {}

    async def aggregation(self, meter: str) -> str:
        """How the meter aggregates, in capitals."""
        return (await self._meter(meter)).aggregation

    async def slugs(self) -> list[str]:
        """The keys of all meters."""
        return [_text(one, "key") async for one in self._list("meters", {"sort": "key"})]

    async def subjects(self, meter: str) -> frozenset[str]:
        """The subjects that the meter ever had usage of: v3 has no list of those with events of its type."""
        rows = await self._query(meter, {"group_by_dimensions": ["subject"]})
        return frozenset(row.subject for row in rows if row.subject)

    async def newest_events(self) -> list[dict[str, Any]]:
        """The newest 100 events, however old, in the form of v1's list."""
        url = f"{self._base}/events?{urlencode({'page[size]': PAGE})}"
        answer = await self._http.json_object("GET", url, self._refusal(url))
        return [_event(one) for one in _data(answer)]

    async def rows(self, query: Query) -> list[Row]:
        """The rows of a query."""
        of_whom = "customer_id" if query.by_customer else "subject"
        body: dict[str, Any] = {
            "from": rfc3339(query.start),
            "to": rfc3339(query.end),
            "group_by_dimensions": [of_whom],
            "filters": {"dimensions": {of_whom: {"in": list(query.subjects)}}},
        }
        if query.by_hour:
            body["granularity"] = "PT1H"
        return await self._query(query.meter, body, of_whom)

    async def customers(self, keys: Sequence[str]) -> list[OpenMeterCustomer]:
        """The customers with these keys, many a call."""
        asked = [("oeq", ",".join(some)) for some in _joined([key for key in keys if _can_be_joined(key)])]
        asked += [("eq", key) for key in keys if not _can_be_joined(key)]
        answers = await asyncio.gather(*(self._customers(how, value) for how, value in asked))
        return [customer for answer in answers for customer in answer]

    async def _customers(self, how: str, value: str) -> list[OpenMeterCustomer]:
        return [
            _customer(one)
            async for one in self._list("customers", {f"filter[key][{how}]": value, "sort": "id"})
            if one.get("key") and not one.get("deleted_at")
        ]

    async def _query(self, meter: str, body: dict[str, Any], of_whom: str = "subject") -> list[Row]:
        refusal = _refusal_of(meter) if of_whom == "subject" else _refusal_of_customers(meter)
        known = await self._meter(meter)
        try:
            answer = await self._http.json_object("POST", self._query_of(known), refusal, body)
        except (UnknownMeterError, UnknownCustomerError):
            # A meter that was deleted and made anew has the same key, and a draft may not have ten minutes.
            anew = await self._meter(meter, instead_of=known)
            if anew.id == known.id:
                raise
            answer = await self._http.json_object("POST", self._query_of(anew), refusal, body)
        try:
            return [_row(row, of_whom) for row in answer["data"]]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise OpenMeterUnavailableError(f"OpenMeter answered a query with odd data: {error!r}") from error

    def _query_of(self, meter: _Meter) -> str:
        return f"{self._base}/meters/{meter.id}/query"

    async def _meter(self, name: str, *, instead_of: _Meter | None = None) -> _Meter:
        """The meter, asked once by all who want it at a time; `instead_of` is believed no more."""
        async with self._asking.setdefault(name, asyncio.Lock()):
            known = self._meters.get(name)
            # This goes on while Lambda has stopped the function, as `monotonic` need not.
            now = time.time()
            if known is None or known is instead_of or not 0 <= now - known.read_at < KEPT_FOR_S:
                found = await (self._by_id(name) if _ULID.fullmatch(name) else self._by_key(name))
                aggregation = _text(found, "aggregation").upper()
                known = self._meters[name] = _Meter(_text(found, "id"), aggregation, now)
            return known

    async def _by_id(self, meter: str) -> dict[str, Any]:
        return await self._http.json_object("GET", f"{self._base}/meters/{meter}", _refusal_of(meter))

    async def _by_key(self, key: str) -> dict[str, Any]:
        found = [
            one
            async for one in self._list("meters", {"filter[key]": key})
            if one.get("key") == key and not one.get("deleted_at")
        ]
        if not found:
            raise _unknown(key)
        if len(found) > 1:
            ids = ", ".join(_text(one, "id") for one in found)
            raise RefusedError(
                f"OpenMeter has {len(found)} meters {key!r} ({ids}); put the id of one into om_meter_id"
            )
        return found[0]

    async def _list(self, path: str, asked: dict[str, str]) -> AsyncIterator[dict[str, Any]]:
        number = seen = 0
        total = 1
        while seen < total:
            number += 1
            page = urlencode({**asked, "page[size]": PAGE, "page[number]": number})
            url = f"{self._base}/{path}?{page}"
            answer = await self._http.json_object("GET", url, self._refusal(url))
            found = _data(answer)
            if not found:
                return
            for one in found:
                yield one
            seen += len(found)
            total = _total(answer)

    def _refusal(self, url: str) -> Refusal:
        def refusal(response: httpx.Response) -> RefusedError:
            if response.status_code == 400:
                return RefusedError(f"OpenMeter refuses a list (400): {_reason(response)}")
            return RefusedError(
                f"OpenMeter answers {response.status_code} to {urlsplit(url).path}; OPENMETER_URL must be "
                "the base address of an OpenMeter with the v3 API"
            )

        return refusal


def base_address(url: str) -> str:
    """Where v3 is: Konnect has it at /v3, a server of one's own at /api/v3.

    An address that ends in /v3 is taken as it is. Source: api/v3/openapi.yaml, `servers`.
    """
    if url.endswith("/v3"):
        return url
    return f"{url}/v3" if is_konnect(url) else f"{url}/api/v3"


def is_konnect(url: str) -> bool:
    """Whether the address is Kong's cloud, which serves v3 alone."""
    return (urlsplit(url).hostname or "").endswith(_KONNECT)


def _customer(one: dict[str, Any]) -> OpenMeterCustomer:
    try:
        subjects = (one.get("usage_attribution") or {}).get("subject_keys") or ()
        return OpenMeterCustomer(str(one["id"]), str(one["key"]), tuple(str(subject) for subject in subjects))
    except (KeyError, TypeError, AttributeError) as error:
        raise OpenMeterUnavailableError(f"OpenMeter answered with odd customers: {error!r}") from error


def _can_be_joined(key: str) -> bool:
    """Whether a key may stand in a list: OpenMeter divides it at commas, and trims what is between."""
    return "," not in key and key == key.strip()


def _joined(keys: Sequence[str]) -> Iterator[list[str]]:
    """Keys by as many as one filter takes."""
    some: list[str] = []
    for key in keys:
        if some and (len(some) == MOST_KEYS or len(",".join([*some, key]).encode()) > LONGEST_FILTER):
            yield some
            some = []
        some.append(key)
    if some:
        yield some


def _row(row: dict[str, Any], of_whom: str) -> Row:
    subject = row["dimensions"][of_whom]
    start = instant(row["from"])
    return Row(subject if isinstance(subject, str) else "", start, _value(row["value"]))


def _value(value: object) -> Decimal:
    return Decimal(value) if isinstance(value, str) and _NUMERIC.fullmatch(value) else NO_NUMBER


def _event(one: dict[str, Any]) -> dict[str, Any]:
    errors = one.get("validation_errors")
    said = [str(error.get("message", "")) for error in errors or () if isinstance(error, dict)]
    return {
        "event": one.get("event"),
        "ingestedAt": one.get("ingested_at"),
        "storedAt": one.get("stored_at"),
        "validationError": "; ".join(said) or None,
    }


def _data(answer: dict[str, Any]) -> list[dict[str, Any]]:
    data = answer.get("data")
    if not isinstance(data, list) or not all(isinstance(one, dict) for one in data):
        raise OpenMeterUnavailableError("OpenMeter answered a list with odd data")
    return data


def _total(answer: dict[str, Any]) -> int:
    try:
        return int(answer["meta"]["page"]["total"])
    except (KeyError, TypeError, ValueError) as error:
        raise OpenMeterUnavailableError("OpenMeter answered a list without its total") from error


def _text(one: dict[str, Any], name: str) -> str:
    text = one.get(name)
    if not isinstance(text, str) or not text:
        raise OpenMeterUnavailableError(f"OpenMeter answered with a meter that has no {name}")
    return text


def _refusal_of(meter: str) -> Refusal:
    def refusal(response: httpx.Response) -> RefusedError:
        if response.status_code == 404:
            return _unknown(meter)
        return RefusedError(
            f"OpenMeter refuses the query of meter {meter!r} ({response.status_code}): {_reason(response)}"
        )

    return refusal


def _refusal_of_customers(meter: str) -> Refusal:
    """A 404 may mean the meter as well as a customer: then nobody's id is believed any more."""

    def refusal(response: httpx.Response) -> RefusedError:
        if response.status_code == 404:
            return UnknownCustomerError(
                f"OpenMeter has no meter {meter!r}, or not all of the customers that it gave before (404); "
                "it is asked for them anew"
            )
        return _refusal_of(meter)(response)

    return refusal


def _unknown(meter: str) -> RefusedError:
    return UnknownMeterError(f"OpenMeter has no meter {meter!r} (404); create it or correct om_meter_id")


def _reason(response: httpx.Response) -> str:
    """What the problem document says; the parameters that are wrong say most."""
    try:
        problem = response.json()
        wrong = [
            f"{one.get('field')}: {one.get('reason')}" for one in problem.get("invalid_parameters") or ()
        ]
        return "; ".join(wrong) or str(problem.get("detail") or problem.get("title") or "")
    except (ValueError, AttributeError, TypeError):
        return ""
