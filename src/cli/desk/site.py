"""The console's pages: plain HTML, complete without a script, over a Desk."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from cli.desk import words
from cli.desk.desk import PAGE, Desk, Query
from cli.desk.drawings import day_points, points_of, sends_drawing, usage_drawing
from cli.desk.guard import FormToken, Guard
from cli.desk.periods import Condition
from cli.desk.reading import Reading
from cli.desk.traffic import STATES
from cli.errors import explain
from sandbox.playground import Playground, PlaygroundError
from usage_reporting.windows import DAY, HOUR, settled_until

_ID = re.compile(r"[A-Za-z]+_[A-Za-z0-9_]{1,100}")
_HERE = Path(__file__).parent
_MOST_TEXT = 200
_MOST_FORM = 10_000
_MOST_DIGITS = 10
_AGO = {"now": 0, "an hour ago": HOUR, "a day ago": DAY}

# What every period is being looked at for; what Stripe's summary shows is asked of the page alone.
_ASKED_FOR = [one for one in Condition if one not in {Condition.READING, Condition.DIFFERS}]

Act = Callable[[Playground, Mapping[str, str]], str]


def create_site(opened: AbstractAsyncContextManager[Desk], playground: Playground | None = None) -> ASGIApp:
    """The pages over a desk; what steers the sandbox is only there with a playground."""
    pages = _Pages(playground)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        async with opened as desk:
            pages.desk = desk
            try:
                yield
            finally:
                await desk.close()

    routes: list[BaseRoute] = [
        Route("/", pages.periods),
        Route("/traffic", pages.traffic),
        Route("/customers/{id}", pages.evidence),
        Route("/invoices/{id}", pages.evidence),
        Mount("/static", StaticFiles(directory=_HERE / "static")),
    ]
    if playground is not None:
        routes += [
            Route("/sandbox", pages.sandbox),
            Route("/sandbox/{act}", pages.act, methods=["POST"]),
        ]
    handlers = {HTTPException: pages.refuse, Exception: pages.fail}
    return Guard(Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers))


class _Pages:
    """Each page asks the desk, and renders what it knows by now."""

    desk: Desk

    def __init__(self, playground: Playground | None) -> None:
        self._playground = playground
        self._token = FormToken()
        self._notice = ""
        self._templates = Environment(
            loader=FileSystemLoader(_HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters |= {
            "units": words.units,
            "moment": words.moment,
            "time_left": words.time_left,
        }

    async def periods(self, request: Request) -> Response:
        """What still takes usage, the most urgent first."""
        query = _query_of(request)
        shown = await self.desk.show(query)
        links = {
            "previous": _link(query, query.page - 1) if query.page > 1 else "",
            "next": _link(query, query.page + 1) if query.page < shown.pages else "",
        }
        found = self.desk.periods.value
        return self._page(
            request,
            "periods.html",
            shown=shown,
            links=links,
            conditions=_ASKED_FOR,
            found=found,
            page_size=PAGE,
        )

    async def traffic(self, request: Request) -> Response:
        """What was sent, refused, billed and judged."""
        traffic = await self.desk.traffic.fresh()
        verdicts = await self.desk.verdicts.fresh()
        return self._page(
            request,
            "traffic.html",
            traffic=traffic,
            verdicts=verdicts,
            states=STATES,
            sends_drawing=sends_drawing,
            day_points=day_points,
            drawing=usage_drawing,
        )

    async def evidence(self, request: Request) -> Response:
        """How each number on a customer's invoices, or on one invoice, came about."""
        what = request.path_params["id"]
        prefix = "cus_" if request.url.path.startswith("/customers/") else "in_"
        if not _ID.fullmatch(what) or not what.startswith(prefix):
            raise HTTPException(404, f"{what[:_MOST_TEXT]!r} is the id of no such thing of Stripe's")
        reading = self.desk.evidence(what)
        found = await reading.fresh()
        return self._page(
            request,
            "evidence.html",
            also={"The evidence": reading},
            what=what,
            found=found,
            reading=reading,
            points_of=points_of,
            drawing=usage_drawing,
        )

    async def sandbox(self, request: Request) -> Response:
        """The levers of the demo."""
        found = await self.desk.periods.fresh()
        used = {(one.customer_meter.subject, one.meter): one for one in found.periods} if found else {}
        return self._page(request, "sandbox.html", ago=list(_AGO), used=used.values())

    async def act(self, request: Request) -> Response:
        """Pull a lever, and go back to the page that it was on."""
        form = await _form_of(request)
        act = _ACTS.get(request.path_params["act"])
        if act is None or self._playground is None:
            raise HTTPException(404, "there is no such lever")
        if not self._token.fits(form.get("token", "")):
            raise HTTPException(403, "the page is from before the console was started anew: reload it")
        try:
            self._notice = await run_in_threadpool(act, self._playground, form)
        except PlaygroundError as error:
            self._notice = f"Not done: {error}"
        self.desk.forget()
        back = form.get("back", "/")
        is_ours = back.startswith("/") and not back.startswith(("//", "/\\"))
        return RedirectResponse(back if is_ours else "/", 303)

    async def refuse(self, request: Request, error: Exception) -> Response:
        """A page that says what was wrong with the question."""
        status = error.status_code if isinstance(error, HTTPException) else 400
        detail = error.detail if isinstance(error, HTTPException) else "it cannot be read"
        page = self._page(request, "error.html", status=status, said=detail)
        page.headers.update((isinstance(error, HTTPException) and error.headers) or {})
        return page

    async def fail(self, request: Request, error: Exception) -> Response:
        """A page that says what went wrong, in one line."""
        said, _ = explain(error)
        return self._page(request, "error.html", status=500, said=said)

    def _page(
        self,
        request: Request,
        template: str,
        status: int = 200,
        also: Mapping[str, Reading[Any]] | None = None,
        **shown: Any,
    ) -> Response:
        notice = ""
        if "x-live" not in request.headers:
            notice, self._notice = self._notice, ""
        desk = self.desk
        text = self._templates.get_template(template).render(
            **shown,
            status=status,
            now=desk.parts.clock(),
            readings={**desk.readings, **(also or {})},
            is_shadow=desk.is_shadow,
            playground=self._playground,
            token=self._token.value,
            notice=notice,
            here=request.url.path + (f"?{request.url.query}" if request.url.query else ""),
            path=request.url.path,
        )
        return HTMLResponse(text, status)


