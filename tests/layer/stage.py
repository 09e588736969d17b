"""Whole reports on a stage: any number of processes, each stopped at every call to the outside.

The real reporter runs on a real event loop, but each call to Stripe, OpenMeter and the ledger waits, before
and after it is carried out, until the test lets it go on. A process that is dropped there has crashed.
What must hold at every moment is asserted where it could break: in the table and in Stripe's stand-in.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from typing import Any, cast

from tests.layer.builders import SETTINGS, Clock, D, MemoryTable, customer_meter, span
from tests.layer.protocol import Behaviour, FakeStripe, no_sleep
from usage_reporting.billing import Billing
from usage_reporting.budget import Budget
from usage_reporting.doubts import Doubts
from usage_reporting.errors import OpenMeterUnavailableError
from usage_reporting.heads import Options
from usage_reporting.ledger import Entry, Head, Item, Key, Ledger
from usage_reporting.meter_event_stream import CARRIED, SESSION, STREAM, carried_pk
from usage_reporting.model import CustomerMeter, Report, SendState, Span, SpanState
from usage_reporting.openmeter import OpenMeter, OpenMeterMeter
from usage_reporting.reporter import Reporter
from usage_reporting.sender import Sender
from usage_reporting.stripe_api import API_VERSION, StripeApi
from usage_reporting.swaps import Swap
from usage_reporting.windows import DAY, HOUR, Slice, cut, floor_hour

EVENING = 1_784_152_800
"""2026-07-15T22:00:00Z"""
RENEWAL = EVENING + HOUR + 2_262
"""2026-07-15T23:37:42Z: bounds lie inside hours."""


class CheckedTable(MemoryTable):
    """The ledger's table: no write may begin a send while another of its entry is open."""

    def put(self, item: Item, read_version: int) -> None:
        key = (item["pk"], item["sk"])
        before = self.items.get(key, {}).get("sends", {})
        super().put(item, read_version)
        if "sends" not in item:
            return
        new = item["sends"].keys() - before.keys()
        was_open = [name for name, send in before.items() if send["state"] == SendState.INTENT]
        assert not (new and was_open), f"{new} while it was not known what became of {was_open}"
        open_slices = [send["slice"] for send in item["sends"].values() if send["state"] == SendState.INTENT]
        assert len(open_slices) == len(set(open_slices)), "two sends of one slice at once"


@dataclass
class Usage:
    """OpenMeter: events of one subject by the second; what it showed is remembered."""

    clock: Clock
    events: dict[int, Decimal] = field(default_factory=dict)
    shown: dict[Slice, Decimal] = field(default_factory=dict)
    """The most that any answer could have shown of a slice."""
    down: bool = False

    def add(self, instant: int, units: int) -> None:
        self.events[instant] = self.events.get(instant, D(0)) + units
        for piece in slices():
            self.shown[piece] = max(self.shown.get(piece, D(0)), self.sum(piece.start, piece.end))

    def sum(self, start: int, end: int) -> Decimal:
        return sum((units for at, units in self.events.items() if start <= at < end), D(0))


def slices() -> list[Slice]:
    """The slices of the two days that the story plays in."""
    return list(cut(EVENING, EVENING + 2 * DAY, [RENEWAL]))


@dataclass(eq=False)
class Process:
    """One run of the reporter, stopped before and after each call to the outside."""

    world: World
    begun: int
    waiting: deque[asyncio.Future[None]] = field(default_factory=deque)
    task: asyncio.Task[list[Report]] | None = None
    dead: bool = False

    async def step(self) -> None:
        """Wait until the test lets this process go on."""
        if self.dead:
            raise asyncio.CancelledError
        future = asyncio.get_running_loop().create_future()
        self.waiting.append(future)
        await future

    @property
    def is_done(self) -> bool:
        return self.task is not None and self.task.done()


class SteppedApi:
    """Stripe as a process sees it."""

    key = "sk_test_1"

    def __init__(self, process: Process) -> None:
        self.process = process

    async def call(
        self,
        method: str,
        path: str,
        params: Mapping[str, Any],
        *,
        idempotency_key: str = "",
        version: str = API_VERSION,
        session: str = "",
    ) -> dict[str, Any]:
        world = self.process.world
        assert method == "post"
        await self.process.step()
        if path == SESSION:
            return world.stripe.session()
        assert bool(session) == (path == STREAM)
        for event in params.get("events", [params]):
            world.check_send(event)
        if session:
            world.check_carried(idempotency_key, params["events"])
        answer = world.stripe.answer_to(path, params, idempotency_key, version)
        await self.process.step()
        if answer is not None:
            raise answer
        return {}


