"""All measurements of one run, each against the same stand-ins with the same latencies and limits."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
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

SUBSCRIPTIONS = 1_000
"""At which ours, the plain way and the ideal are compared."""
FEW = 0.01

Say = Callable[[str], None]


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
    growth: list[Growth] = field(default_factory=list)
    storm: Storm | None = None
    webhook: WarmWebhook | None = None
    cold_start: ColdStart | None = None

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
        self._folder = tempfile.TemporaryDirectory(dir=_memory())
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


def measure(plan: Plan, say: Say) -> Results:
    """Measure everything in one run; `say` is told what is under way."""
    storm = None if plan.is_quick else StormMeasurement()

    def plain_way(done: int) -> None:
        if done % 10 == 0:
            say(f"the plain way, one call after the other: {done} of {plan.baseline} subscriptions")

    baseline = measure_baseline(plan.baseline, plain_way)
    found_storm = storm.result() if storm else None
    results = _of_a_thousand(plan, baseline, say)
    results.storm = found_storm
    say("the webhook, warm and cold")
    results.webhook = measure_webhook(quick=plan.is_quick)
    results.cold_start = measure_cold_start(quick=plan.is_quick)
    for size in plan.sizes:
        say(f"a tick over {size:,} subscriptions")
        results.growth.append(_growth(size))
    results.growth.sort(key=lambda one: one.tick.subscriptions)
    return results


def _of_a_thousand(plan: Plan, baseline: Baseline, say: Say) -> Results:
    say(f"{SUBSCRIPTIONS:,} subscriptions that renew at one instant")
    with Measured(SUBSCRIPTIONS, "shared") as shared, shared.deployed(stream=False) as deployment:
        plain = shared.tick(deployment) if plan.is_quick else shared.ticks(deployment, plan.rounds)
    with Measured(SUBSCRIPTIONS, "shared") as shared, shared.deployed(stream=True) as deployment:
        stream = shared.ticks(deployment, plan.rounds)
        grown = Growth(stream, deployment.peak_mb())
        few = shared.tick(deployment, FEW)
        unchanged = shared.tick(deployment, 0)
    say(f"{SUBSCRIPTIONS:,} subscriptions that renew at as many instants")
    with Measured(SUBSCRIPTIONS, "scattered") as scattered, scattered.deployed(stream=True) as deployment:
        return Results(
            plan=plan,
            baseline=baseline,
            plain=plain,
            stream=stream,
            unchanged=unchanged,
            few=few,
            scattered=scattered.ticks(deployment, plan.rounds),
            scattered_few=scattered.tick(deployment, FEW),
            scattered_unchanged=scattered.tick(deployment, 0),
            growth=[grown] if plan.is_quick else [],
        )


def _growth(subscriptions: int) -> Growth:
    with Measured(subscriptions, "shared") as many, many.deployed(stream=True) as deployment:
        return Growth(many.tick(deployment), deployment.peak_mb())


def _memory() -> str | None:
    """Where files are kept in memory, if this machine has it."""
    folder = Path("/dev/shm")  # noqa: S108 - only a parent of temporary folders with random names
    return str(folder) if folder.is_dir() else None
