"""Stripe's events over EventBridge: only what is asked for, and nothing lost between bus and function."""

from __future__ import annotations

from typing import Any

import pytest

from tests.infrastructure.template import Block, source
from usage_reporting import event_bridge
from usage_reporting.error_reports import THIN_EVENTS
from usage_reporting.event_bridge import SOURCES
from usage_reporting.renewals import HANDLED

OF_API = {
    *("WebhookApi", "WebhookIntegration", "WebhookRoute", "WebhookStage", "WebhookPermission"),
    "AccessLogGroup",
}
OF_THIN_EVENTS = {"StripeThinEventBus", "StripeThinEventRule"}
OF_EVENT_BRIDGE = OF_THIN_EVENTS | {
    *("StripeEventBus", "StripeEventRule", "StripeEventQueue", "StripeEventQueuePolicy"),
    *("StripeEventPolicy", "StripeEventMapping", "EventQueueAgeAlarm"),
}
SOURCE = source()
SNAPSHOT, THIN = f"{SOURCES}ed_test_1", f"{SOURCES}ed_test_2"


def properties(name: str) -> Block:
    found: Block = SOURCE["Resources"][name]["Properties"]
    return found


def conditions(**parameters: str) -> dict[str, bool]:
    """What each condition comes to with these parameters, and the defaults of all others."""
    values = {name: one["Default"] for name, one in SOURCE["Parameters"].items()} | parameters

    def of(block: Any) -> Any:
        if not isinstance(block, dict):
            return block
        ((function, given),) = block.items()
        match function:
            case "Ref":
                return values[given]
            case "Condition":
                return of(SOURCE["Conditions"][given])
            case "Fn::Equals":
                return of(given[0]) == of(given[1])
            case "Fn::Not":
                return not of(given[0])
            case "Fn::And":
                return all(of(each) for each in given)
        raise AssertionError(function)

    return {name: of(block) for name, block in SOURCE["Conditions"].items()}


def deployed(**parameters: str) -> set[str]:
    """The resources that there are with these parameters."""
    hold = conditions(**parameters)
    found = SOURCE["Resources"].items()
    return {name for name, one in found if hold.get(one.get("Condition", ""), True)}


def test_unless_asked_for_it_is_api_gateway() -> None:
    there = deployed()
    assert there >= OF_API
    assert not there & OF_EVENT_BRIDGE


def test_with_a_source_nothing_of_api_gateway_is_left() -> None:
    alone = deployed(StripeEventSource=SNAPSHOT)
    assert not alone & OF_API
    assert alone & OF_EVENT_BRIDGE == OF_EVENT_BRIDGE - OF_THIN_EVENTS
    both = deployed(StripeEventSource=SNAPSHOT, StripeThinEventSource=THIN)
    assert both - alone == OF_THIN_EVENTS
    gone = [name for name in both if "ApiGateway" in SOURCE["Resources"][name]["Type"]]
    assert not gone


def test_thin_events_have_no_source_alone() -> None:
    rule = SOURCE["Rules"]["ThinEventsNotAlone"]
    is_set = {"Fn::Not": [{"Fn::Equals": [{"Ref": "StripeThinEventSource"}, ""]}]}
    assert rule["RuleCondition"] == is_set
    [assertion] = rule["Assertions"]
    assert assertion["Assert"] == {"Fn::Not": [{"Fn::Equals": [{"Ref": "StripeEventSource"}, ""]}]}
    assert "Set both, or leave both empty." in assertion["AssertDescription"]


def test_outputs_tell_the_way_in_and_nothing_of_the_other() -> None:
    def shown(**parameters: str) -> set[str]:
        hold = conditions(**parameters)
        return {name for name, one in SOURCE["Outputs"].items() if hold.get(one.get("Condition", ""), True)}

    over_api, over_event_bridge = shown(), shown(StripeEventSource=SNAPSHOT, StripeThinEventSource=THIN)
    assert over_api - over_event_bridge == {"WebhookUrl"}
    assert over_event_bridge - over_api == {
        *("StripeEventQueueUrl", "StripeEventSourceName", "StripeThinEventSourceName")
    }


@pytest.mark.parametrize(
    ("bus", "rule", "parameter", "types"),
    [
        ("StripeEventBus", "StripeEventRule", "StripeEventSource", HANDLED),
        ("StripeThinEventBus", "StripeThinEventRule", "StripeThinEventSource", THIN_EVENTS),
    ],
)
def test_a_bus_is_associated_with_its_source_and_passes_on_what_is_handled(
    bus: str, rule: str, parameter: str, types: frozenset[str]
) -> None:
    name = {"Ref": parameter}
    # "If this is a partner event bus, the name must exactly match the name of the partner event source."
    assert properties(bus) == {"Name": name, "EventSourceName": name}
    listening = properties(rule)
    assert listening["EventBusName"] == {"Ref": bus}
    assert listening["EventPattern"] == {"source": [name], "detail-type": sorted(types)}
    [target] = listening["Targets"]
    assert target["Arn"] == {"Fn::GetAtt": ["StripeEventQueue", "Arn"]}
    assert target["DeadLetterConfig"] == {"Arn": {"Fn::GetAtt": ["DeadLetterQueue", "Arn"]}}
    # Otherwise the first events could not be put on the queue, nor on that of the dead letters.
    assert SOURCE["Resources"][rule]["DependsOn"] == "StripeEventQueuePolicy"