class SteppedBilling:
    """What the reporter asks Stripe beside sending: one subscription that renews once."""

    def __init__(self, process: Process) -> None:
        self.process = process

    @property
    def price_changes(self) -> SteppedBilling:
        return self

    async def usage_held(self, customer: str, meter: str, start: int, end: int) -> Decimal:
        await self.process.step()
        held = self.process.world.stripe.held(start, end)
        await self.process.step()
        return held

    async def swaps(self, since: int, seen_at: int) -> list[Swap]:
        await self.process.step()
        return []

    async def hours_held(self, customer: str, meter: str, start: int, end: int) -> dict[int, Decimal]:
        await self.process.step()
        held = self.process.world.stripe.held
        found = {hour: held(hour, hour + HOUR) for hour in range(start, end, HOUR)}
        await self.process.step()
        return found

    async def state_of(self, asked: Span, now: int) -> Span:
        if asked.state not in {SpanState.ENDED, SpanState.CANCELED}:
            return asked
        await self.process.step()
        state = SpanState.FINAL if self.process.world.is_final else SpanState.DRAFT
        return replace(asked, state=state)


class SteppedOpenMeter:
    """OpenMeter as a process sees it: an answer may be old by the time it arrives."""

    customers = None

    def __init__(self, process: Process) -> None:
        self.process = process

    async def meter(self, slug: str) -> OpenMeterMeter:
        return OpenMeterMeter(slug, "SUM")

    async def hours(
        self, slug: str, subjects: Sequence[str], start: int, end: int
    ) -> dict[str, dict[int, Decimal]]:
        sums = await self._asked(
            lambda usage: {
                hour: usage.sum(max(hour, start), min(hour + HOUR, end))
                for hour in range(floor_hour(start), end, HOUR)
                if any(max(hour, start) <= at < min(hour + HOUR, end) for at in usage.events)
            }
        )
        return {subject: sums for subject in subjects if sums}

    async def totals(self, slug: str, subjects: Sequence[str], start: int, end: int) -> dict[str, Decimal]:
        total = await self._asked(lambda usage: usage.sum(start, end))
        return {subject: total for subject in subjects if total}

    async def _asked[T](self, question: Callable[[Usage], T]) -> T:
        await self.process.step()
        usage = self.process.world.usage
        if usage.down:
            raise OpenMeterUnavailableError("OpenMeter gave no answer")
        answer = question(usage)
        await self.process.step()
        return answer


class SteppedLedger(Ledger):
    """The ledger without threads, stopped before and after each read and write."""

    def __init__(self, process: Process, table: MemoryTable) -> None:
        super().__init__(table)
        self.process = process
        self.memory = table

    async def created_at(self) -> str:
        return self.memory.created_at()

    async def heads(self, pks: Sequence[str]) -> dict[str, Head]:
        await self.process.step()
        return {item["pk"]: Head.from_item(item) for item in self.memory.get([(pk, "head") for pk in pks])}

    async def page(
        self, pks: Sequence[str], meter_pks: Sequence[str]
    ) -> tuple[dict[str, Head], dict[str, Doubts]]:
        items = self.memory.get([(pk, "doubts") for pk in meter_pks])
        return await self.heads(pks), {item["pk"]: Doubts.from_item(item) for item in items}

    async def entries(self, keys: Sequence[Key]) -> dict[Key, Entry]:
        await self.process.step()
        found = {key: Entry(*key) for key in keys}
        found.update(
            {(item["pk"], item["sk"]): Entry.from_item(item) for item in self.memory.get(list(found))}
        )
        return found

    async def write_head(self, head: Head, now: int) -> Head:
        await self._put(head.to_item(now), head.version)
        return replace(head, version=head.version + 1)

    async def write_entry(self, entry: Entry, now: int) -> Entry:
        await self._put(entry.to_item(now), entry.version)
        return replace(entry, version=entry.version + 1)

    async def write_item(self, item: Item, read_version: int) -> None:
        await self._put(item, read_version)

    async def _put(self, item: Item, version: int) -> None:
        await self.process.step()
        self.memory.put(item, version)
        await self.process.step()


class StagedStripe(FakeStripe):
    """Stripe's stand-in, answering at once: the process does the waiting."""

    def answer_to(self, path: str, params: Mapping[str, Any], key: str, version: str) -> Exception | None:
        self.calls.append({"path": path, "params": params, "key": key, "version": version})
        behaviour = self.behaviours.popleft() if self.behaviours else self.otherwise
        return self._answer(behaviour, path, params, key)


class StagedLoop(asyncio.SelectorEventLoop):
    """An event loop on a clock of its own: a pause is over as soon as nothing else can go on."""

    def __init__(self) -> None:
        self.now = 0.0
        super().__init__()

    def time(self) -> float:
        return self.now


