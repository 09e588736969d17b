"""Plays one world after the other until enough periods were billed, and sums up."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from typing import Any, Final, Literal

from sandbox.simulator.generate import history_of
from sandbox.simulator.history import History
from sandbox.simulator.shrink import as_test, shrunk
from sandbox.simulator.trouble import ACCOUNT_FAULTS, KINDS
from sandbox.simulator.verdict import Verdict, Wrong, judge
from sandbox.simulator.world import World
from sandbox.stripe.undocumented import AS_ASSUMED, Undocumented

_AHEAD: Final = 4
"""Worlds a process has waiting for it."""
_WRONG_SHOWN: Final = 1
"""Wrong worlds that are shrunk: it takes a minute or two each."""


@dataclass(frozen=True, slots=True)
class Played:
    """What one world came to."""

    seed: str
    verdict: Verdict
    faults: Counter[str]


@dataclass(slots=True)
class Summary:
    """What all worlds came to."""

    seed: int
    periods: int = 0
    worlds: int = 0
    wrong: list[dict[str, Any]] = field(default_factory=list)
    over: int = 0
    under: int = 0
    held: int = 0
    reports_held: int = 0
    predicted: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    converged_after_s: int = 0

    def add(self, played: Played) -> None:
        """Count one world."""
        verdict = played.verdict
        self.worlds += 1
        self.periods += verdict.periods
        self.over += verdict.over
        self.under += verdict.under
        self.held += verdict.held
        self.reports_held += verdict.reports_held
        self.predicted += verdict.predicted
        self.faults.update(played.faults)
        self.converged_after_s = max(self.converged_after_s, verdict.converged_after_s)

    def document(self) -> dict[str, Any]:
        """The summary as one JSON object."""
        return {
            "seed": self.seed,
            "periods": self.periods,
            "worlds": self.worlds,
            "wrong": self.wrong,
            "over": self.over,
            "under": self.under,
            "held": self.held,
            "reports_held": self.reports_held,
            "predicted": self.predicted,
            "faults": dict(sorted(self.faults.items())),
            "converged_after_s": self.converged_after_s,
        }


@dataclass(frozen=True, slots=True)
class Worlds:
    """What the worlds of a campaign have in common."""

    kinds: Sequence[str] = (*KINDS, *ACCOUNT_FAULTS)
    """The faults that may strike."""
    meter_stream: bool | None = None
    """The setting STRIPE_METER_STREAM; None: on in half of them."""
    brake: bool = False
    undocumented: Undocumented = AS_ASSUMED
    openmeter_api: Literal["v1", "v3"] = "v1"
    accounts: int = 1
    """How many Stripe accounts each has: the platform's own, and connected ones."""
    over_event_bridge: bool = False
    """Whether Stripe's events come over Amazon EventBridge, and not to API Gateway."""

    def history(self, seed: str) -> History:
        """The history of one seed."""
        made = history_of(
            seed, self.kinds, meter_stream=self.meter_stream, brake=self.brake, accounts=self.accounts
        )
        return replace(
            made,
            undocumented=self.undocumented,
            openmeter_api=self.openmeter_api,
            over_event_bridge=self.over_event_bridge,
        )

    def play(self, seed: str) -> Played:
        """Play the world of one seed."""
        return play_history(self.history(seed))


def play_history(history: History) -> Played:
    """Play one history."""
    outcome = World(history).play()
    return Played(history.seed, judge(history, outcome), Counter(kind for _, kind in outcome.struck))


def campaign(
    seed: int,
    periods: int,
    worlds: Worlds,
    *,
    processes: int | None = None,
    progress: Callable[[int], None] = lambda _periods: None,
    shrinking: Callable[[str], None] = lambda _seed: None,
) -> Summary:
    """Play worlds until so many periods were billed; what is wrong is shrunk first.

    The worlds of a seed are the same whatever the number of processes, and however Stripe behaves where it is
    undocumented. `progress` is told of the periods so far, `shrinking` of the world that is made smaller.
    """
    summary = Summary(seed)
    for played in _played(seed, worlds.play, processes or os.cpu_count() or 1):
        summary.add(played)
        progress(summary.periods)
        if played.verdict.wrong:
            shrinking(played.seed)
            history = worlds.history(played.seed)
            summary.wrong.append(_shown(played, history, in_full=len(summary.wrong) < _WRONG_SHOWN))
        if summary.periods >= periods:
            break
    return summary


def _played(seed: int, play_one: Callable[[str], Played], processes: int) -> Iterator[Played]:
    number = 0
    if processes == 1:
        while True:
            yield play_one(f"{seed}.{number}")
            number += 1
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        waiting: list[Future[Played]] = []
        try:
            while True:
                while len(waiting) < processes * _AHEAD:
                    waiting.append(pool.submit(play_one, f"{seed}.{number}"))
                    number += 1
                yield waiting.pop(0).result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _shown(played: Played, history: History, *, in_full: bool) -> dict[str, Any]:
    """A wrong world: who, the seed, and in full the shortest history with its test."""
    first = played.verdict.wrong[0]
    of_contract = {one.name: one.customer for one in history.contracts}
    shown: dict[str, Any] = {
        "seed": played.seed,
        "customer": of_contract.get(first.contract, first.contract),
        "contract": first.contract,
        "what": [str(wrong) for wrong in played.verdict.wrong],
    }
    if in_full:
        whats = {_what_alone(wrong) for wrong in played.verdict.wrong}

        def fails_alike(history: History) -> bool:
            return any(_what_alone(wrong) in whats for wrong in play_history(history).verdict.wrong)

        short = shrunk(history, fails_alike)
        shown["shortest"] = {
            "contracts": len(short.contracts),
            "usage": len(short.usage),
            "acts": len(short.acts),
            "faults": len(short.faults),
            "what": [str(wrong) for wrong in play_history(short).verdict.wrong],
        }
        shown["test"] = as_test(short)
    return shown


def _what_alone(wrong: Wrong) -> str:
    """What is wrong without who, when and how much: less history must not fail for another reason."""
    return re.sub(r"\d+(\.\d+)?|\b(cus|mtr|si|sub)_\w+", "", wrong.what)
