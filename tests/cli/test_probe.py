"""`probe`: what it says of a Stripe that behaves as assumed, and of one that does not."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pytest
import stripe
from typer.testing import CliRunner

from cli.main import app
from cli.probe.fact import Fact, Seen
from cli.probe.facts import FACTS
from cli.probe.scene import Scene
from cli.probe.workshop import DEAD_END, Workshop
from sandbox.clock import ManualClock
from sandbox.stripe import StripeSandbox, StripeSettings, create_app
from sandbox.stripe.undocumented import AS_ASSUMED, Undocumented, read_facts
from tests.cli.conftest import Result, servers
from tests.contract.stripe_openapi import request_errors
from tests.docs.documents import PROJECT, section, tables
from tests.integration.conftest import Switch
from tests.integration.world import API_KEY, NOON
from usage_reporting.stripe_api import API_VERSION

__all__ = ["servers"]

PROBE = PROJECT / "docs" / "probe.md"

NEVER_SEEN = {"stored-500"}
"""Nothing makes Stripe answer 500."""

NOT_IMITATED = {"summaries-within-an-hour", "tiers-fill-exactly"}

FACT_OF = {
    "end_is_in_ended_period": "period-end",
    "last_by_receipt": "last-by-stamp",
    "last_tie_takes_newest": "last-tie",
    "last_carries_over": "last-of-nothing",
    "drafts_are_closed": "draft-takes-usage",
    "last_draft_is_closed": "canceled-at-period-end",
    "cancellation_bills_usage": "canceled-at-once",
    "invoice_now_waits": "canceled-with-invoice-now",
    "negative_events_are_dropped": "negative-event",
    "negative_totals_are_billed": "negative-sum",
    "set_replaces_all": "legacy-set",
    "window_ends_with_period": "window-at-period-end",
    "custom_time_keeps_hold": "custom-time-loses-hold",
    "swap_line_spans_period": "swapped-line-begins-at-swap",
    "swapped_usage_stays_open": "swapped-usage-is-counted-at-once",
    "schedule_replaces_items": "schedule-keeps-items",
    "lines_show_packages": "packages-shown-in-units",
    "identifier_per_way": "identifier-in-both-ways",
    "stamps_checked_by_real_time": "stamps-by-test-clock",
}

ALSO = {"last_tie_takes_newest": ("last_by_receipt",)}
"""Whoever goes by receipt does so of two with one stamp, too."""

SOME = ("end_is_in_ended_period", "last_carries_over", "negative_totals_are_billed", "identifier_per_way")


@dataclass
class Probing:
    """A Stripe account, its time, and the command that probes it."""

    stripe: StripeSandbox
    clock: ManualClock
    file: Path

    def run(self, *arguments: str, yes: bool = True) -> Result:
        asked = ["probe", *(["--yes"] if yes else []), "--output", str(self.file), *arguments]
        result = CliRunner().invoke(app, asked)
        assert "Traceback" not in result.output
        assert API_KEY not in result.output
        return Result(result.exit_code, result.stdout, result.stderr)

    def results(self, *arguments: str) -> dict[str, str]:
        """What the command says of each fact."""
        return {fact["name"]: fact["result"] for fact in self.run("--json", *arguments).json["facts"]}

    def is_put_away(self) -> bool:
        """Nothing is left that could be deleted, and the rest is archived."""
        account = self.stripe.account
        return not (
            len(account.test_clocks)
            or len(account.endpoints)
            or any(not row.deleted for row in account.customers)
            or any(row.active for row in (*account.products, *account.prices))
            or any(row.status == "active" for row in account.meters)
        )


@pytest.fixture
def probing(
    servers: tuple[Switch, str, Switch, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Probing]:
    clock = ManualClock(NOON)
    stripe = StripeSandbox(clock, StripeSettings(seed=1, test_clock_advance=10, meter_event_latency=0))
    servers[0].app = create_app(stripe, ticker=False)
    monkeypatch.setattr("cli.probe.command.sleep", clock.advance)
    monkeypatch.setattr("cli.probe.command.now", clock)
    monkeypatch.setenv("STRIPE_KEY", API_KEY)
    monkeypatch.setenv("STRIPE_API_BASE", servers[1])
    yield Probing(stripe, clock, tmp_path / "facts.json")
    for request in stripe.log.requests:
        # Stripe's spec has no usage records any more.
        if request.headers.get("stripe-version") == API_VERSION:
            assert request_errors(request.method, request.path, request.params) == []


def test_a_stripe_that_behaves_as_assumed(probing: Probing) -> None:
    result = probing.run()

    assert result.code == 0
    lines = result.out.splitlines()
    heads = [line.split(": ") for line in lines if not line.startswith(" ") and ": " in line]
    said = {name: found for found, name in heads}
    assert said == {fact.name: "could not be seen" if fact.name in NEVER_SEEN else "holds" for fact in FACTS}
    assert lines[-1].startswith("21 holds, 0 differs, 1 could not be seen; written to ")
    assert "1 of 22: period-end; about 62 minutes left" in result.err
    assert probing.is_put_away()


def test_every_setting_is_seen_by_one_fact() -> None:
    assert list(FACT_OF) == sorted(FACT_OF, key=[field.name for field in fields(Undocumented)].index)
    assert set(FACT_OF) == {field.name for field in fields(Undocumented)}
    assert {fact.name for fact in FACTS} == {*FACT_OF.values(), *NEVER_SEEN, *NOT_IMITATED}


@pytest.mark.parametrize("setting", FACT_OF)
def test_a_fact_differs_by_its_setting_and_by_no_other(probing: Probing, setting: str) -> None:
    fact = FACT_OF[setting]
    probing.stripe.change_settings(undocumented=replace(AS_ASSUMED, **{setting: True}))
    alone = probing.run("--json", "--only", fact)
    probing.stripe.change_settings(undocumented=_all_but({setting, *ALSO.get(setting, ())}))
    others = probing.results("--only", fact)

    assert alone.code == 1
    [document] = alone.json["facts"]
    assert (document["result"], document["sandbox"]) == ("differs", {setting: True})
    assert document["evidence"]
    assert others == {fact: "holds"}
    assert probing.is_put_away()


def _all_but(settings: Collection[str]) -> Undocumented:
    return Undocumented(**{name: name not in settings for name in FACT_OF})


def test_the_file_of_a_stripe_in_which_much_differs_makes_the_stand_in_behave_so(probing: Probing) -> None:
    flipped = replace(AS_ASSUMED, **dict.fromkeys(SOME, True))
    probing.stripe.change_settings(undocumented=flipped)
    first = probing.run("--json")

    assert first.code == 1
    assert json.loads(probing.file.read_text()) == first.json
    settings = StripeSettings.from_facts(probing.file, seed=2)
    assert (settings.undocumented, settings.seed) == (flipped, 2)
    assert read_facts(probing.file).not_imitated == ()
    # And what behaves as the file says is found to do so again.
    probing.stripe.change_settings(undocumented=settings.undocumented)
    again = probing.run("--json").json
    assert [_without_ids(fact) for fact in again["facts"]] == [
        _without_ids(fact) for fact in first.json["facts"]
    ]


def _without_ids(fact: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fact.items() if name not in {"evidence", "seen"}}


def test_what_differs_says_what_to_do(probing: Probing) -> None:
    probing.stripe.change_settings(undocumented=replace(AS_ASSUMED, last_carries_over=True))
    result = probing.run("--only", "last-of-nothing", "--only", "last-tie")

    assert result.code == 1
    differing = result.out[result.out.index("differs: last-of-nothing") :]
    assert result.out.index("holds: last-tie") < result.out.index("differs: last-of-nothing")
    assert "See docs/how-it-works.md#meters-that-take-the-last-value" in differing
    assert re.search(r"  seen     After a period with 7, .* billed 7\. \(in_\w+, il_\w+\)", differing)
    assert "  so       A period without usage is billed again" in differing
    assert result.out.count("  so  ") == 1


def test_a_second_run_finds_what_the_first_one_made(probing: Probing) -> None:
    account = probing.stripe.account
    assert probing.run("--only", "period-end").code == 0
    made = [len(table) for table in (account.products, account.prices, account.meters)]

    assert probing.run("--only", "period-end").code == 0
    assert [len(table) for table in (account.products, account.prices, account.meters)] == made == [1, 1, 1]
    assert probing.is_put_away()


@pytest.mark.parametrize("key", ["sk_live_" + "1" * 24, "rk_live_" + "1" * 24, "whsec_1"])
def test_only_test_keys_are_taken(probing: Probing, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("STRIPE_KEY", key)
    result = probing.run()

    assert result.code == 2
    assert "STRIPE_KEY is no test key" in result.err
    assert key not in result.out + result.err
    assert probing.stripe.calls == {}


def test_it_asks_before_it_begins(probing: Probing, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = probing.run(yes=False)
    assert (nobody.code, probing.stripe.calls) == (2, {})
    assert "pass --yes" in nobody.err
    assert "22 test clocks" in nobody.err
    assert "It takes about 62 minutes" in nobody.err

    monkeypatch.setattr("cli.probe.command.is_terminal", lambda: True)
    monkeypatch.setattr("typer.confirm", lambda *_, **__: False)
    assert (probing.run(yes=False).code, probing.stripe.calls) == (1, {})
    assert not probing.file.exists()


def test_facts_are_listed_without_a_key(probing: Probing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STRIPE_KEY")
    listed = probing.run("--list", "--json")

    assert [fact["name"] for fact in listed.json] == [fact.name for fact in FACTS]
    assert [line.split()[0] for line in probing.run("--list").out.splitlines()[1:]] == [
        fact.name for fact in FACTS
    ]


def test_wrong_use_is_one_line(probing: Probing, monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = probing.run("--only", "period-start")
    assert (unknown.code, probing.stripe.calls) == (2, {})
    assert "period-start is no fact; these are: period-end," in unknown.err

    nowhere = probing.run("--output", str(probing.file.parent / "none" / "facts.json"))
    assert (nowhere.code, probing.stripe.calls) == (2, {})
    assert "cannot be written" in nowhere.err
    assert probing.run("--output", str(probing.file.parent)).code == 2

    monkeypatch.setenv("STRIPE_KEY", "sk_test_revoked")
    revoked = probing.run()
    assert (revoked.code, revoked.out) == (2, "")
    assert "Stripe does not accept the key" in revoked.err


def test_ctrl_c_deletes_the_clock_and_archives_the_rest(
    probing: Probing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of an advance, when a clock cannot be deleted, in the one fact with an endpoint."""
    sleeps = 0

    def sleep(seconds: int) -> None:
        nonlocal sleeps
        sleeps += 1
        if sleeps == 3:
            raise KeyboardInterrupt
        probing.clock.advance(seconds)

    monkeypatch.setattr("cli.probe.command.sleep", sleep)
    result = probing.run("--only", "custom-time-loses-hold")

    assert result.code == 130
    assert "probe: stopped; test clocks are deleted" in result.err
    assert sleeps > 3
    assert len(probing.stripe.account.customers) == 1
    assert probing.is_put_away()
    assert not probing.file.exists()


