"""The benchmark's own parts, without its running times."""

from __future__ import annotations

import json
import pickle
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, cast
from xml.etree import ElementTree as ET

import pytest
from typer.testing import CliRunner

from cli import bench as command
from cli.main import app
from sandbox.bench.baseline import SLACK, Baseline
from sandbox.bench.cold_start import ColdStart
from sandbox.bench.deployment import RATE_SHARES, WORKERS, Deployment, Run
from sandbox.bench.growth_chart import growth_chart
from sandbox.bench.ideal import ideal
from sandbox.bench.known_ledger import know_everybody
from sandbox.bench.measure import QUICK, Growth, Measured, Results, Tick
from sandbox.bench.report import Promise, document, model_error, promises
from sandbox.bench.stand_ins import START, Calls
from sandbox.bench.storm import Storm
from sandbox.bench.webhook import WarmWebhook
from tests.infrastructure.template import source
from usage_reporting.ledger import Head


def tick(subscriptions: int = 1_000, *, seconds: float = 1.2, calls: int = 24, changed: int = -1) -> Tick:
    new = subscriptions if changed < 0 else changed
    run = Run(seconds, subscriptions, 0, seconds)
    return Tick(subscriptions, new, run, Calls({"GET /v1/subscriptions": calls}, 10, {}), new)


def results(**other: Any) -> Results:
    values: dict[str, Any] = {
        "plan": QUICK,
        "baseline": Baseline(100, 13.9, 110, 100),
        "plain": tick(seconds=4, calls=1_012),
        "stream": tick(),
        "unchanged": tick(calls=12, changed=0),
        "few": tick(changed=10),
        "scattered": tick(),
        "scattered_few": tick(changed=10),
        "scattered_unchanged": tick(changed=0),
        "growth": [Growth(tick(1_000, calls=29), 80.0), Growth(tick(10_000, calls=209), 84.0)],
        "storm": Storm(before=22.0, after=22.5, refused_outside=0),
        "webhook": cast("WarmWebhook", _Webhook()),
        "cold_start": ColdStart(550, 500, 1_000, 24.0),
    }
    return Results(**{**values, **other})


class _Webhook:
    p50_ms, p95_ms, with_clients_p95_ms = 9.0, 13.0, 27.0


def test_the_ideal_is_the_longest_of_its_parts() -> None:
    found = ideal(1_000, 1_000, stream=False)
    assert [found.lists, found.sends] == pytest.approx([12 * 0.08, 1.0])
    assert found.seconds == found.sends
    streamed = ideal(1_000, 1_000, stream=True)
    assert streamed.seconds == pytest.approx(0.96)
    assert streamed.seconds == streamed.lists


def test_the_plain_way_is_fair_when_its_time_is_that_of_its_calls() -> None:
    fair = Baseline(100, 13.9, 110, 100)
    assert fair.seconds_of_calls == pytest.approx(13.8)
    assert fair.off_by <= SLACK
    assert Baseline(100, 15.3, 110, 100).off_by > SLACK
    assert Baseline(100, 12.3, 110, 100).off_by > SLACK
    assert fair.seconds_for(1_000) == pytest.approx(139)


def test_the_document_has_what_others_look_for() -> None:
    found = document(results())

    assert found["speedup"] == {"plain": pytest.approx(34.75), "stream": pytest.approx(115.83, rel=1e-3)}
    assert found["ideal_ratio"] == {"plain": 4.0, "stream": pytest.approx(1.25)}
    assert found["calls_per_subscription"] == {"full": 1.012, "full_stream": 0.024, "unchanged": 0.012}
    assert found["openmeter_queries_per_subscription"]["scattered"] == 0.01
    assert (found["memory_ratio"], found["peak_mb"]) == (1.05, 84.0)
    assert (found["webhook"]["p95_ms"], found["webhook"]["cold_start_ratio"]) == (13.0, 1.1)
    assert found["layer_mb"] == 24.0
    assert all(found["promises"].values())
    json.dumps(found)


@pytest.mark.parametrize(
    ("other", "broken"),
    [
        ({"stream": tick(seconds=1.5)}, "times the ideal, streamed"),
        ({"plain": tick(seconds=4, calls=1_031)}, "calls a subscription"),
        ({"baseline": Baseline(100, 15.3, 110, 100)}, "the plain way takes the time of its calls, within"),
        ({"storm": Storm(22, 22.5, 1)}, "calls that were too many for Stripe"),
        ({"storm": Storm(22, 22.4, 0)}, "part of the rate after a storm of 429s"),
        ({"cold_start": ColdStart(601, 500, 900, 24)}, "cold start, times the bare imports"),
        (
            {"growth": [Growth(tick(calls=29), 80), Growth(tick(calls=29), 93)]},
            "growth of memory, ten times as many",
        ),
    ],
)
def test_a_broken_promise_is_told(other: dict[str, Any], broken: str) -> None:
    assert [one.what for one in promises(results(**other)) if not one.is_kept] == [broken]


