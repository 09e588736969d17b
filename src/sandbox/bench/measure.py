"""All measurements of one run, each against the same stand-ins with the same latencies and limits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from sandbox.bench.baseline import Baseline, measure_baseline
from sandbox.bench.cold_start import ColdStart, measure_cold_start
from sandbox.bench.deployment import Deployment, Run
from sandbox.bench.known_ledger import know_everybody
from sandbox.bench.stand_ins import (
    HOUR,
    START,
    STRIPE_LATENCY_S,
    Anchors,
    Calls,
    StandIns,
)
from sandbox.bench.storm import Storm, StormMeasurement
from sandbox.bench.webhook import WarmWebhook, measure_webhook
from sandbox.scratch import scratch_folder

SUBSCRIPTIONS = 1_000
"""At which ours, the plain way and the ideal are compared."""
FEW = 0.01

Say = Callable[[str, float], None]
"""Told what is under way, and what share of the whole is done, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    baseline: int
    """Subscriptions of the plain way, which takes 0.14 s for each."""
    sizes: Sequence[int]
    """Subscriptions of the growth."""
    rounds: int
    """Of each tick that is timed."""
    is_quick: bool = False

    def seconds(self) -> dict[str, float]:
        """About how long each part takes, to say how much is left."""
        by_name = {PLAIN_WAY: 0.14 * self.baseline, WEBHOOK: 15.0 if self.is_quick else 60.0}
        by_name |= dict.fromkeys((TOGETHER, APART), 10.0 + 5.0 * self.rounds)
        return by_name | {_growth_of(size): 5.0 + size / 600 for size in self.sizes}


PLAIN_WAY = "the plain way, one call after the other"
WEBHOOK = "the webhook, warm and cold"
TOGETHER = f"{SUBSCRIPTIONS:,} subscriptions that renew at one instant"
APART = f"{SUBSCRIPTIONS:,} subscriptions that renew at as many instants"


def _growth_of(size: int) -> str:
    return f"a tick over {size:,} subscriptions"


WHOLE = Plan(baseline=SUBSCRIPTIONS, sizes=(100, 1_000, 10_000, 100_000), rounds=4)
QUICK = Plan(baseline=20, sizes=(100,), rounds=1, is_quick=True)


@dataclass(frozen=True, slots=True)
class Tick:
    """One tick over many subscriptions: how long it took, and what it asked for."""

    subscriptions: int
    changed: int
    """How many had an hour with new usage."""
    run: Run
    calls: Calls
    sent: int
    """Units that Stripe held more than before."""

    @property
    def calls_per_subscription(self) -> float:
        """Calls to Stripe."""
        return self.calls.stripe_calls / self.subscriptions

    @property
    def queries_per_subscription(self) -> float:
        """Queries to OpenMeter."""
        return self.calls.openmeter_queries / self.subscriptions

    @property
    def is_exact(self) -> bool:
        """Whether just what was used is in Stripe now."""
        return self.sent == self.changed and not self.run.failures


@dataclass(frozen=True, slots=True)
class Growth:
    """A tick with the stream in which everybody's last hour is new, and the most memory of a process."""

    tick: Tick
    peak_mb: float


@dataclass(slots=True)
class Results:
    """What one run has measured."""

    plan: Plan
    baseline: Baseline
    plain: Tick
    stream: Tick
    unchanged: Tick
    few: Tick
    scattered: Tick
    scattered_few: Tick
    scattered_unchanged: Tick
    growth: list[Growth]
    """By size."""
    webhook: WarmWebhook
    cold_start: ColdStart
    storm: Storm | None = None

    @property
    def ticks(self) -> list[Tick]:
        """Every tick that is shown."""
        shared = [self.plain, self.stream, self.unchanged, self.few]
        scattered = [self.scattered, self.scattered_few, self.scattered_unchanged]
        return [*shared, *scattered, *(each.tick for each in self.growth)]


