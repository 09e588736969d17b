"""A page goes to the pipelines of its targets, and each customer meter has an outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest

from tests.layer.builders import NOON, SETTINGS, Clock, D, MemoryTable, customer_meter, legacy
from tests.layer.protocol import FakeStripe, SteppedLedger, no_sleep
from tests.layer.test_recording import FakeOpenMeter
from usage_reporting.billing import Billing
from usage_reporting.budget import Budget
from usage_reporting.config import Mode, Settings
from usage_reporting.errors import LostRaceError
from usage_reporting.heads import Options
from usage_reporting.ledger import Head
from usage_reporting.mirroring import Mirroring
from usage_reporting.model import CustomerMeter, Line, Report, Status, Target
from usage_reporting.openmeter import OpenMeter
from usage_reporting.recording import Recording
from usage_reporting.reporter import Reporter
from usage_reporting.sender import Sender
from usage_reporting.totalling import Totalling


@dataclass
class FakePipeline:
    """Notes what it is given; loses some races."""

    name: str
    got: list[tuple[str, str, Options, Budget]]
    races: int = 0
    heads: list[Head | None] = field(default_factory=list)

    async def report(self, reports: Sequence[Report], options: Options, budget: Budget) -> None:
        self.got.extend((self.name, one.customer_meter.customer, options, budget) for one in reports)


class FakeRecording(FakePipeline):
    async def report(  # type: ignore[override]
        self, report: Report, stored: Head | None, options: Options, budget: Budget
    ) -> None:
        await super().report([report], options, budget)
        self.heads.append(stored)
        report.lines.append(Line("cus_1", "price_1", "m1", D(1), 0, 1))
        if self.races:
            self.races -= 1
            raise LostRaceError("somebody else was faster")


class Stage:
    """A reporter, with or without its own pipelines."""

    def __init__(self, settings: Settings = SETTINGS, races: int = 0) -> None:
        clock = Clock(NOON)
        self.stripe = FakeStripe(clock)
        self.ledger = SteppedLedger(MemoryTable())
        self.openmeter = FakeOpenMeter(D(5))
        self.reporter = Reporter(
            settings,
            cast("Billing", None),
            cast("OpenMeter", self.openmeter),
            self.ledger,
            Sender(self.stripe.api, self.ledger, clock, no_sleep),
            clock,
        )
        self.got: list[tuple[str, str, Options, Budget]] = []
        self.recording = FakeRecording("recording", self.got, races)

    def with_fakes(self) -> Stage:
        self.reporter.mirroring = cast("Mirroring", FakePipeline("mirroring", self.got))
        self.reporter.totalling = cast("Totalling", FakePipeline("totalling", self.got))
        self.reporter.recording = cast("Recording", self.recording)
        return self

    def report(self, *page: CustomerMeter, **how: Any) -> list[Report]:
        return asyncio.run(self.reporter.report(page, **how))


PAGE = (
    legacy(customer="cus_r"),
    customer_meter(customer="cus_l", target=Target.LAST),
    customer_meter(customer="cus_x", refusal="what it measures does not add up"),
    customer_meter(customer="cus_m"),
)


def test_each_target_has_its_pipeline() -> None:
    stage = Stage().with_fakes()
    options, budget = Options(full=True), Budget(5.0, lambda: 0.0)

    reports = stage.report(*PAGE, options=options, budget=budget)

    assert [report.customer_meter for report in reports] == list(PAGE)
    assert stage.got == [
        ("mirroring", "cus_m", options, budget),
        ("totalling", "cus_l", options, budget),
        ("recording", "cus_r", options, budget),
    ]


def test_what_is_refused_goes_nowhere() -> None:
    stage = Stage().with_fakes()
    report = stage.report(PAGE[2])[0]

    assert (report.status, report.reason) == (Status.REFUSED, "what it measures does not add up")
    assert stage.got == []


@pytest.mark.parametrize("target", [Target.MIRROR, Target.LAST])
def test_a_shadow_writes_nothing_whatever_is_asked(target: Target) -> None:
    stage = Stage(replace(SETTINGS, mode=Mode.SHADOW)).with_fakes()
    stage.report(customer_meter(target=target), options=Options(full=True))

    [(_, _, options, _)] = stage.got
    assert options == Options(full=True, dry_run=True)


def test_a_legacy_price_that_lost_a_race_is_read_again() -> None:
    stage = Stage(races=1).with_fakes()
    one = legacy()
    head = Head(one.pk, "cus_1", "m1", "1")
    stage.ledger.memory.put(head.to_item(NOON), 0)

    [report] = stage.report(one)

    assert report.status is Status.UNCHANGED
    assert len(report.lines) == 1
    assert stage.recording.heads == [replace(head, version=1)] * 2


def test_without_time_no_legacy_price_is_recorded() -> None:
    stage = Stage().with_fakes()

    [report] = stage.report(legacy(), budget=Budget(0.0, lambda: 1.0))

    assert (report.status, stage.got) == (Status.HANDED_OVER, [])


def test_the_parts_are_wired() -> None:
    stage = Stage()

    [report] = stage.report(legacy())

    assert report.status is Status.SENT
    assert list(stage.stripe.records.values()) == [5]
