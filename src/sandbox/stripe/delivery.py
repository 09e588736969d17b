"""Posting webhooks over HTTP without making anyone wait."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx

from sandbox.stripe.webhooks import Attempt

_AT_ONCE = 8


class BackgroundDelivery:
    """Posts in a few threads, so that deliveries overtake each other as real ones do."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._threads: ThreadPoolExecutor | None = None

    def post(self, attempt: Attempt, answered: Callable[[int], None]) -> None:
        """Post one attempt; `answered` gets the HTTP status, 0 when there was none."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="stripe-webhooks")
        self._threads.submit(self._post, attempt, answered)

    def close(self) -> None:
        """Give up what has not begun."""
        if self._threads is not None:
            self._threads.shutdown(wait=True, cancel_futures=True)
            self._threads = None

    def _post(self, attempt: Attempt, answered: Callable[[int], None]) -> None:
        try:
            response = httpx.post(
                attempt.url,
                content=attempt.body,
                headers=dict(attempt.headers),
                timeout=self._timeout,
                follow_redirects=False,
                trust_env=False,
            )
            status = response.status_code
        except httpx.HTTPError:
            status = 0
        answered(status)
