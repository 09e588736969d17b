"""Whole hours of many customers: few queries, none too long, and nobody's neighbour suffers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import cast

from tests.layer.builders import NOON, D, customer_meter
from usage_reporting.errors import OpenMeterUnavailableError, RefusedError, UnknownMeterError
from usage_reporting.hour_queries import read_hours
from usage_reporting.hours import Case
from usage_reporting.ledger import Head
from usage_reporting.model import Report, Status
from usage_reporting.openmeter import OpenMeter
from usage_reporting.windows import DAY, HOUR


@dataclass
class Reader:
    """A case as the queries need it."""

    subject: str
    start: int = NOON - 5 * HOUR
    until: int = NOON
    meter: str = "m1"
    hours: dict[int, Decimal] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.report = Report(customer_meter(customer=self.subject))
        self.head = Head(self.report.customer_meter.pk, self.subject, self.meter, "1")


@dataclass
class Asked:
    """OpenMeter: a unit in each hour of everybody; one subject may be refused."""

    bad: str = ""
    gone: bool = False
    down: bool = False
    queries: list[tuple[str, int, int, int]] = field(default_factory=list)

    async def hours(
        self, slug: str, subjects: Sequence[str], start: int, end: int
    ) -> dict[str, dict[int, Decimal]]:
        self.queries.append((slug, len(subjects), start, end))
        if self.down:
            raise OpenMeterUnavailableError("down")
        if self.gone:
            raise UnknownMeterError("no such meter")
        if self.bad in subjects:
            raise RefusedError("not this one")
        assert len(set(subjects)) == len(subjects)
        return {subject: dict.fromkeys(range(start, end, HOUR), D(1)) for subject in subjects}


def ask(openmeter: Asked, *readers: Reader) -> list[Reader]:
    cases = {id(reader.report): cast("Case", reader) for reader in readers}
    reports = [reader.report for reader in readers]
    going_on = asyncio.run(read_hours(cast("OpenMeter", openmeter), reports, cases))
    return [reader for reader in readers if any(report is reader.report for report in going_on)]


def test_a_hundred_subjects_are_asked_at_once() -> None:
    openmeter = Asked()
    readers = [Reader(f"cus_{n}") for n in range(101)]

    assert ask(openmeter, *readers) == readers
    assert openmeter.queries == [("m1", 100, NOON - 5 * HOUR, NOON), ("m1", 1, NOON - 5 * HOUR, NOON)]
    assert all(sorted(reader.hours) == [NOON - n * HOUR for n in (5, 4, 3, 2, 1)] for reader in readers)


def test_two_items_of_one_customer_are_one_subject() -> None:
    openmeter = Asked()
    first, second = Reader("cus_1"), Reader("cus_1")
    ask(openmeter, first, second)

    assert openmeter.queries == [("m1", 1, NOON - 5 * HOUR, NOON)]
    assert first.hours == second.hours != {}


def test_who_reads_another_meter_or_to_another_end_is_asked_apart() -> None:
    openmeter = Asked()
    ask(openmeter, Reader("cus_1"), Reader("cus_1", meter="m2"), Reader("cus_1", until=NOON - HOUR))

    assert sorted(openmeter.queries) == [
        ("m1", 1, NOON - 5 * HOUR, NOON - HOUR),
        ("m1", 1, NOON - 5 * HOUR, NOON),
        ("m2", 1, NOON - 5 * HOUR, NOON),
    ]


def test_a_query_covers_seven_days_at_most_newest_first() -> None:
    openmeter = Asked()
    long, short = Reader("cus_1", NOON - 10 * DAY, NOON - 60), Reader("cus_2", NOON - DAY, NOON - 60)
    ask(openmeter, long, short)

    edge = NOON - 7 * DAY
    assert openmeter.queries == [("m1", 2, edge, NOON - 60), ("m1", 1, NOON - 10 * DAY, edge)]
    assert sorted(long.hours) == list(range(NOON - 10 * DAY, NOON, HOUR))
    assert sorted(short.hours) == list(range(NOON - DAY, NOON, HOUR)), "and no hour before its own start"


def test_nothing_is_asked_before_the_first_hour_is_over() -> None:
    openmeter = Asked()

    assert len(ask(openmeter, Reader("cus_1", start=NOON, until=NOON))) == 1
    assert openmeter.queries == []


def test_a_meter_that_is_gone_is_not_asked_for_each_by_itself() -> None:
    openmeter = Asked(gone=True)
    readers = [Reader(f"s{number}") for number in range(100)]

    assert ask(openmeter, *readers) == []
    assert {(reader.report.status, reader.report.reason) for reader in readers} == {
        (Status.REFUSED, "no such meter")
    }
    assert len(openmeter.queries) == 1


def test_a_subject_that_is_refused_does_not_stop_its_neighbours() -> None:
    openmeter = Asked(bad="cus_5")
    readers = [Reader(f"cus_{n}") for n in range(16)]

    assert ask(openmeter, *readers) == [reader for reader in readers if reader.subject != "cus_5"]
    assert (readers[5].report.status, readers[5].report.reason) == (Status.REFUSED, "not this one")
    assert all(reader.hours for reader in readers if reader.subject != "cus_5")
    assert len(openmeter.queries) == 1 + 2 * 4


def test_an_outage_is_the_outcome_of_all() -> None:
    readers = [Reader("cus_1"), Reader("cus_2")]

    assert ask(Asked(down=True), *readers) == []
    assert [reader.report.status for reader in readers] == [Status.UNKNOWN] * 2
