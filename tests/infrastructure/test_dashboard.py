"""The dashboard shows what exists: metrics that the code or AWS writes, of this stack, and every alarm."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.docs.documents import emitted_metrics
from tests.infrastructure.template import Block, resources, source
from usage_reporting import telemetry

OF_AWS: dict[str, tuple[str, str, set[str]]] = {
    "AWS/Lambda": (
        "FunctionName",
        "AWS::Lambda::Function",
        {"Duration", "Errors", "Throttles", "ConcurrentExecutions"},
    ),
    "AWS/SQS": (
        "QueueName",
        "AWS::SQS::Queue",
        {
            "ApproximateNumberOfMessagesVisible",
            "ApproximateNumberOfMessagesNotVisible",
            "ApproximateAgeOfOldestMessage",
            "NumberOfMessagesDeleted",
        },
    ),
    "AWS/DynamoDB": (
        "TableName",
        "AWS::DynamoDB::Table",
        {
            "ConsumedReadCapacityUnits",
            "ConsumedWriteCapacityUnits",
            "ReadThrottleEvents",
            "WriteThrottleEvents",
        },
    ),
    "AWS/Events": ("EventSourceName", "AWS::Events::EventBus", {"Events"}),
    "AWS/ApiGateway": ("ApiId", "AWS::ApiGatewayV2::Api", {"Count", "4xx", "5xx", "Latency"}),
}
"""By namespace: the dimension, whose it is, and names, from each service's list of its metrics."""

FREE_METRICS = 50
"""With so many metrics it is free, if it is among the first three of an account (CloudWatch pricing)."""

PROPERTIES: Block = source()["Resources"]["Dashboard"]["Properties"]


def parsed(way: int) -> Block:
    """The body, with each reference of the template as <its name>; `way`: API Gateway, or EventBridge."""
    text, variables = PROPERTIES["DashboardBody"]["Fn::Sub"]
    assert variables.keys() == {"Ledger", "Ingress", "EventAlarm", "EventLink"}
    for name in variables.keys() - {"Ledger"}:
        condition, *ways = variables[name]["Fn::If"]
        chosen = ways[way] if condition == "UseWebhookApi" else ways[1 - way]
        assert condition in {"UseWebhookApi", "UseEventBridge"}
        text = text.replace(f"${{{name}}}", chosen["Fn::Sub"] if chosen else "")
    body: Block = json.loads(re.sub(r"\$\{([\w:.]+)\}", r"<\1>", text))
    return body


OVER_API, OVER_EVENT_BRIDGE = (parsed(way)["widgets"] for way in (0, 1))
# The last two graphs are of how Stripe's events come in; all others are the same, but the two on alarms.
WIDGETS: list[Block] = [*OVER_API, *OVER_EVENT_BRIDGE[-2:]]


def series() -> Iterator[tuple[str, list[Any], Block]]:
    """Each line of a graph: the widget's title, the metric and how it is shown."""
    for widget in WIDGETS:
        if widget["type"] == "metric":
            shown = widget["properties"]
            for line in shown["metrics"]:
                options = line[-1] if isinstance(line[-1], dict) else {}
                yield shown["title"], [each for each in line if each is not options], {**shown, **options}


METRICS = [(title, metric, shown) for title, metric, shown in series() if metric]


def resource_of(reference: str) -> str:
    """The type of the resource that a reference names; the ledger may be of another stack."""
    name = re.fullmatch(r"<([\w]+)(?:\.\w+)?>", reference)
    assert name, f"{reference} is of no resource"
    if name[1] == "StripeEventSource":  # the bus has the name of its source
        return "AWS::Events::EventBus"
    return "AWS::DynamoDB::Table" if name[1] == "Ledger" else str(source()["Resources"][name[1]]["Type"])


@pytest.mark.parametrize(("title", "metric", "shown"), METRICS, ids=lambda part: str(part)[:60])
def test_a_metric_that_is_shown_exists(title: str, metric: list[str], shown: Block) -> None:
    namespace, name, *dimensions = metric
    if namespace == telemetry.NAMESPACE:
        assert name in emitted_metrics()
        assert dimensions[:2] == ["service", "<AWS::StackName>"]
        return
    dimension, kind, names = OF_AWS[namespace]
    assert name in names
    assert dimensions[0] == dimension
    found = resource_of(dimensions[1])
    assert found.replace("Serverless", "Lambda") == kind


