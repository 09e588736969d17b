"""What was asked of the stand-in."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass

from sandbox.stripe.form import Form

_KEPT = 100_000
_SECRET_HEADERS = frozenset({"authorization", "cookie"})


@dataclass(frozen=True)
class LoggedRequest:
    """One request and the status of its answer (0: the connection was cut)."""

    method: str
    path: str
    template: str
    params: Form
    headers: Mapping[str, str]
    status: int
    at: int


class RequestLog:
    """The newest requests, the number of calls per endpoint, and how many of them were too many."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: deque[LoggedRequest] = deque(maxlen=_KEPT)
        self._calls: Counter[tuple[str, str]] = Counter()
        self._limited: Counter[str] = Counter()

    @property
    def requests(self) -> list[LoggedRequest]:
        """In the order of their answers."""
        with self._lock:
            return list(self._requests)

    @property
    def calls(self) -> dict[tuple[str, str], int]:
        """Number of calls by method and path template."""
        with self._lock:
            return dict(self._calls)

    @property
    def limited(self) -> dict[str, int]:
        """Number of calls that were answered 429, by reason."""
        with self._lock:
            return dict(self._limited)

    def count(self, method: str, template: str, limited: str | None) -> None:
        """Count one call, and what limited it if it was answered 429."""
        with self._lock:
            self._calls[method, template] += 1
            if limited is not None:
                self._limited[limited] += 1

    def keep(self, request: LoggedRequest) -> None:
        """Remember one request."""
        with self._lock:
            self._requests.append(request)

    def clear(self) -> None:
        """Forget everything, counts included."""
        with self._lock:
            self._requests.clear()
            self._calls.clear()
            self._limited.clear()


def without_secrets(headers: Mapping[str, str]) -> dict[str, str]:
    """Headers that may be kept."""
    return {name: value for name, value in headers.items() if name not in _SECRET_HEADERS}
