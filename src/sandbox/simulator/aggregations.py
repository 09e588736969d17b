"""OpenMeter's seven aggregations over a usage list (OpenMeter, "Aggregations"), in exact numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Final

from sandbox.simulator.history import METERS, Usage

_AGGREGATIONS: Final[Mapping[str, Callable[[Sequence[Usage]], Decimal]]] = {
    "SUM": lambda events: sum(map(_value, events), Decimal(0)),
    "COUNT": lambda events: Decimal(len(events)),
    "UNIQUE_COUNT": lambda events: Decimal(len({event.value for event in events})),
    "AVG": lambda events: sum(map(_value, events), Decimal(0)) / len(events),
    "MIN": lambda events: min(map(_value, events)),
    "MAX": lambda events: max(map(_value, events)),
    "LATEST": lambda events: _value(max(events, key=lambda event: event.time)),
}


def aggregated(used: Iterable[Usage]) -> Decimal:
    """What one meter shows for these events; without any it shows nothing, which bills as 0."""
    events = list(used)
    return _AGGREGATIONS[METERS[events[0].meter]](events) if events else Decimal(0)


def _value(event: Usage) -> Decimal:
    return Decimal(event.value)
