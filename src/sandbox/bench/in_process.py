"""Stripe, OpenMeter and AWS in this process: what clients would put on the wire is answered on the spot."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import httpx
from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.client import BaseClient
from botocore.compat import HTTPHeaders
from botocore.httpsession import URLLib3Session
from stripe import StripeClient

from sandbox.clock import ManualClock
from sandbox.openmeter import OpenMeterSandbox
from sandbox.openmeter.query import read_query
from sandbox.openmeter.values import dumps, loads
from sandbox.stripe import StripeSandbox, StripeSettings
from sandbox.stripe.gateway import Gateway
from sandbox.stripe.messages import Request

STRIPE, OPENMETER = "http://stripe.stand-in", "http://openmeter.stand-in"
API_KEY = "sk_test_sandbox"

Json = dict[str, Any]
_CALL = "_make_api_call"
"""What every method of botocore's clients comes down to."""


@dataclass(slots=True)
class InProcessStandIns:
    """All that a function talks to; `signing_secret` is part of what Secrets Manager holds."""

    clock: ManualClock
    signing_secret: str = "whsec_bench"
    stripe: StripeSandbox = field(init=False)
    openmeter: OpenMeterSandbox = field(init=False)
    delivered: list[Json] = field(default_factory=list)
    """The events that Stripe sent, oldest first."""
    spent: list[float] = field(default_factory=list)
    """Seconds of processor time that each answer took."""
    in_clients: list[float] = field(default_factory=list)
    """The same of each call of a client, with the answer to it."""
    items: dict[tuple[str, str], Json] = field(default_factory=dict)
    """Of the ledger table, by partition and sort key, as they are on the wire."""
    _gateway: Gateway = field(init=False)

    def __post_init__(self) -> None:
        self.stripe = StripeSandbox(self.clock, StripeSettings(seed=1), deliver=self._receive)
        self.openmeter = OpenMeterSandbox(self.clock)
        self._gateway = Gateway(self.stripe)

    @contextmanager
    def on_the_wire(self) -> Iterator[None]:
        """Meanwhile they answer for every httpx and botocore client of this process."""
        stand_ins, depth = self, threading.local()

        async def handle(_transport: object, request: httpx.Request) -> httpx.Response:
            return await stand_ins._over_http(request)

        def send(_session: object, request: AWSPreparedRequest) -> AWSResponse:
            return stand_ins._over_botocore(request)

        @contextmanager
        def timed() -> Iterator[None]:
            # Stripe's client calls httpx's: the outer one counts. None of them waits for anything here.
            is_outer = not getattr(depth, "is_inside", False)
            depth.is_inside = True
            started = time.thread_time()
            try:
                yield
            finally:
                if is_outer:
                    stand_ins.in_clients.append(time.thread_time() - started)
                    depth.is_inside = False

        with (
            mock.patch.object(httpx.AsyncHTTPTransport, "handle_async_request", handle),
            mock.patch.object(URLLib3Session, "send", send),
            mock.patch.object(BaseClient, _CALL, _within(timed, getattr(BaseClient, _CALL))),
            mock.patch.object(
                httpx.AsyncClient, "request", _awaited_within(timed, httpx.AsyncClient.request)
            ),
            mock.patch.object(
                StripeClient,
                "raw_request_async",
                _awaited_within(timed, StripeClient.raw_request_async),
            ),
        ):
            yield

    def _receive(self, _url: str, _headers: object, body: bytes) -> int:
        self.delivered.append(json.loads(body))
        return 200

    async def _over_http(self, request: httpx.Request) -> httpx.Response:
        body = await request.aread()
        started = time.thread_time()
        path = request.url.path
        if str(request.url).startswith(STRIPE):
            asked = Request(request.method, path, request.url.query.decode(), dict(request.headers), body)
            answer = await self._gateway.answer(asked)
            status, content, headers = answer.status, answer.body, dict(answer.headers)
        else:
            slug = path.split("/")[4]
            status, headers = 200, {"content-type": "application/json"}
            if request.method == "GET":
                content = dumps(self.openmeter.meter(slug).document()).encode()
            else:
                content = self.openmeter.run(slug, read_query(loads(body))).json().encode()
        response = httpx.Response(status, headers=headers, content=content)
        self.spent.append(time.thread_time() - started)
        return response

    def _over_botocore(self, request: AWSPreparedRequest) -> AWSResponse:
        started = time.thread_time()
        body: Any = request.body
        target: Any = request.headers["X-Amz-Target"]
        status, answer = self._of_aws(target.decode().rpartition(".")[2], json.loads(body))
        response = AWSResponse(request.url, status, HTTPHeaders(), _Raw(json.dumps(answer).encode()))
        self.spent.append(time.thread_time() - started)
        return response

    def _of_aws(self, operation: str, asked: Json) -> tuple[int, Json]:
        match operation:
            case "GetSecretValue":
                secret = {"stripe_api_key": API_KEY, "stripe_webhook_secret": self.signing_secret}
                return 200, {"SecretString": json.dumps(secret)}
            case "DescribeTable":
                return 200, {"Table": {"CreationDateTime": 1}}
            case "BatchGetItem":
                return 200, self._read(asked)
        return self._write(asked)

    def _read(self, asked: Json) -> Json:
        ((table, wanted),) = asked["RequestItems"].items()
        keys = [(key["pk"]["S"], key["sk"]["S"]) for key in wanted["Keys"]]
        found = [self.items[key] for key in keys if key in self.items]
        return {"Responses": {table: found}, "UnprocessedKeys": {}}

    def _write(self, asked: Json) -> tuple[int, Json]:
        item = asked["Item"]
        key = (item["pk"]["S"], item["sk"]["S"])
        read = asked.get("ExpressionAttributeValues", {}).get(":read")
        if self.items.get(key, {}).get("version") != read:
            return 400, {"__type": "com.amazonaws.dynamodb.v20120810#ConditionalCheckFailedException"}
        self.items[key] = item
        return 200, {}


_Timed = Callable[[], AbstractContextManager[None]]


def _within(timed: _Timed, call: Callable[..., Any]) -> Callable[..., Any]:
    def within(*given: Any, **named: Any) -> Any:
        with timed():
            return call(*given, **named)

    return within


def _awaited_within(timed: _Timed, call: Callable[..., Any]) -> Callable[..., Any]:
    async def within(*given: Any, **named: Any) -> Any:
        with timed():
            return await call(*given, **named)

    return within


class _Raw(io.BytesIO):
    """A body as urllib3 hands it to botocore."""

    def stream(self) -> Iterator[bytes]:
        """All of it at once."""
        yield self.read()
