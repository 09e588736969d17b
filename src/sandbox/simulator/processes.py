"""The functions' processes: the layer as it is deployed, wired to the stand-ins without a socket."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from json import dumps as dump
from typing import Any, NoReturn
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx
import stripe
from stripe._encode import _api_encode
from stripe._util import get_api_mode

from sandbox.memory_table import MemoryTable
from sandbox.openmeter import OpenMeterSandbox, Problem, Query, QueryResult, v3, v3_documents
from sandbox.openmeter.query import read_query
from sandbox.openmeter.v3 import MOUNTS
from sandbox.openmeter.values import dumps, loads
from sandbox.simulator.machine import VirtualClock, VirtualLoop
from sandbox.simulator.queue import MemoryQueue
from sandbox.simulator.trouble import CrashError, Trouble
from sandbox.stripe import StripeSandbox
from sandbox.stripe.access import named_account
from sandbox.stripe.faults import Faults
from sandbox.stripe.gateway import Gateway
from sandbox.stripe.messages import Request
from usage_reporting.accounts import OWN_ACCOUNT
from usage_reporting.budget import Budget
from usage_reporting.config import Settings
from usage_reporting.container import Container, Parts
from usage_reporting.credentials import Credentials, Secret
from usage_reporting.errors import AskAgainError, LedgerUnavailableError, LostRaceError
from usage_reporting.heads import Options
from usage_reporting.judging import Judge
from usage_reporting.ledger import Item, Key, Ledger
from usage_reporting.model import CustomerMeter, Report
from usage_reporting.openmeter import OpenMeter
from usage_reporting.pacer import Pacer
from usage_reporting.period_bounds import PeriodBounds
from usage_reporting.reporter import Reporter
from usage_reporting.stripe_api import StripeApi

URL = "http://stand-in"
_NO_ANSWER: Any = stripe.APIConnectionError
_ASKED_PAGE = "limit=100"
_STRIPE_TIMEOUT_S = 10.0
_OPENMETER_TIMEOUT_S = 20.0
_HEADERS = {
    "stripe_version": "Stripe-Version",
    "stripe_account": "Stripe-Account",
    "stripe_context": "Stripe-Context",
    "idempotency_key": "Idempotency-Key",
}
_CACHED_S = 300
_REREAD_S = 60


@dataclass(frozen=True, slots=True)
class Reported:
    """One report that a process came to at `at` (UTC seconds), and what had struck its call until then."""

    at: int
    report: Report
    strikes: frozenset[str]


@dataclass(slots=True)
class Shared:
    """What all processes of a world have in common."""

    clock: VirtualClock
    stripe: StripeSandbox
    gateway: Gateway
    openmeter: OpenMeterSandbox
    table: MemoryTable
    queue: MemoryQueue
    trouble: Trouble
    settings: Settings
    secret: Secret
    reports: list[Reported] = field(default_factory=list)
    """Every report that a process came to."""
    troubles: dict[str, Trouble] = field(default_factory=dict)
    """What goes wrong in one account alone, by its id."""
    since: int = 0
    """How many faults had struck when the present call of a function began."""
    page_size: int = 100
    interleave: Any = None
    """Called where another process may run in between."""


class Process:
    """One process: calls may fail, be slow, or be its last."""

    def __init__(self, shared: Shared, name: str, skew: int = 0) -> None:
        self.shared = shared
        self.name = name
        self.is_dead = False
        self.container = SimulatedContainer(
            settings=shared.settings,
            credentials=Keys(self),
            table=TableWire(self),
            queue=QueueWire(self),
            clock=lambda: shared.clock() + skew,
            loop=VirtualLoop(shared.clock),
            process=self,
        )

    def point(self) -> None:
        """A moment between two calls: the process may end here, or others may be faster."""
        if self.is_dead:
            raise CrashError
        trouble = self.shared.trouble
        if trouble.take("crash"):
            self.is_dead = True
            raise CrashError
        if slow := trouble.take("slow_call"):
            self.shared.clock.advance(slow.seconds)
        if self.shared.interleave is not None and (late := trouble.take("two_workers")):
            self.shared.clock.advance(late.seconds)
            self.shared.interleave(self)

    def close(self) -> None:
        """End the process; whatever it was about to do is not done."""
        self.is_dead = True
        loop = self.container.loop
        pending = asyncio.all_tasks(loop)
        for task in pending:
            task.cancel()
        if pending:
            loop.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
        loop.close()


@dataclass(slots=True)
class SimulatedContainer(Container):
    """The container with its parts on the stand-ins; otherwise wired as the deployed one."""

    process: Process = field(kw_only=True)

    def __post_init__(self) -> None:
        """Wire the parts of the key's own account."""
        api = _StripeApi(self.credentials, self.process)
        openmeter = _OpenMeter(self.settings, self.credentials, self.process)
        self.ledger = Ledger(self.table)
        self.wire(api, openmeter, self.ledger, self.queue, self.clock)
        self._watch(self)

    def made_for(self, account: str) -> Parts:
        """New parts for a connected account."""
        parts = Container.made_for(self, account)
        self._watch(parts)
        return parts

    def _watch(self, parts: Parts) -> None:
        """Have what an account's reporter comes to remembered."""
        settings, billing, made, clock = parts.settings, parts.billing, parts.reporter, self.clock
        reporter = _Reporter(settings, billing, made.openmeter, self.ledger, made.sender, clock)
        reporter.shared = self.process.shared
        parts.reporter = reporter
        parts.judge = Judge(settings, billing, made.openmeter, self.ledger, reporter, clock)


