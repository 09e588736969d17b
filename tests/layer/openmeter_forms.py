"""The versions of OpenMeter's API as its client meets them, so that a test of the client runs with each."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

import httpx

from tests.layer.answers_in_turn import AnswersInTurn
from tests.layer.builders import NOON, FixedCredentials, Sleeps
from usage_reporting.openmeter import OpenMeter
from usage_reporting.windows import DAY, HOUR, rfc3339

Found = tuple[str | None, int, str]
"""A row: subject, start of its window, value as it is to stand in the answer."""

ULID = "01ARZ3NDEKTSV4RRFFQ69G5FAV"


class Api(AnswersInTurn):
    """A server of OpenMeter."""

    def body(self, number: int = 0) -> dict[str, Any]:
        read: dict[str, Any] = json.loads(self.requests[number].content)
        return read


def problem(status: int, detail: str = "", **headers: str) -> httpx.Response:
    return httpx.Response(status, json={"title": "Problem", "detail": detail}, headers=headers)


def page(*found: dict[str, Any], total: int | None = None, number: int = 1) -> httpx.Response:
    """A page of v3's list of meters."""
    meta = {"page": {"size": 100, "number": number, "total": len(found) if total is None else total}}
    return httpx.Response(200, json={"data": found, "meta": meta})


def v3_meter(key: str, aggregation: str = "sum", meter_id: str = ULID, **more: Any) -> dict[str, Any]:
    return {"id": meter_id, "key": key, "name": key, "aggregation": aggregation, "event_type": "used", **more}


class Form(Protocol):
    """One version: how its answers are written, and what asks it."""

    api: str

    def rows(self, *found: Found) -> httpx.Response:
        """An answer to a query, written as text so that its numbers stand as they are."""

    def granularity(self, body: dict[str, Any]) -> str | None:
        """The windows that a query's body asks for, in v1's word."""

    def served(self, api: Callable[[httpx.Request], Any]) -> Callable[[httpx.Request], Any]:
        """`api`, with all that is asked beside the queries."""


class V1:
    api = "v1"

    def rows(self, *found: Found) -> httpx.Response:
        data = ",".join(
            f'{{"subject":{json.dumps(subject)},"windowStart":"{rfc3339(start)}",'
            f'"windowEnd":"{rfc3339(start + HOUR)}","groupBy":{{}},"value":{value}}}'
            for subject, start, value in found
        )
        return httpx.Response(200, text=f'{{"data":[{data}]}}')

    def granularity(self, body: dict[str, Any]) -> str | None:
        size: str | None = body.get("windowSize")
        return size

    def served(self, api: Callable[[httpx.Request], Any]) -> Callable[[httpx.Request], Any]:
        return api


class V3:
    api = "v3"

    def rows(self, *found: Found) -> httpx.Response:
        data = ",".join(
            f'{{"value":"{value}","from":"{rfc3339(start)}","to":"{rfc3339(start + HOUR)}",'
            f'"dimensions":{json.dumps({"subject": subject})}}}'
            for subject, start, value in found
        )
        return httpx.Response(200, text=f'{{"data":[{data}]}}')

    def granularity(self, body: dict[str, Any]) -> str | None:
        return {"PT1H": "HOUR"}.get(body.get("granularity", ""))

    def served(self, api: Callable[[httpx.Request], Any]) -> Callable[[httpx.Request], Any]:
        """Every key has a meter; the query of key k is asked at an address that holds k's name again."""

        async def answered(request: httpx.Request) -> Any:
            if key := request.url.params.get("filter[key]"):
                return page(v3_meter(key, meter_id=f"ID_OF_{key}"))
            answer = api(request)
            return await answer if asyncio.iscoroutine(answer) else answer

        return answered


def asked[T](
    api: Callable[[httpx.Request], Any],
    work: Callable[[OpenMeter], Coroutine[Any, Any, T]],
    *,
    version: str = "v1",
    url: str = "http://openmeter.test",
    credentials: FixedCredentials | None = None,
    sleeps: Sleeps | None = None,
    concurrency: int = 2,
    whole_windows: bool = False,
) -> T:
    """What `work` gets of an OpenMeter whose requests `api` answers."""

    async def run() -> T:
        openmeter = OpenMeter(
            url,
            credentials or FixedCredentials(),
            api=version,
            concurrency=concurrency,
            whole_windows=whole_windows,
            transport=httpx.MockTransport(api),
            sleep=sleeps or Sleeps(),
        )
        try:
            return await work(openmeter)
        finally:
            await openmeter.aclose()

    return asyncio.run(run())


def hours(form: Form, api: Api, *subjects: str, days: int = 0, **how: Any) -> dict[str, dict[int, Any]]:
    """Hours of the meter m1."""
    end = NOON + (days * DAY or 2 * HOUR)
    return asked(
        form.served(api),
        lambda openmeter: openmeter.hours("m1", subjects or ("a",), NOON, end),
        version=form.api,
        **how,
    )
