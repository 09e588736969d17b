"""Meter events that were accepted and are refused afterwards, and the reports about them.

Record usage, "Handle meter event errors": a report covers a short window and one meter, counts what was
wrong with the events of that window by code, and names samples of them only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from sandbox.stripe.account import Account, Json
from sandbox.stripe.thin_events import ERROR_REPORT, NO_METER_FOUND, instant

WINDOW_SECONDS = 10
_REPORTED_AFTER = 2

Emit = Callable[[str, str | None, Json], object]
"""Type, meter and data of a thin event."""


@dataclass(frozen=True)
class Refusal:
    """What is wrong with an accepted event."""

    code: str
    message: str


@dataclass
class _Planned:
    code: str
    customer: str | None
    times: int


@dataclass
class _Window:
    """The refused events of one meter (None: of no meter that exists) received in ten seconds."""

    meter: str | None
    start: int
    refused: list[tuple[Refusal, str]] = field(default_factory=list)

    @property
    def due(self) -> int:
        return self.start + WINDOW_SECONDS + _REPORTED_AFTER


class Validation:
    """The asynchronous half of the validation of meter events."""

    def __init__(self, account: Account, emit: Emit) -> None:
        self._account = account
        self._emit = emit
        self._planned: list[_Planned] = []
        self._windows: dict[tuple[str | None, int], _Window] = {}

    def refuse_next(self, code: str, *, customer: str | None = None, times: int = 1) -> None:
        """Accept the next events, of one customer if named, and refuse them afterwards with this code."""
        self._planned.append(_Planned(code, customer, times))

    def planned(self, customer: str) -> Refusal | None:
        """What `refuse_next` wants of the event that is being accepted."""
        for plan in self._planned:
            if plan.times > 0 and plan.customer in (None, customer):
                plan.times -= 1
                return Refusal(plan.code, f"The event was refused with the code {plan.code}.")
        return None

    def refuse(self, refusal: Refusal, meter: str | None, request: str) -> None:
        """Refuse an event that was accepted just now; `request` names its request in the report."""
        start = self._account.machine_time() // WINDOW_SECONDS * WINDOW_SECONDS
        window = self._windows.setdefault((meter, start), _Window(meter, start))
        window.refused.append((refusal, request))

    def next_due(self) -> int | None:
        """When the next report is due, in UTC unix seconds."""
        return min((window.due for window in self._windows.values()), default=None)

    def report_due(self, until: int) -> None:
        """Emit the reports that are due by this instant."""
        for key, window in list(self._windows.items()):
            if window.due <= until:
                del self._windows[key]
                type_ = ERROR_REPORT if window.meter else NO_METER_FOUND
                self._emit(type_, window.meter, self._data(window))

    def _data(self, window: _Window) -> Json:
        by_code: dict[str, list[tuple[Refusal, str]]] = {}
        for refusal, request in window.refused:
            by_code.setdefault(refusal.code, []).append((refusal, request))
        count = len(window.refused)
        return {
            "developer_message_summary": f"There {'is' if count == 1 else 'are'} {count} invalid "
            f"{'event' if count == 1 else 'events'}",
            "reason": {
                "error_count": count,
                "error_types": [
                    {
                        "code": code,
                        "error_count": len(refused),
                        "sample_errors": [
                            {"error_message": refusal.message, "request": {"identifier": request}}
                            for refusal, request in refused[: self._account.settings.error_samples]
                        ],
                    }
                    for code, refused in by_code.items()
                ],
            },
            "validation_start": instant(window.start),
            "validation_end": instant(window.start + WINDOW_SECONDS),
        }