class _Reporter(Reporter):
    """Remembers what it reported."""

    shared: Shared

    async def report(
        self,
        page: Sequence[CustomerMeter],
        options: Options | None = None,
        budget: Budget | None = None,
    ) -> list[Report]:
        """Report a page."""
        reports = await super().report(page, options, budget)
        shared = self.shared
        strikes = frozenset(kind for _, kind in shared.trouble.struck[shared.since :])
        shared.reports.extend(Reported(shared.clock(), report, strikes) for report in reports)
        return reports


class _StripeApi(StripeApi):
    """Its requests go to the stand-in in the official client's encoding, and its errors are the client's own;
    the client itself would parse each answer once more, and describe the machine in each request.
    """

    def __init__(self, credentials: Credentials, process: Process, account: str = OWN_ACCOUNT) -> None:
        self._process = process
        self._wire = StripeWire(process)
        clock = process.shared.clock
        pacer = Pacer(monotonic=lambda: clock.exact)
        super().__init__(credentials, api_base=URL, http_client=self._wire, pacer=pacer, account=account)

    def for_account(self, account: str, pacer: Pacer | None = None) -> StripeApi:  # noqa: ARG002 - not virtual
        """The same for a connected account."""
        return _StripeApi(self._credentials, self._process, account)

    async def _request(
        self, method: str, path: str, params: Mapping[str, Any], options: Mapping[str, str]
    ) -> str | bytes:
        key = options.get("api_key") or self._credentials.current().stripe_api_key
        headers = {"Authorization": f"Bearer {key}"}
        headers |= {name: options[option] for option, name in _HEADERS.items() if option in options}
        mode = get_api_mode(path)
        url, encoded = f"{URL}{path}", urlencode(list(_api_encode(dict(params))))
        if method == "post" and mode == "V2":
            headers["Content-Type"], encoded = "application/json", dump(params)
        elif method == "post":
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        elif encoded:
            url = f"{url}?{encoded}"
        body, status, named = await self._wire.request_async(method, url, headers, encoded)
        if 200 <= status < 300:
            return body
        self._client_for(key)._requestor._interpret_response(body, status, named, mode)
        raise AssertionError("unreachable: the client raises for all but a success")


