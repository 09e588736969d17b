"""The saved queries find what the functions really log, and name no field that they do not write."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests.infrastructure.template import Block, resources, source
from tests.integration.world import DAY, HOUR, MINUTE, NOON, World
from usage_reporting import telemetry

EVENTS = "/v1/billing/meter_events"
QUERIES: dict[str, Block] = {
    name: one["Properties"] for name, one in resources("AWS::Logs::QueryDefinition").items()
}

Line = dict[str, str]


def flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """The fields that Logs Insights discovers in JSON: with dots, and the index of what is in a list."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from flat(inner, f"{name}.{key}" if name else key)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from flat(inner, f"{name}.{index}")
    else:
        yield name, str(value)


def commands(query: str) -> list[tuple[str, str]]:
    return [(name, rest) for name, _, rest in (part.strip().partition(" ") for part in query.split("|"))]


def is_met(condition: str, line: Line) -> bool:
    """As much of the language of conditions as the queries use."""
    if found := re.fullmatch(r"ispresent\(([\w.]+)\)", condition):
        return found[1] in line
    if found := re.fullmatch(r"([\w.]+) in \[(.*)\]", condition):
        return line.get(found[1]) in re.findall(r'"([^"]*)"', found[2])
    if found := re.fullmatch(r'([\w.]+) like "([^"]*)"', condition):
        return found[2] in line.get(found[1], "")
    raise AssertionError(f"the test does not understand {condition!r}")


def found_by(query: str, lines: list[Line]) -> list[Line]:
    filters = [rest for name, rest in commands(query) if name == "filter"]
    return [line for line in lines if all(is_met(condition, line) for condition in filters)]


def fields_of(query: str) -> set[str]:
    """The fields of the log that a query reads: no names that it gives itself, none that AWS adds."""
    named: set[str] = set()
    own: set[str] = set()
    for name, rest in commands(query):
        text = re.sub(r'"[^"]*"', "", rest)
        own |= set(re.findall(r"\bas (\w+)", text))
        text = re.sub(r"\bas \w+|\bbin\(\w+\)|\b\w+(?=\()|@\w+|\b(?:by|in|like|asc|desc)\b", " ", text)
        if name != "limit":
            named |= set(re.findall(r"[A-Za-z_][\w.]*", text))
    return named - own


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What the logger writes; metrics go to standard output beside it."""
    stream = io.StringIO()
    [handler] = telemetry.logger.handlers
    monkeypatch.setattr(handler, "stream", stream)
    return stream


@pytest.fixture
def lines(world: World, written: io.StringIO, capsys: pytest.CaptureFixture[str]) -> list[Line]:
    """The log of a stack with every kind of trouble: what the three functions wrote, and API Gateway."""
    telemetry.flush()
    capsys.readouterr()
    world.listen(enabled_events=("invoice.created", "invoice.finalized"))
    world.openmeter.create_meter("average", "used", aggregation="AVG")
    price, _ = world.metered_price()
    held, rejected = (str(world.subscription(price).customer) for _ in range(2))
    world.subscription(price, om_meter_id="average")
    for customer in (held, rejected):
        world.use(customer, NOON + MINUTE, 5)
    world.travel(NOON + 2 * HOUR)
    world.stripe.faults.add("rate_limited", "POST", EVENTS, reason="endpoint-rate", contains=held)
    world.stripe.faults.add("status", "POST", EVENTS, status=400, contains=rejected, times=None)
    world.tick()
    world.use(held, NOON + 2 * MINUTE, -1)
    world.travel(NOON + 31 * DAY + MINUTE)
    world.deliver()
    world.post(b"{}", secret="whsec_of_nobody")
    world.travel(NOON + 31 * DAY + 2 * HOUR)
    world.deliver()
    world.tick("closing")
    telemetry.flush()
    metrics = [line for line in capsys.readouterr().out.splitlines() if '"_aws"' in line]
    return [dict(flat(json.loads(line))) for line in [*written.getvalue().splitlines(), *metrics]]


def access_line() -> Line:
    """A line of API Gateway's access log, in the template's format."""
    stage = source()["Resources"]["WebhookStage"]["Properties"]["AccessLogSettings"]["Format"]
    return dict(flat(json.loads(re.sub(r"\$context\.[\w.]+", "1", stage))))


def test_each_query_finds_what_the_functions_log(lines: list[Line]) -> None:
    of_functions = {name: one for name, one in QUERIES.items() if name != "WebhookCallsQuery"}
    assert len(of_functions) >= 7
    for name, one in of_functions.items():
        query = one["QueryString"].replace("cus_REPLACE_ME", "cus_")
        found = found_by(query, lines)
        assert found, f"{name} finds nothing"
        assert len(found) < len(lines), f"{name} finds everything"
        missing = fields_of(query) - set().union(*(line.keys() for line in found))
        assert not missing, f"{name} names fields that no line has: {missing}"


def test_the_calls_are_those_of_the_access_log() -> None:
    fields = fields_of(QUERIES["WebhookCallsQuery"]["QueryString"])
    assert {"status", "path", "milliseconds"} <= fields <= access_line().keys()


def test_what_each_query_is_for_is_found(lines: list[Line]) -> None:
    problems = found_by(QUERIES["ProblemsByCustomerQuery"]["QueryString"], lines)
    assert {"held", "rejected", "refused"} <= {line["outcome"] for line in problems}
    assert all(line["who"] and line["reason"] for line in problems)
    refusals = found_by(QUERIES["RefusalsByReasonQuery"]["QueryString"], lines)
    assert {line["outcome"] for line in refusals} == {"rejected", "refused"}
    verdicts = found_by(QUERIES["VerdictsNotExactQuery"]["QueryString"], lines)
    assert {"short", "over"} <= {line["verdict"] for line in verdicts}
    answers = found_by(QUERIES["WebhookAnswersQuery"]["QueryString"], lines)
    assert {"200", "400"} <= {line["code"] for line in answers}
    [limited] = found_by(QUERIES["RateLimitsQuery"]["QueryString"], lines)
    assert (limited["api"], limited["reason"], limited["RateLimited.0"]) == ("stripe", "endpoint-rate", "1.0")


@pytest.mark.parametrize("name", QUERIES)
def test_a_query_is_saved_under_the_stacks_name_over_its_own_log_groups(name: str) -> None:
    properties = QUERIES[name]
    assert re.fullmatch(r"\$\{AWS::StackName\}/[^/]+", properties["Name"]["Fn::Sub"])
    groups = {each["Ref"] for each in properties["LogGroupNames"]}
    assert groups
    assert groups <= resources("AWS::Logs::LogGroup").keys()
    # In a local cloud, which knows no saved queries, there are none.
    conditions = source()["Conditions"]
    assert source()["Resources"][name]["Condition"] == (
        "LogsWebhookCalls" if name == "WebhookCallsQuery" else "IsNoTest"
    )
    assert {"Condition": "IsNoTest"} in conditions["LogsWebhookCalls"]["Fn::And"]
    assert conditions["IsNoTest"] == {"Fn::Equals": [{"Ref": "StripeApiBase"}, ""]}