def test_rules_of_stripes_buses_alone_may_write_to_the_queues() -> None:
    policy = properties("StripeEventQueuePolicy")
    assert policy["Queues"] == [{"Ref": "StripeEventQueue"}, {"Ref": "DeadLetterQueue"}]
    [statement] = policy["PolicyDocument"]["Statement"]
    assert statement["Principal"] == {"Service": "events.amazonaws.com"}
    assert statement["Action"] == "sqs:SendMessage"
    assert len(statement["Resource"]) == 2
    # By no source's name: a change of it reaches the policy before the former source's rule is gone.
    rules = "arn:${AWS::Partition}:events:${AWS::Region}:${AWS::AccountId}:rule/aws.partner/stripe.com/*"
    assert statement["Condition"] == {"ArnLike": {"aws:SourceArn": {"Fn::Sub": rules}}}


def test_the_webhook_gets_rights_on_queues_in_this_mode_alone() -> None:
    policy = SOURCE["Resources"]["StripeEventPolicy"]
    assert policy["Condition"] == "UseEventBridge"
    assert policy["Properties"]["Roles"] == [{"Ref": "WebhookRole"}]
    taking, putting = policy["Properties"]["PolicyDocument"]["Statement"]
    assert taking["Resource"] == {"Fn::GetAtt": ["StripeEventQueue", "Arn"]}
    assert set(taking["Action"]) == {"sqs:DeleteMessage", "sqs:GetQueueAttributes", "sqs:ReceiveMessage"}
    assert putting["Resource"] == {"Fn::GetAtt": ["DeadLetterQueue", "Arn"]}
    assert putting["Action"] == "sqs:SendMessage"
    webhook = properties("WebhookFunction")
    assert webhook["Environment"]["Variables"]["DEAD_LETTER_QUEUE_URL"] == {"Ref": "DeadLetterQueue"}


def test_the_queue_gives_an_event_again_for_six_hours_and_then_keeps_it() -> None:
    queue, dead = properties("StripeEventQueue"), properties("DeadLetterQueue")
    redrive = queue["RedrivePolicy"]
    assert redrive["deadLetterTargetArn"] == {"Fn::GetAtt": ["DeadLetterQueue", "Arn"]}
    assert redrive["maxReceiveCount"] * queue["VisibilityTimeout"] == 6 * 3600
    webhook = properties("WebhookFunction")
    assert webhook["Timeout"] >= event_bridge.BUDGET_S + 5
    assert properties("StripeEventMapping")["BatchSize"] == 1  # all of it is for one event
    assert queue["VisibilityTimeout"] >= 6 * webhook["Timeout"]  # Lambda, "Using Lambda with Amazon SQS"
    # Nothing is dropped for its age while it is still tried, nor before a person has had days to look:
    # SQS counts the age of a dead letter from when it was first sent.
    assert queue["MessageRetentionPeriod"] >= 24 * 3600 + redrive["maxReceiveCount"] * 300
    assert dead["MessageRetentionPeriod"] - queue["MessageRetentionPeriod"] >= 7 * 24 * 3600
    for rule in ("StripeEventRule", "StripeThinEventRule"):
        # What cannot reach the queue for a day is a dead letter, too.
        assert properties(rule)["Targets"][0]["RetryPolicy"]["MaximumEventAgeInSeconds"] == 24 * 3600


def test_the_queue_feeds_the_webhook_from_its_snapshot_if_there_is_one() -> None:
    mapping = properties("StripeEventMapping")
    assert mapping["EventSourceArn"] == {"Fn::GetAtt": ["StripeEventQueue", "Arn"]}
    function = {"Fn::If": ["UseSnapStart", {"Ref": "WebhookAlias"}, {"Ref": "WebhookFunction"}]}
    assert mapping["FunctionName"] == function
    assert mapping["BatchSize"] == 1
    assert mapping["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    assert mapping["ScalingConfig"] == {"MaximumConcurrency": {"Ref": "MaximumConcurrency"}}
    # Lambda looks whether the role may take messages when the mapping is made.
    assert SOURCE["Resources"]["StripeEventMapping"]["DependsOn"] == "StripeEventPolicy"


def test_another_way_in_makes_a_new_snapshot() -> None:
    # The share of Stripe's limits is in the function's environment, which a version keeps.
    [parts] = [each["Fn::Join"][1] for each in [properties("WebhookVersion")["Description"]]]
    assert {"Fn::If": ["UseEventBridge", {"Ref": "MaximumConcurrency"}, ""]} in parts