class _OpenMeter(OpenMeter):
    """Its requests go to the stand-in without httpx's connections, cookies and redirects."""

    def __init__(self, settings: Settings, credentials: Credentials, process: Process) -> None:
        super().__init__(
            settings.openmeter_url,
            credentials,
            api=settings.openmeter_api,
            concurrency=settings.openmeter_concurrency,
            whole_windows=settings.period_bounds is not PeriodBounds.EXACT,
            transport=httpx.AsyncBaseTransport(),
        )
        wire: Any = OpenMeterWire(process)
        self.http.client = wire


class Keys:
    """The secret as Secrets Manager gives it: cached for five minutes, re-read once a minute."""

    def __init__(self, process: Process) -> None:
        self._shared = process.shared
        self._secret = process.shared.secret
        self._read_at = self._reread_at = float("-inf")

    def current(self) -> Secret:
        """The keys as cached."""
        if self._shared.clock.exact - self._read_at > _CACHED_S:
            self._read()
        return self._secret

    def reread(self) -> bool:
        """Look again; False if that was done a minute ago."""
        if self._shared.clock.exact - self._reread_at < _REREAD_S:
            return False
        self._reread_at = self._shared.clock.exact
        self._read()
        return True

    def _read(self) -> None:
        self._secret, self._read_at = self._shared.secret, self._shared.clock.exact


class TableWire:
    """The ledger's table as a process reaches it."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._table = process.shared.table

    def created_at(self) -> str:
        """When the table was made."""
        self._process.point()
        return self._table.created_at()

    def get(self, keys: Sequence[Key]) -> list[Item]:
        """Read items."""
        self._throttle()
        found = self._table.get(keys)
        self._process.point()
        return found

    def put(self, item: Item, read_version: int) -> None:
        """Write an item; when the answer is lost, the client's repetition meets its own write."""
        self._throttle()
        self._table.put(item, read_version)
        self._process.point()
        if self._process.shared.trouble.take("dynamodb_lost_answer"):
            raise LostRaceError("the repeated write found the first one")

    def _throttle(self) -> None:
        self._process.point()
        if self._process.shared.trouble.take("dynamodb_throttle"):
            raise LedgerUnavailableError("DynamoDB refused a ledger call: throttled")


class QueueWire:
    """The queue as a process reaches it."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def send(self, message: dict[str, Any], delay: int = 0) -> None:
        """Put one message on the queue."""
        self._process.point()
        shared = self._process.shared
        if shared.trouble.take("sqs_error"):
            raise AskAgainError("the page queue takes no message")
        shared.queue.send(message, delay)
        if shared.trouble.take("message_duplicated"):
            shared.queue.send(message, delay)
        self._process.point()


class StripeWire(stripe.HTTPClient):
    """Stripe's API as a process reaches it."""

    name = "simulator"

    def __init__(self, process: Process) -> None:
        super().__init__()
        self._process = process

    async def request_async(
        self, method: str, url: str, headers: Mapping[str, str], post_data: Any = None
    ) -> tuple[bytes, int, Mapping[str, str]]:
        """One request."""
        process, shared = self._process, self._process.shared
        trouble = shared.trouble
        await asyncio.sleep(0)  # what else the process has to do goes on meanwhile
        process.point()
        is_post = method.upper() == "POST"
        if trouble.take("stripe_unreachable"):
            _lost()
        parts = urlsplit(url)
        named = {name.lower(): value for name, value in headers.items()}
        account = named_account(parts.path, named) or OWN_ACCOUNT
        self._arm(shared.stripe.connected.get(account, shared.stripe).faults, account, is_post=is_post)
        timeout = trouble.take("stripe_timeout")
        if timeout is not None and timeout.seconds:
            await asyncio.sleep(_STRIPE_TIMEOUT_S)
            _lost()
        body = (post_data or "").encode() if is_post else b""
        query = parts.query.replace(_ASKED_PAGE, f"limit={shared.page_size}")
        request = Request(method.upper(), parts.path, query, named, body)
        response = await shared.gateway.answer(request)
        process.point()
        if timeout is not None:
            await asyncio.sleep(_STRIPE_TIMEOUT_S)
            _lost()
        if is_post and trouble.take("stripe_lost_answer"):
            _lost()
        return response.body, response.status, response.headers

    def _arm(self, faults: Faults, account: str, *, is_post: bool) -> None:
        """Let the account that is called answer with what goes wrong there, or anywhere."""
        shared = self._process.shared
        trouble, own = shared.trouble, shared.troubles.get(account)
        if own is not None and own.lasts("account_down"):
            faults.add("status", status=503)
        elif own is not None and own.lasts("account_limited"):
            faults.add("rate_limited", reason="global-rate")
        elif is_post and trouble.take("stripe_500_stored"):
            faults.add("error_after")
        elif trouble.take("stripe_500"):
            faults.add("status")
        elif trouble.take("stripe_429"):
            faults.add("rate_limited", reason="global-rate")

    async def close_async(self) -> None:
        """There is nothing to close."""


