"""Tumbling calendar windows."""

from __future__ import annotations

from datetime import UTC, datetime, tzinfo
from typing import Final

from sandbox.openmeter.instants import local_text

WINDOW_SIZES: Final = ("MINUTE", "HOUR", "DAY", "MONTH")


class Windows:
    """Windows of one size in one time zone; all times are UTC unix seconds.

    A day is from midnight to midnight of the zone, so a day with a clock change is shorter or
    longer. Source: ClickHouse, "Date and time functions", tumbleStart.
    """

    def __init__(self, size: str, zone: tzinfo | None) -> None:
        self._size = size
        self._zone = zone or UTC
        self._starts: dict[int, int] = {}
        self._hours: dict[int, int | None] = {}
        self._texts: dict[int, tuple[str, str]] = {}

    def start(self, time: int) -> int:
        """The start of the window that contains `time`."""
        minute = time - time % 60
        if minute not in self._starts:
            self._starts[minute] = self._start(minute)
        return self._starts[minute]

    def of_hour(self, start: int) -> int | None:
        """The start of the window that contains the whole UTC hour from `start`, if one does."""
        if start not in self._hours:
            window = self.start(start)
            self._hours[start] = window if self.start(start + 3599) == window else None
        return self._hours[start]

    def end(self, start: int) -> int:
        """The end of the window that starts at `start`."""
        if self._size == "MINUTE":
            return start + 60
        if self._size == "HOUR":
            return start + 3600
        # Past the end by hours at least, by days at most, whatever the clocks do.
        return self._start(start + (30 * 3600 if self._size == "DAY" else 40 * 86400))

    def texts(self, start: int) -> tuple[str, str]:
        """Both bounds of the window that starts at `start`, in the zone's clock time."""
        if start not in self._texts:
            end = self.end(start)
            self._texts[start] = (
                local_text(start, self._offset(start)),
                local_text(end, self._offset(end)),
            )
        return self._texts[start]

    def _offset(self, time: int) -> int:
        offset = datetime.fromtimestamp(time, self._zone).utcoffset()
        return 0 if offset is None else int(offset.total_seconds())

    def _start(self, minute: int) -> int:
        if self._size == "MINUTE":
            return minute
        if self._size == "HOUR":
            return minute - (minute + self._offset(minute)) % 3600
        local = datetime.fromtimestamp(minute, self._zone)
        day = 1 if self._size == "MONTH" else local.day
        return int(datetime(local.year, local.month, day, tzinfo=self._zone).timestamp())
