"""Plays a history: Stripe, OpenMeter, AWS and the functions in one process, on one clock."""

from __future__ import annotations

import json
import logging
import random
import threading
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import stripe._util as stripe_log

from sandbox.openmeter import OpenMeterSandbox, OpenMeterSettings
from sandbox.simulator.accounts import SimulatedAccount
from sandbox.simulator.history import METERS, Act, Contract, Fault, History
from sandbox.simulator.ledger_strikes import LedgerStrikes, LedgerTable
from sandbox.simulator.looks import RENEWAL_DELAY
from sandbox.simulator.machine import VirtualClock
from sandbox.simulator.merchant import API_KEY, Merchant
from sandbox.simulator.mix_ups import mixed_up
from sandbox.simulator.operator import report_customer
from sandbox.simulator.outcome import (
    Names,
    Outcome,
    Undelivered,
    judged_of,
    lines_of,
    losses_of,
    received_of,
    told_of_end,
    undelivered_of,
)
from sandbox.simulator.processes import URL, Process, Shared
from sandbox.simulator.queue import MemoryQueue, Message
from sandbox.simulator.replay import changed_by_replay
from sandbox.simulator.trouble import ACCOUNT_FAULTS, KINDS, CrashError, Trouble
from sandbox.stripe import StripeSandbox, StripeSettings
from sandbox.stripe.gateway import Gateway
from sandbox.stripe.partner_events import Entry, on_the_bus
from sandbox.stripe.settings import LIVE_RETRY_DELAYS
from sandbox.stripe.undocumented import Undocumented
from sandbox.stripe.webhooks import Webhooks
from usage_reporting import event_bridge, telemetry
from usage_reporting.accounts import OWN_ACCOUNT, ConnectedAccounts
from usage_reporting.brake import AtDeadline
from usage_reporting.config import Settings
from usage_reporting.credentials import Secret
from usage_reporting.errors import UsageReportingError
from usage_reporting.period_bounds import PeriodBounds
from usage_reporting.renewals import DELETED
from usage_reporting.ticks import tick, work_off
from usage_reporting.webhook import answer

MINUTE = 60
HOUR = 3600
QUARTER = 15 * MINUTE
_MID_PERIOD = 6 * HOUR
_HELD = 2 * HOUR
_AFTER_THE_HOUR = 2 * MINUTE


class NoDeadLetters(event_bridge.DeadLetters):
    """Every event here can be read."""

    def send(self, body: str, reason: str) -> None:
        """Fail: it is a defect of the stand-in, or of what reads."""
        raise AssertionError(f"{reason}: {body[:200]}")


NONE = NoDeadLetters("")


@dataclass(frozen=True, slots=True)
class _Coming:
    """What will happen, and in which account."""

    what: Contract | Act
    account: SimulatedAccount


