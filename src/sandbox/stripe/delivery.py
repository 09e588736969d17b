"""Posting webhooks over HTTP, and putting events on buses, without making anyone wait."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx

from sandbox.stripe.webhooks import Attempt

ACCEPTED = 200
"""What it is for the delivery that a bus has taken an event."""
_AT_ONCE = 8


class BackgroundDelivery:
    """Posts in a few threads, so that deliveries overtake each other as real ones do.

    `reached_at` says where on this machine an endpoint's URL is served, as a name server would.
    """

    def __init__(
        self, timeout: float, reached_at: Callable[[str], str], hand_over: Callable[[Attempt], bool]
    ) -> None:
        self._timeout = timeout
        self._hand_over = hand_over
        self._reached_at = reached_at
        self._threads: ThreadPoolExecutor | None = None
        self._client: httpx.Client | None = None

    def post(self, attempt: Attempt, answered: Callable[[int], None]) -> None:
        """Post one attempt; `answered` gets the HTTP status, 0 when there was none."""
        if self._threads is None or self._client is None:
            self._threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="stripe-webhooks")
            self._client = httpx.Client(timeout=self._timeout, trust_env=False)
        if attempt.source is not None:
            self._threads.submit(lambda: answered(ACCEPTED if self._hand_over(attempt) else 0))
            return
        url = self._reached_at(attempt.url)
        self._threads.submit(_post, self._client, url, attempt, answered)

    def close(self) -> None:
        """Give up what has not begun."""
        if self._threads is not None and self._client is not None:
            self._threads.shutdown(wait=True, cancel_futures=True)
            self._client.close()
        self._threads = self._client = None


def _post(client: httpx.Client, url: str, attempt: Attempt, answered: Callable[[int], None]) -> None:
    try:
        headers = dict(attempt.headers)
        status = client.post(url, content=attempt.body, headers=headers).status_code
    except (httpx.HTTPError, httpx.InvalidURL):
        status = 0
    answered(status)
