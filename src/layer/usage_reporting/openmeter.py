"""OpenMeter's v1 API: hours and totals of many subjects in one query."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import cached_property
from typing import Any

import httpx

from usage_reporting import telemetry
from usage_reporting.amounts import loads
from usage_reporting.backoff import LONGEST_PAUSE_S, pause
from usage_reporting.credentials import Credentials
from usage_reporting.errors import OpenMeterUnavailableError, RefusedError
from usage_reporting.windows import HOUR, floor_hour, query_windows, rfc3339

MOST_SUBJECTS = 100
TRIES = 4
TIMEOUT = httpx.Timeout(20.0, connect=4.0)
KEPT_FOR_S = 20
"""An idle connection is closed before the server, or an address translation on the way, has forgotten it."""

ADDITIVE = frozenset({"SUM", "COUNT"})
FALLS_NATURALLY = frozenset({"AVG", "MIN", "LATEST"})

_METER = re.compile(r"[a-z0-9]+(?:_[a-z0-9]+)*|[0-7][0-9A-HJKMNP-TV-Z]{25}")
_BAD = Decimal("NaN")

Hours = dict[str, dict[int, Decimal]]
_Query = tuple[int, int, str | None]


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
    """Reads OpenMeter, at most `concurrency` queries at once.

    `whole_windows`: ask for hours with full hours as bounds, and for parts of hours by totals. Servers of
    2023 refused a query by hours with other bounds, and servers before March 2025 refused odd seconds.
    Raises OpenMeterUnavailableError when asking again may help, RefusedError when it will not.
    """

    def __init__(
        self,
        url: str,
        credentials: Credentials,
        *,
        concurrency: int = 2,
        whole_windows: bool = False,
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._base = f"{url}/api/v1"
        self._credentials = credentials
        self._limits = httpx.Limits(
            max_connections=concurrency, max_keepalive_connections=concurrency, keepalive_expiry=KEPT_FOR_S
        )
        self._transport = transport
        self._slots = asyncio.Semaphore(concurrency)
        self._sleep = sleep
        self._whole_windows = whole_windows
        self._meters: dict[str, OpenMeterMeter] = {}

    @cached_property
    def _client(self) -> httpx.AsyncClient:
        """Made on first use: it reads all root certificates, and few starts have a question at once."""
        return httpx.AsyncClient(timeout=TIMEOUT, limits=self._limits, transport=self._transport)

    async def meter(self, slug: str) -> OpenMeterMeter:
        """The meter, asked once a process."""
        if slug not in self._meters:
            if not _METER.fullmatch(slug) or len(slug) > 64:
                raise RefusedError(
                    f"om_meter_id {slug!r} cannot be the slug of an OpenMeter meter; "
                    "it takes lower-case letters, digits and single underscores"
                )
            answer = await self._ask("GET", f"meters/{slug}")
            self._meters[slug] = OpenMeterMeter(slug, str(answer.get("aggregation", "")).upper())
        return self._meters[slug]

    async def slugs(self) -> list[str]:
        """The slugs of all meters, asked afresh."""
        return [str(one["slug"]) for one in await self._list("meters")]

    async def subjects(self, slug: str) -> frozenset[str]:
        """The subjects that ever had an event of the meter's type."""
        return frozenset(str(one) for one in await self._list(f"meters/{slug}/subjects"))

    async def newest_events(self) -> list[dict[str, Any]]:
        """Up to 100 events of the last three days, each with what OpenMeter has against it."""
        return [one for one in await self._list("events") if isinstance(one, dict)]

    async def hours(self, slug: str, subjects: Sequence[str], start: int, end: int) -> Hours:
        """Usage by subject and UTC hour in [start, end); an hour without usage has no value.

        An hour that [start, end) holds in part has the usage of that part. A value that is not a
        finite number comes back as NaN, so that one bad subject does not stop the others.
        """
        asked = list(_hour_queries(start, end) if self._whole_windows else _queries(start, end))
        answers = await asyncio.gather(*(self._query(slug, subjects, *query) for query in asked))
        found: Hours = {}
        for answer in answers:
            for row in answer:
                hours = found.setdefault(row.subject, {})
                hour = floor_hour(row.start)
                hours[hour] = hours[hour] + row.value if hour in hours else row.value
        return found

    async def totals(self, slug: str, subjects: Sequence[str], start: int, end: int) -> dict[str, Decimal]:
        """Usage by subject in exactly [start, end); a subject without usage is missing."""
        return {row.subject: row.value for row in await self._query(slug, subjects, start, end, None)}

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _query(
        self, slug: str, subjects: Sequence[str], start: int, end: int, window: str | None
    ) -> list[_Row]:
        if not 0 < len(subjects) <= MOST_SUBJECTS:
            # No subjects at all would ask OpenMeter for the usage of everybody.
            raise ValueError(f"a query takes 1 to {MOST_SUBJECTS} subjects, not {len(subjects)}")
        body: dict[str, Any] = {
            "from": rfc3339(start),
            "to": rfc3339(end),
            "subject": list(subjects),
        }
        if window:
            body["windowSize"] = window
        answer = await self._ask("POST", f"meters/{slug}/query", body)
        wanted = set(subjects)
        try:
            rows = [_Row.from_json(row) for row in answer["data"]]
        except (KeyError, TypeError, ValueError) as error:
            raise OpenMeterUnavailableError(f"OpenMeter answered a query with odd data: {error}") from error
        return [row for row in rows if row.subject in wanted]

    async def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        answer = _read(await self._answer(method, path, body))
        if not isinstance(answer, dict):
            raise OpenMeterUnavailableError("OpenMeter answered with something that is not a JSON object")
        return answer

    async def _list(self, path: str) -> list[Any]:
        answer = _read(await self._answer("GET", path))
        if not isinstance(answer, list):
            raise OpenMeterUnavailableError("OpenMeter answered with something that is not a JSON array")
        return answer

    async def _answer(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> httpx.Response:
        problem = ""
        wait = 0.0
        for attempt in range(TRIES):
            if attempt:
                await self._sleep(wait)
            wait = pause(attempt)
            try:
                response = await self._send(method, path, body)
            except httpx.HTTPError as error:
                problem = f"OpenMeter could not be reached: {type(error).__name__}"
                continue
            if response.is_success:
                return response
            status = response.status_code
            problem = f"OpenMeter answered {status}"
            if status == 429:
                telemetry.turned_away(telemetry.OPENMETER)
            if status in {401, 403}:
                if await asyncio.to_thread(self._credentials.reread):
                    continue
                raise OpenMeterUnavailableError(f"{problem}: it does not accept `openmeter_api_key`")
            if status not in {408, 429} and status < 500:
                raise _refusal(path, response)
            wait = max(wait, _retry_after(response))
        raise OpenMeterUnavailableError(f"{problem}, {TRIES} times")

    async def _send(self, method: str, path: str, body: Mapping[str, Any] | None) -> httpx.Response:
        key = self._credentials.current().openmeter_api_key
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        async with self._slots:
            telemetry.called(telemetry.OPENMETER)
            return await self._client.request(method, f"{self._base}/{path}", json=body, headers=headers)


@dataclass(frozen=True, slots=True)
class _Row:
    subject: str
    start: int
    value: Decimal

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> _Row:
        start = datetime.fromisoformat(row["windowStart"])
        if start.tzinfo is None:
            raise ValueError(f"windowStart {row['windowStart']} has no time zone")
        subject = row["subject"]
        return cls(subject if isinstance(subject, str) else "", int(start.timestamp()), _value(row["value"]))


def _queries(start: int, end: int) -> Iterator[_Query]:
    for left, right in query_windows(start, end):
        yield left, right, "HOUR"


def _hour_queries(start: int, end: int) -> Iterator[_Query]:
    """Queries of which those by hours have full hours as bounds."""
    first, last = min(floor_hour(start + HOUR - 1), end), max(floor_hour(end), start)
    parts = [(start, first)] if first > last else [(start, first), (last, end)]
    yield from ((left, right, None) for left, right in parts if left < right)
    yield from _queries(first, last)


def _value(value: object) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        return _BAD
    return Decimal(value)


def _read(response: httpx.Response) -> Any:
    try:
        return loads(response.content)
    except ValueError:
        return None


def _refusal(path: str, response: httpx.Response) -> RefusedError:
    _, _, below = path.partition("/")
    slug = below.partition("/")[0]
    if not slug:
        return RefusedError(
            f"OpenMeter answers {response.status_code} to /api/v1/{path}; OPENMETER_URL must be the base "
            "address of an OpenMeter with the v1 API"
        )
    if response.status_code == 404:
        return RefusedError(f"OpenMeter has no meter {slug!r} (404); create it or correct om_meter_id")
    try:
        problem = response.json()
        detail = problem.get("detail") or problem.get("title") or ""
    except (ValueError, AttributeError):
        detail = ""
    return RefusedError(f"OpenMeter refuses the query of meter {slug!r} ({response.status_code}): {detail}")


def _retry_after(response: httpx.Response) -> float:
    text = response.headers.get("Retry-After", "")
    return min(float(text), LONGEST_PAUSE_S) if text.isascii() and text.isdigit() else 0.0