@pytest.mark.parametrize("is_answered", [False, True], ids=["before", "answered"])
def test_ctrl_c_in_any_call_leaves_nothing(
    probing: Probing, monkeypatch: pytest.MonkeyPatch, is_answered: bool
) -> None:
    """Also where Stripe did what it was asked for, and nobody has read the answer."""
    request = stripe.StripeClient.raw_request
    calls = stopped_in = 0

    def stopped(self: stripe.StripeClient, method: str, path: str, **params: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == stopped_in and not is_answered:
            raise KeyboardInterrupt
        try:
            return request(self, method, path, **params)
        finally:
            if calls == stopped_in:
                raise KeyboardInterrupt

    monkeypatch.setattr(stripe.StripeClient, "raw_request", stopped)
    while calls >= stopped_in:
        calls, stopped_in = 0, stopped_in + 1
        result = probing.run("--only", "custom-time-loses-hold")

        assert probing.is_put_away(), stopped_in
        assert result.code == (130 if calls >= stopped_in else 0)
    assert stopped_in > 30


def test_what_is_left_when_even_the_end_is_stopped_the_next_run_puts_away(
    probing: Probing, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sleep(_seconds: int) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cli.probe.command.sleep", sleep)
        stopped = probing.run("--only", "custom-time-loses-hold")

    assert stopped.code == 130
    assert "stopped before all was put away" in stopped.err
    assert "test clocks are deleted" not in stopped.err
    assert len(probing.stripe.account.test_clocks) == 1
    assert probing.run("--only", "stored-500").code == 0
    assert probing.is_put_away()


def test_a_fact_that_crashes_does_not_stop_the_others(
    probing: Probing, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(_workshop: Workshop) -> Seen:
        with Scene(_workshop, "crash"):
            raise ZeroDivisionError

    broken = replace(FACTS[0], look=crash)
    monkeypatch.setattr("cli.probe.command.FACTS", (broken, *FACTS[1:3]))
    result = probing.run("--json")

    assert result.code == 0
    [crashed, *others] = result.json["facts"]
    assert crashed["result"] == "could not be seen"
    assert re.fullmatch(
        r"unexpected ZeroDivisionError at test_probe.py:\d+; please report this\.", crashed["seen"]
    )
    assert {fact["result"] for fact in others} == {"holds"}
    assert probing.is_put_away()


def test_usage_that_stripe_does_not_count_in_time_cannot_be_seen(probing: Probing) -> None:
    probing.stripe.change_settings(aggregation_delay=20 * 60)
    impatient = probing.run("--json", "--only", "period-end", "--only", "summaries-within-an-hour").json
    patient = probing.results("--only", "period-end", "--patience", "30")

    assert {fact["result"] for fact in impatient["facts"]} == {"could not be seen"}
    assert "after 15 minutes; try again with a longer --patience" in impatient["facts"][0]["seen"]
    assert patient == {"period-end": "holds"}


def test_summaries_that_take_longer_than_the_product_waits(probing: Probing) -> None:
    probing.stripe.change_settings(aggregation_delay=2 * 3600)
    only = ("--only", "summaries-within-an-hour")

    assert probing.results(*only) == {"summaries-within-an-hour": "could not be seen"}
    assert probing.results(*only, "--patience", "61") == {"summaries-within-an-hour": "differs"}
    assert read_facts(probing.file).not_imitated == ("summaries-within-an-hour",)


def test_where_stripe_holds_no_draft_nothing_is_said_of_the_hold(probing: Probing) -> None:
    """The control, a draft without a time of its own, becomes final: the webhook counts as answered."""
    probing.stripe.change_settings(invoice_created_hold=0)
    [fact] = probing.run("--json", "--only", "custom-time-loses-hold").json["facts"]

    assert fact["result"] == "could not be seen"
    assert "did not wait for the webhook of in_" in fact["seen"]
    assert fact["sandbox"] == {}


def test_an_account_without_legacy_prices_cannot_show_them(probing: Probing) -> None:
    probing.stripe.faults.add("status", "POST", "/v1/prices", status=400)
    [fact] = probing.run("--json", "--only", "legacy-set").json["facts"]

    assert fact["result"] == "could not be seen"
    assert fact["seen"].startswith("This account makes no price without a meter: Stripe says (400)")


def test_a_fact_that_differs_in_a_way_that_cannot_be_imitated(
    probing: Probing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """5 and -2 that become 1: no setting of the stand-in says that."""
    monkeypatch.setattr("cli.probe.period_facts.quantity", lambda _lines: 1)
    [fact] = probing.run("--json", "--only", "negative-event").json["facts"]

    assert (fact["result"], fact["sandbox"]) == ("differs", {})
    assert read_facts(probing.file).not_imitated == ("negative-event",)
    assert StripeSettings.from_facts(probing.file).undocumented == AS_ASSUMED


def test_an_endpoint_that_a_killed_run_left_is_removed(probing: Probing) -> None:
    endpoints = "cli.probe.workshop.Workshop.delete"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(endpoints, lambda *_, **__: {})
        probing.run("--only", "custom-time-loses-hold")
    assert [row.url for row in probing.stripe.account.endpoints] == [DEAD_END]

    probing.run("--only", "stored-500")
    assert len(probing.stripe.account.endpoints) == 0


def test_what_cannot_be_put_away_is_named(probing: Probing) -> None:
    probing.stripe.faults.add("status", "POST", "/v1/products/usage_reporter_probe", status=400, skip=1)
    result = probing.run("--only", "period-end")

    assert result.code == 0
    assert "could not be put away: usage_reporter_probe: Stripe says (400)" in result.err
    assert not any(price.active for price in probing.stripe.account.prices)


def test_a_busy_stripe_is_asked_again(probing: Probing) -> None:
    probing.stripe.faults.add("rate_limited", times=3)

    assert probing.results("--only", "period-end") == {"period-end": "holds"}


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: fact.name)
def test_each_fact_is_told_in_sentences_and_leads_into_the_documents(fact: Fact) -> None:
    for text in (fact.assumed, fact.tried, fact.if_differs):
        assert text[0].isupper()
        assert text.endswith(".")
        assert ". " not in text
    [row] = [row for row in tables(section(PROBE, "The facts"))[0] if row[0] == f"`{fact.name}`"]
    link = re.fullmatch(r"\[.*\]\((.*)\)", row[3])
    assert link
    file, _, anchor = link[1].partition("#")
    matters = (PROBE.parent / file).resolve().relative_to(PROJECT)
    assert (row[1], row[2], row[4]) == (fact.assumed, fact.tried, fact.if_differs)
    assert f"{matters}#{anchor}".rstrip("#") == fact.matters


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    for text in ("", "[]", "{}", '{"facts": [{}]}', '{"facts": 1}'):
        file = tmp_path / "facts.json"
        file.write_text(text)
        with pytest.raises(ValueError, match="is no file of `usage-reporter probe`"):
            read_facts(file)
    file.write_text('{"facts": [{"name": "x", "result": "differs", "sandbox": {"last_by_magic": true}}]}')
    with pytest.raises(ValueError, match="last_by_magic=True is no setting of the stand-in"):
        read_facts(file)