class Measured:
    """A context manager: subscriptions that the ledger knows, and ticks over them hour after hour."""

    def __init__(self, subscriptions: int, anchors: Anchors) -> None:
        self._subscriptions = subscriptions
        self._stand_ins = StandIns()
        self._folder = scratch_folder("usage-reporter-bench-")
        self._anchors: Anchors = anchors
        self._now = START

    def __enter__(self) -> Self:
        self._stand_ins.__enter__()
        self._customers = self._stand_ins.populate(self._subscriptions, self._anchors)
        self._stand_ins.set(latency=0, enforce_rate_limits=False)
        know_everybody(self._stand_ins, self._ledger, self._now)
        self._stand_ins.set(latency=STRIPE_LATENCY_S, enforce_rate_limits=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._stand_ins.__exit__(None, None, None)
        self._folder.cleanup()

    @property
    def _ledger(self) -> Path:
        return Path(self._folder.name) / "ledger"

    def deployed(self, *, stream: bool) -> Deployment:
        """The functions, with the ledger of all ticks so far."""
        return Deployment(self._stand_ins, stream=stream, ledger=self._ledger)

    def tick(self, deployment: Deployment, share: float = 1.0) -> Tick:
        """One tick an hour later; so large a share of the customers used something meanwhile."""
        self._now += HOUR
        changed = round(self._subscriptions * share)
        every = max(self._subscriptions // changed, 1) if changed else 1
        self._stand_ins.travel(self._now)
        if changed:
            customers = self._customers[::every][:changed]
            self._stand_ins.use(customers, self._now - self._now % HOUR - HOUR)
        self._stand_ins.count()
        held = self._stand_ins.held()
        run = deployment.tick(self._now)
        calls = self._stand_ins.count()
        return Tick(self._subscriptions, changed, run, calls, self._stand_ins.held() - held)

    def ticks(self, deployment: Deployment, rounds: int) -> Tick:
        """The fastest of some ticks after one that warms up: what else a machine does only adds to them."""
        self.tick(deployment)
        found = [self.tick(deployment) for _ in range(rounds)]
        return min(found, key=lambda one: one.run.seconds)


class _Progress:
    """How far the whole is, by the time that its parts usually take."""

    def __init__(self, plan: Plan, say: Say) -> None:
        self._seconds = plan.seconds()
        self._say = say

    def enter(self, part: str, share: float = 0.0) -> None:
        """Say that a part is under way, and what share of it is done."""
        names = list(self._seconds)
        done = sum(self._seconds[name] for name in names[: names.index(part)])
        self._say(part, (done + share * self._seconds[part]) / sum(self._seconds.values()))


def measure(plan: Plan, say: Say) -> Results:
    """Measure everything in one run; `say` is told what is under way."""
    progress = _Progress(plan, say)
    storm = None if plan.is_quick else StormMeasurement()
    baseline = measure_baseline(plan.baseline, lambda done: progress.enter(PLAIN_WAY, done / plan.baseline))
    found_storm = storm.result() if storm else None
    progress.enter(WEBHOOK)
    webhook = measure_webhook(quick=plan.is_quick)
    cold_start = measure_cold_start(quick=plan.is_quick)
    progress.enter(TOGETHER)
    with Measured(SUBSCRIPTIONS, "shared") as shared, shared.deployed(stream=False) as deployment:
        plain = shared.tick(deployment) if plan.is_quick else shared.ticks(deployment, plan.rounds)
    with Measured(SUBSCRIPTIONS, "shared") as shared, shared.deployed(stream=True) as deployment:
        stream = shared.ticks(deployment, plan.rounds)
        grown = [Growth(stream, deployment.peak_mb())] if plan.is_quick else []
        few = shared.tick(deployment, FEW)
        unchanged = shared.tick(deployment, 0)
    progress.enter(APART)
    with Measured(SUBSCRIPTIONS, "scattered") as apart, apart.deployed(stream=True) as deployment:
        scattered = apart.ticks(deployment, plan.rounds)
        scattered_few = apart.tick(deployment, FEW)
        scattered_unchanged = apart.tick(deployment, 0)
    for size in plan.sizes:
        progress.enter(_growth_of(size))
        grown.append(_growth(size))
    return Results(
        plan=plan,
        baseline=baseline,
        plain=plain,
        stream=stream,
        unchanged=unchanged,
        few=few,
        scattered=scattered,
        scattered_few=scattered_few,
        scattered_unchanged=scattered_unchanged,
        growth=sorted(grown, key=lambda one: one.tick.subscriptions),
        webhook=webhook,
        cold_start=cold_start,
        storm=found_storm,
    )


def _growth(subscriptions: int) -> Growth:
    with Measured(subscriptions, "shared") as many, many.deployed(stream=True) as deployment:
        return Growth(many.tick(deployment), deployment.peak_mb())
