"""SnapStart: off, nothing of it is there; on, each change of code or settings reaches the webhook."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from tests.infrastructure.template import PROJECT, resources, source


def references(value: Any) -> Iterator[str]:
    """What a block refers to, with the parameters of the conditions that it depends on."""
    if isinstance(value, list):
        for each in value:
            yield from references(each)
    elif isinstance(value, dict):
        for name, each in value.items():
            if name == "Ref":
                yield each
            elif name == "Fn::If":
                yield from references(source()["Conditions"][each[0]])
                yield from references(each[1:])
            else:
                yield from references(each)


def version() -> dict[str, Any]:
    found: dict[str, Any] = source()["Resources"]["WebhookVersion"]
    return found


def description() -> list[Any]:
    ((separator, parts),) = version()["Properties"]["Description"].values()
    assert separator == "|"
    found: list[Any] = parts
    return found


def test_it_is_off_unless_asked_for() -> None:
    parameter = source()["Parameters"]["SnapStart"]
    assert (parameter["Default"], parameter["AllowedValues"]) == ("off", ["off", "on"])
    assert source()["Conditions"]["UseSnapStart"] == {"Fn::Equals": [{"Ref": "SnapStart"}, "on"]}


def test_off_leaves_nothing_of_it() -> None:
    for kind in ("AWS::Lambda::Version", "AWS::Lambda::Alias"):
        assert {each["Condition"] for each in resources(kind).values()} == {"UseSnapStart"}
    for name, function in resources("AWS::Lambda::Function").items():
        applied = function["Properties"].get("SnapStart")
        if name == "WebhookFunction":
            assert applied == {
                "Fn::If": ["UseSnapStart", {"ApplyOn": "PublishedVersions"}, {"Ref": "AWS::NoValue"}]
            }
        else:
            assert applied is None  # nobody waits for them


def test_the_alias_shows_the_version_of_now() -> None:
    alias = source()["Resources"]["WebhookAlias"]["Properties"]
    assert alias["FunctionName"] == version()["Properties"]["FunctionName"] == {"Ref": "WebhookFunction"}
    assert alias["FunctionVersion"] == {"Fn::GetAtt": ["WebhookVersion", "Version"]}


def test_each_setting_makes_a_new_version() -> None:
    environment = source()["Globals"]["Function"]["Environment"]["Variables"]
    settings = set(references(environment)) & source()["Parameters"].keys()
    assert len(settings) > 10
    assert settings <= set(references(description()))


def test_a_new_layer_makes_a_new_version() -> None:
    layer_version = {"Fn::Select": [7, {"Fn::Split": [":", {"Ref": "UsageReportingLayer"}]}]}
    assert layer_version in description()
    arn = "arn:aws:lambda:us-east-1:123456789012:layer:UsageReportingLayer:12"
    assert arn.split(":")[7] == "12"


def test_other_code_makes_a_new_version() -> None:
    # What the layer's version does not tell: the function's own module, and how it is run.
    function = source()["Resources"]["WebhookFunction"]["Properties"]
    known = hashlib.sha256((PROJECT / "src/webhook/app.py").read_bytes())
    known.update(json.dumps([function, source()["Globals"]], sort_keys=True).encode())
    assert description()[0] == f"code {known.hexdigest()[:8]}", "put this into WebhookVersion's description"


def test_a_list_of_accounts_goes_without_snapshots() -> None:
    # It would not fit the description, and what is not in there does not reach a snapshot.
    rule = source()["Rules"]["SnapshotsOfAllOrNone"]
    assert rule["RuleCondition"] == {"Fn::Equals": [{"Ref": "SnapStart"}, "on"]}
    (assertion,) = rule["Assertions"]
    assert assertion["Assert"] == {"Fn::Contains": [["", "all"], {"Ref": "ConnectedAccounts"}]}


def test_the_description_fits() -> None:
    # Lambda takes 256 characters (AWS::Lambda::Version, "Description"); these are long ones.
    longest = {
        "Mode": "shadow",
        "OpenMeterUrl": "https://openmeter.internal.example.com:8888",
        "OpenMeterApi": "v1",
        "OpenMeterConcurrency": "64",
        "MapByEventName": "false",
        "PeriodBounds": "minute",
        "SubjectMetadataKey": "k" * 20,
        "ConnectedAccounts": "all",
        "SubjectWithAccount": "false",
        "OpenMeterCustomers": "false",
        "Rounding": "half_up",
        "AllowDecrease": "false",
        "HoldDrafts": "false",
        "MeterStream": "false",
        "BrakeFactor": "100",
        "BrakeFloor": "100000",
        "BrakeDeadline": "hold",
        "ListingConcurrency": "25",
        "StripeApiBase": "",
        "ExistingLedgerTable": "usage-reporter-LedgerTable-1ABCDEFGHIJKL",
        "ExistingSecretArn": "usage-reporter-secret-AbCdEf",
        "UsageReportingLayer": "1234",
        "MaximumConcurrency": "100",
    }
    parts = [each if isinstance(each, str) else longest[[*references(each)][-1]] for each in description()]
    assert len("|".join(parts)) <= 256