async def _form_of(request: Request) -> dict[str, str]:
    given = b""
    async for part in request.stream():  # what it says of its length need not be so
        given += part
        if len(given) > _MOST_FORM:
            raise HTTPException(413, "a form of this page is shorter")
    try:
        return dict(parse_qsl(given.decode(), max_num_fields=20))
    except ValueError:
        raise HTTPException(400, "a form of this page reads otherwise") from None


def _query_of(request: Request) -> Query:
    given = request.query_params
    page = given.get("page", "1")
    condition = given.get("condition", "")
    return Query(
        text=given.get("text", "").strip()[:_MOST_TEXT],
        condition=condition if condition in {str(one) for one in _ASKED_FOR} else "",
        page=int(page) if page.isascii() and page.isdigit() and 0 < len(page) < 7 and int(page) else 1,
    )


def _link(query: Query, page: int) -> str:
    told = {"text": query.text, "condition": query.condition, "page": page}
    return "/?" + urlencode({name: value for name, value in told.items() if value})


def _use(playground: Playground, form: Mapping[str, str]) -> str:
    try:
        units = Decimal(form.get("units", ""))
    except InvalidOperation:
        raise PlaygroundError("the units are a number, such as 5 or 0.25") from None
    if not units.is_finite() or form.get("ago", "now") not in _AGO:
        raise PlaygroundError("the units are a number, and the time one of those in the list")
    subject, _, meter = form.get("of", "").rpartition(" ")
    at = playground.now - _AGO[form.get("ago", "now")]
    if "from" in form:
        at = _within(form, at - HOUR)
    said = playground.use(subject, meter, units, at)
    if at >= settled_until(playground.now):
        said += "; a report reads it when the hour is ten minutes old, and the minute is over"
    return said


def _within(form: Mapping[str, str], at: int) -> int:
    """An instant, or the nearest one in the period that a form names: an hour ago has always been read."""
    try:
        start, end = int(form["from"]), int(form["to"])
    except (KeyError, ValueError):
        raise PlaygroundError("a period is from an instant to an instant") from None
    if start < 0:
        raise PlaygroundError("a period is from an instant to an instant")
    return max(start, min(end - 1, at))


def _replay(playground: Playground, form: Mapping[str, str]) -> str:
    number = form.get("number", "")
    if not (number.isascii() and number.isdigit() and len(number) < _MOST_DIGITS):
        raise PlaygroundError("a delivery has a number")
    return playground.replay(int(number))


_ACTS: dict[str, Act] = {
    "use": _use,
    "tick": lambda playground, form: playground.tick(form.get("scope", "all")),
    "end-period": lambda playground, form: playground.end_periods(form.get("subscription", "")),
    "finalize": lambda playground, form: playground.finalize(form.get("invoice", "")),
    "fault": lambda playground, form: playground.inject(form.get("kind", "")),
    "be-well": lambda playground, _form: playground.be_well(),
    "replay": _replay,
}
