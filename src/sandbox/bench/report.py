"""What the results say: as a JSON document, as tables, and which promises are kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sandbox.bench.baseline import SLACK
from sandbox.bench.deployment import WORKERS
from sandbox.bench.ideal import Ideal, ideal
from sandbox.bench.measure import SUBSCRIPTIONS, Growth, Results, Tick
from sandbox.bench.model import Rhythm, estimate


@dataclass(frozen=True, slots=True)
class Promise:
    """A number that was promised, and what was measured."""

    what: str
    measured: float
    bound: float
    is_at_least: bool = False

    @property
    def is_kept(self) -> bool:
        """Whether the measured number keeps to the bound."""
        return self.measured >= self.bound if self.is_at_least else self.measured <= self.bound


def speedup(results: Results, tick: Tick) -> float:
    """How often a tick fits into the time of the plain way."""
    return results.baseline.seconds_for(tick.subscriptions) / tick.run.seconds


def ideal_of(tick: Tick, *, stream: bool) -> Ideal:
    """The least time that this tick can take."""
    return ideal(tick.subscriptions, tick.changed, stream=stream)


def ideal_ratio(tick: Tick, *, stream: bool) -> float:
    """How much longer a tick takes than it must."""
    return tick.run.seconds / ideal_of(tick, stream=stream).seconds


def memory_ratio(growth: list[Growth]) -> float:
    """The most memory at the largest size beside that at the one before."""
    return growth[-1].peak_mb / growth[-2].peak_mb


def refused(results: Results) -> int:
    """Calls that were too many for Stripe in all runs, but for those of the storm itself."""
    by_ticks = sum(sum(tick.calls.refused.values()) for tick in results.ticks)
    return by_ticks + (results.storm.refused_outside if results.storm else 0)


def model_error(results: Results) -> float:
    """The largest relative difference between counted calls and those of the model."""
    found = 0.0
    for one in results.growth:
        expected = estimate(one.tick.subscriptions, Rhythm.ALL, stream=True, workers=WORKERS).calls
        # The meter, asked once in two hours, is in no proportion to small numbers.
        found = max(found, abs(one.tick.calls.stripe_calls - 1 - expected) / expected)
    return found


def document(results: Results) -> dict[str, Any]:
    """The results as one JSON object; seconds, milliseconds (`_ms`), megabytes (`_mb`), ratios."""
    webhook, cold = results.webhook, results.cold_start
    return {
        "subscriptions": SUBSCRIPTIONS,
        "quick": results.plan.is_quick,
        "baseline": {
            "subscriptions": results.baseline.subscriptions,
            "seconds": results.baseline.seconds,
            "seconds_of_calls": results.baseline.seconds_of_calls,
            "stripe_calls": results.baseline.stripe_calls,
            "openmeter_queries": results.baseline.openmeter_queries,
        },
        "speedup": {
            "plain": speedup(results, results.plain),
            "stream": speedup(results, results.stream),
        },
        "ideal_seconds": {
            "plain": ideal_of(results.plain, stream=False).seconds,
            "stream": ideal_of(results.stream, stream=True).seconds,
        },
        "ideal_ratio": {
            "plain": ideal_ratio(results.plain, stream=False),
            "stream": ideal_ratio(results.stream, stream=True),
        },
        "calls_per_subscription": {
            "full": results.plain.calls_per_subscription,
            "full_stream": results.stream.calls_per_subscription,
            "unchanged": results.unchanged.calls_per_subscription,
        },
        "openmeter_queries_per_subscription": {
            "shared": results.stream.queries_per_subscription,
            "scattered": results.scattered.queries_per_subscription,
        },
        "ticks": {name: _tick(tick) for name, tick in named_ticks(results)},
        "growth": [{**_tick(one.tick), "peak_mb": one.peak_mb} for one in results.growth],
        "memory_ratio": memory_ratio(results.growth),
        "peak_mb": max(one.peak_mb for one in results.growth),
        "model_error": model_error(results),
        "storm": _storm(results),
        "refused": refused(results),
        "webhook": {
            "p50_ms": webhook.p50_ms,
            "p95_ms": webhook.p95_ms,
            "with_clients_p95_ms": webhook.with_clients_p95_ms,
            "cold_start_ms": cold.webhook_ms,
            "cold_start_ratio": cold.ratio,
            "cold_start_without_bytecode_ms": cold.webhook_without_bytecode_ms,
        },
        "layer_mb": cold.layer_mb,
        "promises": {one.what: one.is_kept for one in promises(results)},
    }


def named_ticks(results: Results) -> Iterator[tuple[str, Tick]]:
    """The ticks over a thousand subscriptions, by what is special about them."""
    yield "every hour changed, one event a call", results.plain
    yield "every hour changed, streamed", results.stream
    yield "1 % changed, streamed", results.few
    yield "nothing changed", results.unchanged
    yield "scattered anchors, every hour changed, streamed", results.scattered
    yield "scattered anchors, 1 % changed, streamed", results.scattered_few
    yield "scattered anchors, nothing changed", results.scattered_unchanged


def promises(results: Results) -> Iterator[Promise]:
    """What this software promises of its speed."""
    webhook, cold, storm = results.webhook, results.cold_start, results.storm
    yield Promise("the plain way takes the time of its calls, within", results.baseline.off_by, SLACK)
    yield Promise("times faster than the plain way", speedup(results, results.plain), 25, is_at_least=True)
    yield Promise("times faster, streamed", speedup(results, results.stream), 60, is_at_least=True)
    yield Promise("times the ideal, streamed", ideal_ratio(results.stream, stream=True), 1.5)
    yield Promise("calls a subscription", results.plain.calls_per_subscription, 1.03)
    yield Promise("calls a subscription, streamed", results.stream.calls_per_subscription, 0.04)
    yield Promise("calls a subscription, nothing changed", results.unchanged.calls_per_subscription, 0.03)
    yield Promise("queries a subscription, scattered", results.scattered.queries_per_subscription, 0.02)
    yield Promise("ticks that did not bring Stripe just what was used", _inexact(results), 0)
    yield Promise("calls that were too many for Stripe", refused(results), 0)
    yield Promise("calls beside those that the model expects, off by", model_error(results), 0.10)
    if storm is not None:
        yield Promise("part of the rate after a storm of 429s", storm.recovered, 0.90, is_at_least=True)
        yield Promise("growth of memory, ten times as many", memory_ratio(results.growth), 1.15)
    yield Promise("most memory of a process, MB", max(one.peak_mb for one in results.growth), 256)
    yield Promise("webhook's own code, 95 of 100 below, ms", webhook.p95_ms, 15)
    yield Promise("cold start, times the bare imports", cold.ratio, 1.2)
    yield Promise("layer, MB", cold.layer_mb, 40)


def _inexact(results: Results) -> int:
    return sum(not tick.is_exact for tick in results.ticks)


def _tick(tick: Tick) -> dict[str, Any]:
    return {
        "subscriptions": tick.subscriptions,
        "changed": tick.changed,
        "seconds": tick.run.seconds,
        "processor_seconds": tick.run.processor_seconds,
        "stripe_calls": tick.calls.stripe_calls,
        "openmeter_queries": tick.calls.openmeter_queries,
    }


def _storm(results: Results) -> dict[str, float] | None:
    storm = results.storm
    if storm is None:
        return None
    return {"limit": storm.limit, "before": storm.before, "after": storm.after, "recovered": storm.recovered}
