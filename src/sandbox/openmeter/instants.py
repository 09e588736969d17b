"""RFC 3339 date-times as OpenMeter reads and writes them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import NamedTuple

_RFC3339 = re.compile(
    r"(\d{4})-(\d{2})-(\d{2})T(\d{2}):(\d{2}):(\d{2})(?:\.(\d{1,9}))?(?:Z|([+-])(\d{2}):(\d{2}))"
)
_LAST_SECOND = 2**32 - 1
"""ClickHouse keeps a `DateTime` in 32 bits."""


class Instant(NamedTuple):
    """A date-time that remembers its sub-seconds and its offset, for the echo in the answer.

    `seconds` are UTC unix seconds, `nanos` the rest, `offset` the seconds east of UTC.
    """

    seconds: int
    nanos: int = 0
    offset: int = 0

    def __str__(self) -> str:
        """Go's `RFC3339Nano`: no trailing zeros, `Z` at offset 0."""
        fraction = f".{self.nanos:09d}".rstrip("0") if self.nanos else ""
        return local_text(self.seconds, self.offset, fraction)


@lru_cache(65_536)
def local_text(seconds: int, offset: int = 0, fraction: str = "") -> str:
    """An instant in the clock time of `offset` (seconds east of UTC)."""
    text = datetime.fromtimestamp(seconds + offset, UTC).strftime("%Y-%m-%dT%H:%M:%S") + fraction
    if offset == 0:
        return text + "Z"
    sign, minutes = ("-", -offset // 60) if offset < 0 else ("+", offset // 60)
    return f"{text}{sign}{minutes // 60:02d}:{minutes % 60:02d}"


@lru_cache(65_536)
def parse(text: str) -> Instant:
    """Read an RFC 3339 date-time. Raises ValueError."""
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not an RFC 3339 date-time")
    year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
    offset = 0
    if match[8]:
        if int(match[9]) > 23 or int(match[10]) > 59:
            raise ValueError(f"{text!r} has an impossible offset")
        offset = (int(match[9]) * 3600 + int(match[10]) * 60) * (-1 if match[8] == "-" else 1)
    moment = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    seconds = int((moment - timedelta(seconds=offset)).timestamp())
    if not 0 <= seconds <= _LAST_SECOND:
        raise ValueError(f"{text!r} lies outside 1970 to 2106")
    return Instant(seconds, int((match[7] or "").ljust(9, "0")), offset)


def instant(value: datetime | int | str | Instant) -> Instant:
    """Any spelling of an instant; integers are UTC unix seconds. Raises ValueError."""
    if isinstance(value, Instant):
        return value
    if isinstance(value, int):
        return Instant(value)
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError("a date-time needs a time zone")
        return parse(value.isoformat().replace("+00:00", "Z"))
    return parse(value)