def _lost() -> NoReturn:
    raise _NO_ANSWER("no answer", should_retry=False)


class OpenMeterWire:
    """OpenMeter's API as a process reaches it."""

    def __init__(self, process: Process) -> None:
        self._process = process

    async def request(
        self,
        method: str,
        url: str,
        *,
        json: Any,
        headers: Mapping[str, str],  # noqa: ARG002 - as httpx has it
    ) -> httpx.Response:
        """One request."""
        process, trouble = self._process, self._process.shared.trouble
        await asyncio.sleep(0)
        process.point()
        if trouble.lasts("openmeter_down") or trouble.lasts("openmeter_outage"):
            raise httpx.ConnectError("no connection")
        if trouble.take("openmeter_timeout"):
            await asyncio.sleep(_OPENMETER_TIMEOUT_S)
            raise httpx.ReadTimeout("no answer")
        if fault := trouble.take("openmeter_error"):
            return _problem(fault.seconds or 500)
        response = self._answer(method, url.removeprefix(URL), dump(json).encode())
        process.point()
        return response

    def _answer(self, method: str, path: str, body: bytes) -> httpx.Response:
        openmeter = self._process.shared.openmeter
        version = "v3" if path.startswith(MOUNTS) else "v1"
        openmeter.calls.counts[f"{version} {method}"] += 1
        try:
            content = self._of_v3(path, body) if version == "v3" else self._of_v1(method, path, body)
        except Problem as problem:
            return _problem(problem.status)
        return httpx.Response(200, content=content)

    def _of_v1(self, method: str, path: str, body: bytes) -> str:
        openmeter = self._process.shared.openmeter
        slug = path.removeprefix("/api/v1/meters/").partition("/")[0]
        if method == "GET":
            return dumps(openmeter.meter(slug).document())
        return self._result(slug, read_query(loads(body))).json()

    def _of_v3(self, path: str, body: bytes) -> str:
        openmeter = self._process.shared.openmeter
        path, _, asked = path.partition("?")
        _, _, below = path.partition("/meters")
        if not below:
            return dumps(v3.meter_page(openmeter, dict(parse_qsl(asked))))
        meter, _, is_query = below.removeprefix("/").partition("/")
        found = v3.meter_by_id(openmeter, meter)
        if not is_query:
            return dumps(v3_documents.meter_document(found))
        return v3_documents.result_json(self._result(meter, v3_documents.read_query(loads(body))))

    def _result(self, meter: str, query: Query) -> QueryResult:
        if self._process.shared.trouble.take("openmeter_empty"):
            return QueryResult(query, [])
        return self._process.shared.openmeter.run(meter, query)


def _problem(status: int) -> httpx.Response:
    return httpx.Response(status, json={"status": status, "title": "made to fail"})