class World:
    """One customer meter, one Stripe, one OpenMeter, one ledger; processes come and go."""

    def __init__(self, *, allow_decrease: bool = False, is_streaming: bool = False) -> None:
        self.is_streaming = is_streaming
        self.loop = StagedLoop()
        self.clock = Clock(EVENING + 30 * 60)
        self.stripe = StagedStripe(self.clock)
        self.usage = Usage(self.clock)
        self.table = CheckedTable()
        self.settings = replace(SETTINGS, allow_decrease=allow_decrease)
        self.is_final = False
        self.facts: dict[str, tuple[int, Any]] = {}
        self.processes: list[Process] = []

    # Processes

    def start(self, options: Options | None = None, budget: Budget | None = None) -> Process:
        """A new process at its first call to the outside."""
        process = Process(self, self.clock())
        api, ledger = SteppedApi(process), SteppedLedger(process, self.table)
        sender = Sender(cast("StripeApi", api), ledger, self.clock, no_sleep, is_streaming=self.is_streaming)
        reporter = Reporter(
            settings=self.settings,
            billing=cast("Billing", SteppedBilling(process)),
            openmeter=cast("OpenMeter", SteppedOpenMeter(process)),
            ledger=ledger,
            sender=sender,
            clock=self.clock,
        )
        work = reporter.report([self.customer_meter()], options or Options(full=True), budget)
        process.task = self.loop.create_task(work)
        self.processes.append(process)
        self._settle()
        return process

    def advance(self, process: Process, steps: int = 1) -> bool:
        """Let a process make so many steps; False when it has come to its end."""
        for _ in range(steps):
            if process.is_done:
                break
            process.waiting.popleft().set_result(None)
            self._settle()
        if process.is_done:
            self._forget(process)
            return False
        return True

    def crash(self, process: Process) -> None:
        """Drop a process where it is: nothing of it reaches the outside any more."""
        process.dead = True
        assert process.task is not None
        process.task.cancel()
        self._settle()
        self._forget(process)

    def finish(self, process: Process) -> Report:
        """Let a process come to its end."""
        steps = 0
        while self.advance(process):
            steps += 1
            assert steps < 2_000, "it never ends"
        assert process.task is not None
        [report] = process.task.result()
        return report

    def run(self, options: Options | None = None) -> Report:
        """A process from its beginning to its end."""
        return self.finish(self.start(options))

    def _settle(self) -> None:
        """Run the loop until every process waits for a step, or has ended."""
        for _ in range(100):
            for _ in range(4):  # what is called may call again
                self.loop.call_soon(self.loop.stop)
                self.loop.run_forever()
            if all(process.waiting or process.is_done for process in self.processes):
                return
            self.loop.now += 0.1
        raise AssertionError("a process waits for nothing that is on the stage")

    def _forget(self, process: Process) -> None:
        if process in self.processes:
            self.processes.remove(process)

    def close(self) -> None:
        for process in list(self.processes):
            self.crash(process)
        self.loop.close()

    # What is true

    def customer_meter(self) -> CustomerMeter:
        """What Stripe's lists show now."""
        now = self.clock()
        first, second = (EVENING - 20 * DAY, RENEWAL), (RENEWAL, RENEWAL + 30 * DAY)
        shown = [span(*first)] if now < RENEWAL else [span(*first, state=SpanState.ENDED), span(*second)]
        return customer_meter(*shown, seen_at=now)

    def check_send(self, params: Mapping[str, Any]) -> None:
        """An identifier names one fact, and its intent stands in the ledger before it is sent."""
        stamp = params["timestamp"]
        if isinstance(stamp, str):
            stamp = int(datetime.fromisoformat(stamp).timestamp())
        fact = (stamp, params["payload"]["value"])
        known = self.facts.setdefault(params["identifier"], fact)
        assert known == fact, "one identifier for two facts"
        sends = [send for item in self.table.items.values() for send in item.get("sends", {}).items()]
        assert params["identifier"] in dict(sends), "sent without an intent"

    def check_carried(self, request: str, events: Sequence[Mapping[str, Any]]) -> None:
        """What a request carries stands in the ledger before it goes out."""
        item = self.table.items[(carried_pk("self", "test", request), CARRIED)]
        assert item["identifiers"] == [event["identifier"] for event in events]

    def check_bounds(self) -> None:
        """Stripe never holds more of a slice than OpenMeter ever showed of it."""
        for piece in slices():
            assert self.held(piece) <= self.usage.shown.get(piece, D(0)), piece

    def held(self, piece: Slice) -> Decimal:
        return self.stripe.held(piece.start, piece.end)

    def differences(self) -> dict[Slice, Decimal]:
        """What OpenMeter holds of each slice, less what Stripe does."""
        pairs = {piece: self.usage.sum(piece.start, piece.end) - self.held(piece) for piece in slices()}
        return {piece: difference for piece, difference in pairs.items() if difference}

    def noted(self) -> dict[Slice, Decimal]:
        """What the ledger has counted as usage that no invoice takes any more."""
        noted = {
            int(start): units
            for item in self.table.items.values()
            for start, units in item.get("undelivered", {}).items()
            if units
        }
        return {piece: noted[piece.start] for piece in slices() if piece.start in noted}

    @property
    def open_intents(self) -> list[str]:
        return [
            name
            for item in self.table.items.values()
            for name, send in item.get("sends", {}).items()
            if send["state"] == SendState.INTENT
        ]


__all__ = ["EVENING", "RENEWAL", "Behaviour", "Process", "World", "slices"]
