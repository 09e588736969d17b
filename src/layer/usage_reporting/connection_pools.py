"""The connections to Stripe: several small pools, because for each call httpx looks at a whole pool."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import stripe

CONNECTIONS = 8
"""Of one pool. At 64 calls at once, eight pools of 8 need a fifth of the processor time of one of 64."""
POOLS = 8
KEPT_FOR_S = 20
"""An idle connection is closed before Stripe, or an address translation on the way, has forgotten it."""

_Answer = tuple[bytes, int, Mapping[str, str]]


@dataclass(slots=True)
class _Pool:
    client: httpx.AsyncClient
    busy: int = 0


class Unread(dict[str, str]):
    """The headers of a success, with its body: the client would parse that into objects that nobody needs."""

    def __init__(self, headers: Mapping[str, str], body: bytes) -> None:
        super().__init__(headers)
        self.body = body


class ConnectionPools(stripe.HTTPClient):
    """What the official client sends its requests with: a new pool is made when those before are full.

    To the client a success is an empty object; its body comes with the headers, see `Unread`. Like the
    official client's own it raises APIConnectionError when there is no answer. `timeout_s` is for each step
    of a call; a call that finds every connection busy waits, and that has no limit of its own.
    """

    name = "httpx"

    def __init__(self, timeout_s: float, *, transport: httpx.AsyncBaseTransport | None = None) -> None:
        super().__init__()
        self._timeout = httpx.Timeout(timeout_s)
        self._transport = transport
        # It takes milliseconds to make: one for all pools, with the certificates that Stripe's client trusts.
        self._tls = ssl.create_default_context(cafile=stripe.ca_bundle_path)
        self._pools: list[_Pool] = []
        self._connections = asyncio.Semaphore(POOLS * CONNECTIONS)

    async def request_async(
        self, method: str, url: str, headers: Mapping[str, str], post_data: Any = None
    ) -> _Answer:
        """One request: body (of a success: none), status and headers of its answer."""
        async with self._connections:
            pool = self._with_room()
            pool.busy += 1
            try:
                answer = await pool.client.request(method, url, headers=headers, data=post_data or {})
            except Exception as error:  # as the official client: whatever it was, there is no answer
                # The client's error has no types.
                no_answer: Any = stripe.APIConnectionError
                raise no_answer(f"no answer: {type(error).__name__}") from error
            finally:
                pool.busy -= 1
        if answer.is_success:
            return b"{}", answer.status_code, Unread(answer.headers, answer.content)
        return answer.content, answer.status_code, answer.headers

    async def close_async(self) -> None:
        """Close the connections."""
        for pool in self._pools:
            await pool.client.aclose()

    def _with_room(self) -> _Pool:
        for pool in self._pools:
            if pool.busy < CONNECTIONS:
                return pool
        limits = httpx.Limits(
            max_connections=CONNECTIONS,
            max_keepalive_connections=CONNECTIONS,
            keepalive_expiry=KEPT_FOR_S,
        )
        client = httpx.AsyncClient(
            verify=self._tls, timeout=self._timeout, limits=limits, transport=self._transport
        )
        self._pools.append(_Pool(client))
        return self._pools[-1]