class World:
    """One history being played."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.clock = VirtualClock(history.start)
        settings = StripeSettings(
            seed=1,
            api_keys={API_KEY, "sk_test_next"},
            renewal_delay=RENEWAL_DELAY,
            meter_event_latency=0.0,
            webhook_retry_delays=LIVE_RETRY_DELAYS,
            answered_when_due=False,
            finalization_grace=history.grace,
            undocumented=_undocumented(history),
            same_ids=bool(history.connected),
        )
        self.stripe = StripeSandbox(
            self.clock, settings, deliver=self._deliver, hand_over=self._put_on_event_queue
        )
        gateway = Gateway(self.stripe)
        # Rounded bounds are for servers that refuse odd seconds.
        made_before_2025 = OpenMeterSettings(rounded_bounds=history.bounds != "exact")
        self.openmeter = OpenMeterSandbox(self.clock, made_before_2025)
        for slug, aggregation in METERS.items():
            self.openmeter.create_meter(slug, f"used_{slug}", aggregation=aggregation)
        self.merchant = Merchant(gateway, self.clock, history.bounds)
        everywhere = [fault for one in (history, *history.connected) for fault in one.faults]
        self.trouble = Trouble(_of_kinds(everywhere, KINDS), self.clock)
        self.accounts = list(self._accounts(gateway))
        listening = self._listen()
        self.endpoints = [endpoint for endpoint, _ in listening]
        self.table = LedgerTable()
        self.queue = MemoryQueue(self.clock)
        self.events = MemoryQueue(self.clock, visibility=300, receives=72, retention=4 * 24 * HOUR)
        """Stripe's events over EventBridge."""
        self._told_of_end: dict[str, int] = {}
        self.shared = Shared(
            clock=self.clock,
            stripe=self.stripe,
            gateway=gateway,
            openmeter=self.openmeter,
            table=self.table,
            queue=self.queue,
            trouble=self.trouble,
            settings=Settings(
                openmeter_url=URL,
                openmeter_api=history.openmeter_api,
                stripe_api_base=URL,
                period_bounds=PeriodBounds(history.bounds),
                allow_decrease=history.allow_decrease,
                hold_drafts=history.hold_drafts,
                stripe_meter_stream=history.meter_stream,
                brake_factor=Decimal(2) if history.brake else Decimal(0),
                brake_deadline=AtDeadline.SEND,
                connected_accounts=ConnectedAccounts(is_all=bool(history.connected)),
                subject_with_account=bool(history.connected),
            ),
            secret=Secret(API_KEY, tuple(secret for _, secret in listening)),
            troubles={one.stripe.settings.account_id: one.trouble for one in self.accounts},
            page_size=history.page_size,
            interleave=self._interleave,
        )
        self._processes: dict[str, Process] = {}
        self._nested = False
        self._at_work: list[Message] = []
        self._next_tick = history.start + QUARTER
        coming = [_Coming(what, one) for one in self.accounts for what in one.history.happenings]
        self._acts = sorted(coming, key=lambda one: one.what.at)
        self._busy = sorted(
            [
                *(
                    instant
                    for one in self.accounts
                    for use in one.history.usage
                    for instant in (use.time, use.seen_at)
                ),
                *(one.what.at for one in self._acts),
                *(fault.at for fault in everywhere),
            ]
        )
        self.strikes = LedgerStrikes(history.faults, self.shared, self.table)

    def _accounts(self, gateway: Gateway) -> Iterator[SimulatedAccount]:
        """The platform's own, and those connected to it; all have the same customers, by the same ids."""
        history = self.history
        own = Trouble(_of_kinds(history.faults, ACCOUNT_FAULTS), self.clock, self.trouble)
        yield SimulatedAccount(OWN_ACCOUNT, history, self.stripe, self.merchant, own)
        for number, other in enumerate(history.connected, 1):
            name = f"acct_connected{number}"
            stripe = self.stripe.connect(name, finalization_grace=other.grace)
            trouble = Trouble(_of_kinds(other.faults, ACCOUNT_FAULTS), self.clock, self.trouble)
            merchant = Merchant(gateway, self.clock, history.bounds, name)
            yield SimulatedAccount(name, other, stripe, merchant, trouble)

    @property
    def stand_ins(self) -> dict[str, StripeSandbox]:
        """The stand-in for each Stripe account."""
        return {one.name: one.stripe for one in self.accounts}

    def play(self, *, replay: bool = False) -> Outcome:
        """Let everything happen, and see what came of it; `replay`: then all of it again, thrice."""
        with _quietly(self.history.seed):
            self._load_usage()
            while (instant := self._next()) is not None and instant <= self.history.end:
                self.clock.reach(instant)
                self._step()
            self.clock.reach(self.history.end)
            outcome = self._outcome()
            if replay:
                self.trouble.stop()
                outcome.replayed = list(changed_by_replay(self))
            self._end_processes()
            for one in self.accounts:
                one.merchant.close()
        return outcome

    # Time

    def _next(self) -> int | None:
        queued = [self.queue.next_due(), self.events.next_due()]
        due = [self.stripe.next_due(), *queued, self._next_tick, self.strikes.next_due()]
        if self._acts:
            due.append(self._acts[0].what.at)
        return min((instant for instant in due if instant is not None), default=None)

    def _step(self) -> None:
        self.strikes.keep_copies()
        if self.strikes.strike():
            self._end_processes()
        self._disturb_webhooks()
        self.stripe.run_due()
        while self._acts and self._acts[0].what.at <= self.clock():
            coming = self._acts.pop(0)
            self._do(coming.what, coming.account)
            self.stripe.run_due()
        self._roll_secrets()
        if self._next_tick <= self.clock():
            self._tick(self._next_tick)
        self.work()
        self.strikes.look(lambda work: self._run("operator", work))

    def _do(self, what: Contract | Act, account: SimulatedAccount) -> None:
        """Let something happen, and note when it really did: a function at work may have taken time."""
        merchant = account.merchant
        if isinstance(what, Contract):
            account.done.append(replace(what, at=self.clock()))
            merchant.subscribe(what)
            return
        if what.reported:
            work = report_customer(merchant.customer_of[what.contract], account.name)
            self._run("operator", lambda process: process.container.run(work(process)))
            self._put_off(replace(what, reported=False), 2, account)
            return
        subscription = account.stripe.account.subscriptions.get(merchant.subscriptions[what.contract])
        now = self.clock()
        if not subscription.is_paused and any(item.period_end <= now for item in subscription.items):
            # It is about to be renewed.
            self._put_off(what, RENEWAL_DELAY, account)
        else:
            account.done.append(replace(what, at=now))
            merchant.act(what)

    def _put_off(self, what: Act, seconds: int, account: SimulatedAccount) -> None:
        later = _Coming(replace(what, at=self.clock() + seconds), account)
        self._acts = sorted([later, *self._acts], key=lambda one: one.what.at)

    def _disturb_webhooks(self) -> None:
        """Of one account's, whichever the fault's time makes it."""
        if fault := self.trouble.take("webhook_lost"):
            self._webhooks(fault).drop_next()
        if fault := self.trouble.take("webhook_duplicated"):
            self._webhooks(fault).duplicate_next()
        if fault := self.trouble.take("webhook_twin"):
            self._webhooks(fault).twin_next()
        for kind in ("webhook_late", "webhook_very_late", "webhook_reordered"):
            if late := self.trouble.take(kind):
                self._webhooks(late).delay_next(late.seconds)

    def _webhooks(self, fault: Fault) -> Webhooks:
        return self.accounts[fault.at % len(self.accounts)].stripe.webhooks

    def _roll_secrets(self) -> None:
        shared = self.shared
        if self.endpoints and self.trouble.take("webhook_secret_rolled"):
            fresh = tuple(self.stripe.webhooks.roll_secret(endpoint, 0) for endpoint in self.endpoints)
            shared.secret = Secret(shared.secret.stripe_api_key, fresh)
        if self.trouble.take("api_key_rolled"):
            key = "sk_test_next" if self.merchant.api_key == API_KEY else API_KEY
            self.stripe.change_settings(api_keys={key})
            for one in self.accounts:
                one.merchant.api_key = key
            shared.secret = Secret(key, shared.secret.stripe_webhook_secrets)

    def _load_usage(self) -> None:
        if self.history.connected:
            names = {one.customer for account in self.accounts for one in account.history.contracts}
            for account in self.accounts:
                for name in sorted(names):
                    account.merchant.customer(name)
        for account in self.accounts:
            self._load_usage_of(account)

    def _load_usage_of(self, account: SimulatedAccount) -> None:
        start = self.history.start
        for number, use in enumerate(account.history.usage):
            event = {
                "specversion": "1.0",
                "id": f"use-{number}",
                "source": account.source,
                "type": f"used_{use.meter}",
                "subject": account.subject(use.customer),
                "time": datetime.fromtimestamp(use.time, UTC).isoformat(),
                "data": {"value": use.value},
            }
            self.openmeter.ingest([event], lag=use.seen_at - start)

    # The functions

    def _tick(self, due: int) -> None:
        now = self.clock()
        scope = "all" if due % HOUR == _AFTER_THE_HOUR else "closing"
        self._next_tick = self._tick_after(now)
        if self.trouble.take("tick_skipped") or self.trouble.lasts("ticks_skipped"):
            return
        strikes = [len(trouble.struck) for trouble in self._troubles]
        for _ in range(2 if self.trouble.take("tick_doubled") else 1):
            self.run_tick(scope)
        in_all, *alone = [
            len(trouble.struck) - old for trouble, old in zip(self._troubles, strikes, strict=True)
        ]
        for account, own in zip(self.accounts, alone, strict=True):
            if in_all == 0 or (own == 0 and in_all == sum(alone) and not self._closed_since(now, account)):
                account.ticked[scope].append(now)

    @property
    def _troubles(self) -> list[Trouble]:
        """Everything that goes wrong, and then what goes wrong in each account alone."""
        return [self.trouble, *(one.trouble for one in self.accounts)]

    def _closed_since(self, instant: int, account: SimulatedAccount) -> bool:
        """Whether an invoice became final while another account's troubles took time: unseen, maybe."""
        final = (one.finalized_at for one in account.stripe.account.invoices)
        return any(at is not None and instant <= at for at in final)

    def run_tick(self, scope: str) -> None:
        """Run a tick, and work its pages off."""
        self._run("schedule", lambda process: tick(process.container, {"scope": scope}, None))
        self.work()

    def _tick_after(self, now: int) -> int:
        """The next tick that matters: around a period's end each one, otherwise every six hours."""
        quarter = now - now % QUARTER + QUARTER
        middle = self._middle_after(now)
        ends = [
            end
            for stripe in self.stand_ins.values()
            for subscription in stripe.account.subscriptions
            if subscription.is_live and not subscription.is_paused
            for end in [*(item.period_end for item in subscription.items), subscription.cancel_at]
            if end is not None
        ]
        drafts = [
            one.finalizes_at
            for stripe in self.stand_ins.values()
            for one in stripe.account.invoices
            if one.status == "draft"
        ]
        if any(final is not None and final >= now for final in drafts):
            return min(quarter, middle)
        if drafts:  # all are held by a webhook that is not answered
            middle = min(middle, quarter + _HELD)
        soonest = min(ends, default=None)
        if soonest is None:
            return middle
        near = soonest - HOUR - 5 * MINUTE
        if quarter >= near:
            # An end in mid-period is in no list of the ticks that close periods: the hourly one finds it.
            is_found = any(
                soonest == item.period_end
                for stripe in self.stand_ins.values()
                for item in stripe.account.items
            )
            hourly = (now - _AFTER_THE_HOUR) // HOUR * HOUR + HOUR + _AFTER_THE_HOUR
            return min(quarter, middle) if is_found else min(quarter, hourly)
        first = near - near % QUARTER + QUARTER
        return min(first, middle)

    def _middle_after(self, now: int) -> int:
        """The next of the six-hourly ticks; in a time without usage, acts and faults one a day is enough."""
        first = (now - _AFTER_THE_HOUR) // _MID_PERIOD * _MID_PERIOD + _MID_PERIOD + _AFTER_THE_HOUR
        for middle in range(first, first + 3 * _MID_PERIOD, _MID_PERIOD):
            busy = bisect_left(self._busy, now - _MID_PERIOD)
            if busy < len(self._busy) and self._busy[busy] <= middle + _MID_PERIOD:
                return middle
        return first + 3 * _MID_PERIOD

    def work(self) -> None:
        """Work the queues off, one message a call; rarely several, as a batch."""
        while (event := self.events.receive()) is not None:
            self._work_event_off(event)
        while (message := self.queue.receive()) is not None:
            batch = [message]
            if self.queue.has_more and self.trouble.take("partial_batch"):
                batch.extend(self.queue.receive_more())
            self._work_off("worker", batch)

    def _work_off(self, name: str, batch: list[Message]) -> None:
        before, self._at_work = self._at_work, batch
        result = self._run(name, lambda process: work_off(process.container, _sqs_event(batch), None))
        self._at_work = before
        if result is None:
            return
        failed = {failure["itemIdentifier"] for failure in result["batchItemFailures"]}
        for message in batch:
            if str(message.number) not in failed:
                self.queue.delete(message)

    def _interleave(self, _process: Process) -> None:
        """Run the same messages in another worker, from beginning to end, before this one goes on."""
        batch = self._at_work
        if not batch or self._nested:
            return
        self._nested = True
        event = _sqs_event(batch)
        other = threading.Thread(
            target=lambda: self._run("other worker", lambda made: work_off(made.container, event, None))
        )
        other.start()
        other.join()
        self._nested = False

    def _work_event_off(self, message: Message) -> None:
        event = _sqs_event([message])
        failed: Any = self._run(
            "webhook", lambda process: event_bridge.work_off(process.container, event, NONE)
        )
        if failed is None or failed["batchItemFailures"]:
            return
        self.events.delete(message)
        stripe_event = json.loads(message.body)["detail"]
        if stripe_event["type"] == DELETED:
            self._told_of_end.setdefault(stripe_event["data"]["object"]["id"], self.clock())

    def _put_on_event_queue(self, entry: Entry) -> bool:
        for _ in range(2 if self.trouble.take("message_duplicated") else 1):
            self.events.send(on_the_bus(entry))
        return True

    def _listen(self) -> list[tuple[str, str]]:
        """The endpoints that Stripe posts to, and their secrets; none over EventBridge."""
        if not self.history.over_event_bridge:
            return [self.merchant.listen(connect=connect) for connect in (False, True)[: len(self.accounts)]]
        self.stripe.associate(self.merchant.listen_over_event_bridge())
        return []

    def _deliver(self, _url: str, headers: Mapping[str, str], body: bytes) -> int:
        event = {"headers": dict(headers), "body": body.decode(), "isBase64Encoded": False}
        result = self._run("webhook", lambda process: answer(process.container, event))
        return 0 if result is None else int(result.code)

    def _run(self, name: str, work: Any) -> Any:
        """One invocation of a function; None when its process ended or it raised."""
        process = self._processes.get(name)
        skew = self.trouble.take("clock_skew")
        if process is None or skew is not None:
            if process is not None:
                process.close()
            process = self._processes[name] = Process(self.shared, name, skew.seconds if skew else 0)
        if not self._nested:
            self.shared.since = len(self.trouble.struck)
        try:
            return work(process)
        except CrashError:
            process.close()
            del self._processes[name]
            return None
        except UsageReportingError:
            return None
        finally:
            telemetry.metrics.clear_metrics()

    def _end_processes(self) -> None:
        for process in self._processes.values():
            process.close()
        self._processes.clear()

    # What came of it

    def _outcome(self) -> Outcome:
        own, *connected = [self._outcome_of(one) for one in self.accounts]
        if connected:
            tables = [*self.strikes.lost, self.table.items()]
            own.connected, own.mixed_up = connected, list(mixed_up(self.accounts, tables))
        return own

    def _outcome_of(self, account: SimulatedAccount) -> Outcome:
        names = Names(account.merchant)
        counted: dict[tuple[str, str, int], Decimal] = {}
        for table in (*self.strikes.lost, self.table.items()):
            counted.update(undelivered_of(account.own(table), names))
        reports = [one for one in self.shared.reports if account.has(one.report.customer_meter.pk)]
        return Outcome(
            played=account.played(),
            lines=list(lines_of(account.stripe, names)),
            received=received_of(account.stripe, names),
            undelivered=[Undelivered(*key, units) for key, units in counted.items()],
            reports=reports,
            struck=self.trouble.struck,
            closing_ticks=account.ticked["closing"],
            full_ticks=account.ticked["all"],
            told_of_end=told_of_end(
                account.stripe,
                names.contracts,
                self._told_of_end if self.history.over_event_bridge else None,
            ),
            losses=losses_of(self.strikes.strikes, names, account.has),
            dead_letters=len(self.queue.dead) + len(self.events.dead),
            judged=list(judged_of(account.own(self.table.items()), names)),
            names=names,
            errors=[
                reason for one in reports for reason in one.report.reasons if reason.startswith("unexpected")
            ],
        )


def _of_kinds(faults: Iterable[Fault], kinds: Sequence[str]) -> list[Fault]:
    return [fault for fault in faults if fault.kind in kinds]


def _sqs_event(batch: list[Message]) -> dict[str, Any]:
    return {
        "Records": [
            {"messageId": str(message.number), "body": message.body, "eventSource": "aws:sqs"}
            for message in batch
        ]
    }


def _undocumented(history: History) -> Undocumented:
    """How Stripe behaves; what a schedule makes of items the history says, where Stripe was not asked."""
    if history.undocumented.schedule_replaces_items:
        return history.undocumented
    return replace(history.undocumented, schedule_replaces_items=history.replaces_items)


@contextmanager
def _quietly(seed: str) -> Iterator[None]:
    """The layer's jitter repeatable, its log silent."""
    log = logging.getLogger(telemetry.SERVICE)
    state, disabled, stripe_line = random.getstate(), log.disabled, stripe_log.logfmt
    random.seed(seed)
    log.disabled = True
    stripe_log.logfmt = lambda _props: ""  # Stripe's client writes its lines even where nobody reads them
    try:
        yield
    finally:
        random.setstate(state)
        log.disabled, stripe_log.logfmt = disabled, stripe_line
