"""Makes the stand-in fail on demand, and remembers what it was asked."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from sandbox.openmeter.query import Query

type ApiVersion = Literal["v1", "v3"]

STATUSES: Final = (400, 401, 403, 404, 408, 412, 429, 500, 502, 503, 504)


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to one query instead of, or before, its answer.

    `delay` is in seconds; `retry_after` is the header's value in seconds.
    """

    kind: Literal["status", "delay", "empty", "drop"]
    status: int = 500
    retry_after: int | None = None
    delay: float = 0.0


class Faults:
    """The faults of the coming queries, first in, first out; `down` drops every request."""

    def __init__(self) -> None:
        self.down = False
        self._queue: deque[Fault] = deque()

    def fail(self, status: int, *, times: int = 1, retry_after: int | None = None) -> None:
        """Answer the next queries with an error status. Raises ValueError."""
        if status not in STATUSES:
            raise ValueError(f"status must be one of {STATUSES}")
        self._add(Fault("status", status=status, retry_after=retry_after), times)

    def delay(self, seconds: float, *, times: int = 1) -> None:
        """Answer the next queries so late: longer than the client waits, it is a time-out."""
        self._add(Fault("delay", delay=seconds), times)

    def empty(self, *, times: int = 1) -> None:
        """Answer the next queries with 200 and no rows, whatever is stored."""
        self._add(Fault("empty"), times)

    def drop(self, *, times: int = 1) -> None:
        """Close the connection on the next queries."""
        self._add(Fault("drop"), times)

    def clear(self) -> None:
        """Be well again."""
        self._queue.clear()
        self.down = False

    def next(self) -> Fault | None:
        """Take the fault for the query at hand."""
        return self._queue.popleft() if self._queue else None

    def __len__(self) -> int:
        """How many queries are still to fail."""
        return len(self._queue)

    def _add(self, fault: Fault, times: int) -> None:
        if times < 1:
            raise ValueError("times must be at least 1")
        self._queue.extend([fault] * times)


@dataclass(frozen=True, slots=True)
class QueryCall:
    """A query as it came in over HTTP; `status` is None where no answer was given.

    `meter` is what the path named: in v3 it is a ULID.
    """

    meter: str
    query: Query
    status: int | None = None
    api: ApiVersion = "v1"

    def document(self) -> dict[str, object]:
        """For the control endpoints."""
        query = self.query
        return {
            "meter": self.meter,
            "from": None if query.start is None else str(query.start),
            "to": None if query.end is None else str(query.end),
            "subjects": None if query.subjects is None else list(query.subjects),
            "customers": list(query.customers),
            "windowSize": query.window_size,
            "status": self.status,
            "api": self.api,
        }


@dataclass(slots=True)
class Calls:
    """How often each endpoint was called over HTTP, and every query."""

    counts: Counter[str] = field(default_factory=Counter)
    queries: list[QueryCall] = field(default_factory=list)

    def reset(self) -> None:
        """Forget everything."""
        self.counts.clear()
        self.queries.clear()