def test_calls_are_shown_by_the_dimensions_that_they_are_written_with(
    capsys: pytest.CaptureFixture[str],
) -> None:
    telemetry.flush()
    capsys.readouterr()
    for api in (telemetry.STRIPE, telemetry.OPENMETER):
        telemetry.called(api)
    telemetry.turned_away(telemetry.STRIPE, "global-rate")
    telemetry.flush()
    written = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    by_name: dict[str, set[tuple[str, ...]]] = {}
    for document in written:
        [directive] = document["_aws"]["CloudWatchMetrics"]
        names = directive["Dimensions"][0]
        values = tuple(document[each] for each in names if each != "service")
        by_name.setdefault(directive["Metrics"][0]["Name"], set()).add((*names, *values))

    calls = [metric[2:] for _, metric, _ in METRICS if metric[1] == "Calls"]
    assert {(*each[::2], *each[3::2]) for each in calls} == by_name["Calls"]
    [searched] = [shown["expression"] for _, metric, shown in series() if not metric]
    [limited] = by_name["RateLimited"]
    assert f"{{{telemetry.NAMESPACE},{','.join(limited[:3])}}}" in searched
    assert 'MetricName="RateLimited" service="<AWS::StackName>"' in searched


def test_other_own_metrics_are_shown_by_the_stack_alone() -> None:
    plain = [m for _, m, _ in METRICS if m[0] == telemetry.NAMESPACE and m[1] != "Calls"]
    assert len(plain) > 10
    assert all(len(metric) == 4 for metric in plain)


def test_every_alarm_is_on_it_and_linked_to_the_runbook() -> None:
    alarms = resources("AWS::CloudWatch::Alarm")
    always = {name for name, one in alarms.items() if "Condition" not in one}
    assert alarms.keys() - always == {"EventQueueAgeAlarm"}
    for widgets, there in ((OVER_API, always), (OVER_EVENT_BRIDGE, alarms.keys())):
        [status] = [widget["properties"]["alarms"] for widget in widgets if widget["type"] == "alarm"]
        assert sorted(status) == [f"<{name}.Arn>" for name in sorted(there)]
        header = widgets[0]["properties"]["markdown"]
        assert sorted(re.findall(r"\[(\w+)\]\(<RunbookUrl>#\w+\)", header)) == sorted(there)
        for name in there:
            assert f"[{name}](<RunbookUrl>#{name.lower()})" in header


@pytest.mark.parametrize(
    "name",
    [
        *("Reported", "Held", "Late", "Unbillable", "Rejected", "Unknown", "ClosingUndelivered"),
        *("VerdictExact", "VerdictShort", "VerdictOver", "DeadlineMargin", "OldestUnsent"),
    ],
)
def test_money_comes_before_the_machine(name: str) -> None:
    [machine] = [one["y"] for one in WIDGETS if "## Machine" in str(one["properties"])]
    [money] = [one["y"] for one in WIDGETS if "## Money" in str(one["properties"])]
    rows = [one["y"] for one in WIDGETS if f'"{name}"' in json.dumps(one)]
    assert rows
    assert all(money < row < machine for row in rows)


def test_what_counts_is_summed_and_what_lasts_is_not() -> None:
    stats = {(metric[1], shown["stat"]) for _, metric, shown in METRICS}
    assert ("OldestUnsent", "Maximum") in stats
    assert {stat for name, stat in stats if name == "DeadlineMargin"} == {"Minimum", "p10"}
    assert {stat for name, stat in stats if name == "ReportDuration"} == {"p50", "p99"}
    counted = emitted_metrics() - {"OldestUnsent", "DeadlineMargin", "ReportDuration"}
    assert {stat for name, stat in stats if name in counted} == {"Sum"}


def test_each_way_in_has_graphs_of_its_own() -> None:
    assert OVER_API[2:-2] == OVER_EVENT_BRIDGE[2:-2]
    shown = [json.dumps(one) for one in (OVER_API[-2:], OVER_EVENT_BRIDGE[-2:])]
    assert ["WebhookApi" in one for one in shown] == [True, False]
    assert ["StripeEventQueue" in one for one in shown] == [False, True]


@pytest.mark.parametrize("widgets", [OVER_API, OVER_EVENT_BRIDGE], ids=["api", "eventbridge"])
def test_widgets_lie_on_the_grid_and_not_on_each_other(widgets: list[Block]) -> None:
    taken: set[tuple[int, int]] = set()
    for widget in widgets:
        assert widget["x"] + widget["width"] <= 24
        cells = {
            (widget["x"] + dx, widget["y"] + dy)
            for dx in range(widget["width"])
            for dy in range(widget["height"])
        }
        assert not cells & taken
        taken |= cells


def test_each_graph_says_its_region_and_its_title() -> None:
    for widget in WIDGETS:
        if widget["type"] == "metric":
            assert widget["properties"]["region"] == "<AWS::Region>"
            assert widget["properties"]["title"]
    assert PROPERTIES["DashboardName"] == {"Fn::Sub": "${AWS::StackName}-${AWS::Region}"}


def test_it_stays_in_what_is_free() -> None:
    of_one_way = [json.dumps(one["properties"]) for one in OVER_API[-2:]]
    assert len(METRICS) - "".join(of_one_way).count('"ApiId"') <= FREE_METRICS
