"""Whole hours of many customers from OpenMeter, up to 100 subjects a query."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from usage_reporting.hours import Case
from usage_reporting.model import Report
from usage_reporting.openmeter import MOST_SUBJECTS, OpenMeter
from usage_reporting.read_apart import read_apart
from usage_reporting.side_by_side import is_stopped, note, together
from usage_reporting.windows import HOUR, LONGEST_QUERY, floor_hour


async def read_hours(
    openmeter: OpenMeter, reports: Sequence[Report], cases: Mapping[int, Case]
) -> list[Report]:
    """Read whole hours, up to 100 subjects a query; who reaches back alike goes together."""
    groups: dict[tuple[str, int], list[Report]] = defaultdict(list)
    for report in reports:
        case = cases[id(report)]
        groups[(case.head.openmeter_meter, case.until)].append(report)
    windows = [
        (name, window)
        for (name, until), members in groups.items()
        for window in _windows([cases[id(report)] for report in members], until)
    ]
    await asyncio.gather(*(_read_window(openmeter, name, *window) for name, window in windows))
    return [report for report in reports if not is_stopped(report)]


async def _read_window(openmeter: OpenMeter, name: str, start: int, end: int, cases: Sequence[Case]) -> None:
    async def read(page: Sequence[Case]) -> None:
        subjects = list(dict.fromkeys(case.head.subject for case in page))
        found = await openmeter.hours(name, subjects, start, end)
        for case in page:
            hours = found.get(case.head.subject, {})
            case.hours.update({hour: value for hour, value in hours.items() if hour >= case.start})

    async def read_all() -> None:
        await read_apart(cases, read, lambda case, error: note(case.report, error))

    await together([case.report for case in cases], read_all)


def _windows(cases: Sequence[Case], until: int) -> Iterator[tuple[int, int, list[Case]]]:
    """The queries of cases that are read up to the same instant, newest first: at most 7 days each."""
    end = until
    waiting = [case for case in cases if case.start < until]
    while waiting:
        # Full hours only: an hour that two queries share would be two halves.
        longest = floor_hour(end - 1) + HOUR - LONGEST_QUERY
        start = max(longest, min(case.start for case in waiting))
        for batch in _batches(waiting):
            yield start, end, batch
        end = start
        waiting = [case for case in waiting if case.start < end]


def _batches(cases: Sequence[Case]) -> Iterator[list[Case]]:
    for first in range(0, len(cases), MOST_SUBJECTS):
        yield list(cases[first : first + MOST_SUBJECTS])