def test_a_tick_that_sent_something_else_is_told() -> None:
    wrong = Tick(1_000, 1_000, Run(1.2, 1_000, 0, 1.0), Calls({}, 10, {}), 999)
    broken = [one.what for one in promises(results(scattered=wrong)) if not one.is_kept]
    assert broken == ["ticks that did not bring Stripe just what was used"]


def test_the_models_calls_are_compared_with_those_that_were_counted() -> None:
    expected = 10 + 2 + 10 + 6
    grown = [Growth(tick(1_000, calls=expected + 1 + 14), 80.0)]
    assert model_error(results(growth=grown)) == pytest.approx(14 / expected)


def test_a_promise_may_be_a_least_or_a_most() -> None:
    assert Promise("a", 1, 1).is_kept
    assert not Promise("a", 1.1, 1).is_kept
    assert Promise("a", 1.1, 1, is_at_least=True).is_kept
    assert not Promise("a", 0.9, 1, is_at_least=True).is_kept


def test_the_chart_is_an_svg_that_says_its_numbers_in_words() -> None:
    root = ET.fromstring(growth_chart(results().growth))
    space = "{http://www.w3.org/2000/svg}"
    assert root.tag == f"{space}svg"
    described = root.findtext(f"{space}desc", "")
    assert "seconds of a tick: 1.2 at 1,000, 1.2 at 10,000" in described
    assert len(root.findall(f".//{space}polyline")) == 3


def test_a_tick_in_processes_brings_stripe_just_what_was_used() -> None:
    with Measured(12, "scattered") as measured, measured.deployed(stream=True) as deployment:
        found = measured.tick(deployment)
        few = measured.tick(deployment, 0.25)

    assert (found.is_exact, found.sent) == (True, 12)
    assert (few.is_exact, few.sent) == (True, 3)
    assert found.calls.to("GET /v1/subscriptions") == 1
    assert found.calls.refused == {}


def test_a_known_ledger_is_that_of_a_first_tick(tmp_path: Path) -> None:
    with Measured(2, "shared") as measured:
        stand_ins = measured._stand_ins
        know_everybody(stand_ins, tmp_path / "known", START)
        with Deployment(stand_ins, stream=False, ledger=tmp_path / "ticked") as deployment:
            deployment.tick(START)
        first, second = (
            {pk: _of_note(head) for pk, head in _heads(tmp_path / name).items()}
            for name in ("known", "ticked")
        )
    assert len(first) == 2
    assert first == second


def _heads(folder: Path) -> dict[str, Head]:
    found = {}
    for file in folder.glob("*.sqlite"):
        with closing(sqlite3.connect(file)) as connection:
            for pk, pickled in connection.execute("SELECT pk, item FROM items WHERE sk = 'head'"):
                found[pk] = Head.from_item(pickle.loads(pickled))
    return found


def _of_note(head: Head) -> tuple[Any, ...]:
    return (head.subject, head.openmeter_meter, head.bounds, head.spans, head.full_read_at, head.read_at)


def test_nothing_is_measured_for_a_file_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "measure", lambda _plan, _say: results())
    told = CliRunner().invoke(app, ["bench", "--quick", "--json", "/nowhere/at/all.json"])
    assert told.exit_code == 2
    assert "/nowhere/at/all.json" in told.output


def test_the_command_prints_the_promises_and_writes_the_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(command, "measure", lambda _plan, _say: results())
    json_file, svg_file = tmp_path / "bench.json", tmp_path / "growth.svg"

    told = CliRunner().invoke(app, ["bench", "--json", str(json_file), "--svg", str(svg_file)])

    assert told.exit_code == 0
    assert "times faster, streamed" in told.output
    assert "NOT KEPT" not in told.output
    assert json.loads(json_file.read_text())["speedup"]["plain"] > 25
    assert svg_file.read_text().startswith("<svg")


def test_the_command_fails_when_a_promise_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = results(stream=tick(seconds=3.0))
    monkeypatch.setattr(command, "measure", lambda _plan, _say: slow)

    told = CliRunner().invoke(app, ["bench", "--quick"])

    assert told.exit_code == 1
    assert "NOT KEPT" in told.output


def test_stripes_limits_are_shared_as_the_template_shares_them() -> None:
    functions = {"lister": "ScheduleFunction", "worker": "WorkerFunction"}
    for role, name in functions.items():
        variables = source()["Resources"][name]["Properties"]["Environment"]["Variables"]
        shares = []
        for variable in ("STRIPE_RATE_SHARE", "STRIPE_ENDPOINT_SHARE"):
            value = variables[variable]
            text = value["Fn::Sub"] if isinstance(value, dict) else value
            part, _, whole = text.replace("${MaximumConcurrency}", str(WORKERS)).partition("/")
            shares.append(float(part) / float(whole or 1))
        assert list(RATE_SHARES[role]) == pytest.approx(shares)
