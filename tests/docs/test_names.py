"""What the documents name exists, and what there is to know of is named."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from cli.checks.keys import CUSTOMERS, EVENTS, INVOICES, METER_EVENTS, READS, USAGE_RECORDS
from cli.doctor import CHECKS, OF_STACK
from cli.event import PLAIN
from cli.main import PANELS
from cli.main import command as command_of
from cli.signing import KINDS
from tests.docs.documents import (
    DOCTOR,
    DOCUMENTS,
    HOW_IT_WORKS,
    PROJECT,
    README,
    RUNBOOK,
    WATCHING,
    all_code,
    anchors,
    blocks,
    code,
    emitted_metrics,
    links,
    messages,
    section,
    source,
    spans,
    tables,
    text,
)
from tests.infrastructure.template import source as template
from usage_reporting import error_reports, telemetry
from usage_reporting.error_reports import THIN_EVENTS
from usage_reporting.model import Status
from usage_reporting.renewals import HANDLED
from usage_reporting.stripe_api import API_VERSION

COMMANDS = {name: command_of(name) for names in PANELS.values() for name in names}


def alarms() -> set[str]:
    resources = template()["Resources"].items()
    return {name for name, one in resources if one["Type"] == "AWS::CloudWatch::Alarm"}


def test_make_targets_exist() -> None:
    rules = re.findall(r"^([a-z.][^:=\n]*?):(?!=)", (PROJECT / "Makefile").read_text(), re.MULTILINE)
    targets = {target for rule in rules for target in rule.split()}
    named: set[str] = set()
    for piece in all_code():
        for arguments in re.findall(r"\bmake ([^`;|&]*)", piece):
            named.update(word for word in arguments.split() if re.fullmatch(r"[a-z.][\w./-]*", word))
    assert {"install", "demo", "test", "check", "build"} <= named
    assert named <= targets


def test_make_targets_are_named() -> None:
    documented = set(re.findall(r"^([a-z]+):.*## ", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    assert documented <= {word for piece in code(README) for word in piece.removeprefix("make ").split()[:1]}


def _calls() -> list[tuple[str, list[str]]]:
    """The commands of `usage-reporter` that stand anywhere: the command and its options."""
    calls = []
    for piece in all_code():
        words = piece.split("|")[0].split()
        if "usage-reporter" in words:
            words = words[words.index("usage-reporter") + 1 :]
        if (
            words
            and re.fullmatch(r"[a-z]+", words[0])
            and ("usage-reporter" in piece or words[0] in COMMANDS)
        ):
            calls.append((words[0], [word for word in words if word.startswith("--")]))
    return calls


def test_commands_and_their_options_exist() -> None:
    calls = _calls()
    assert len(calls) > 20
    for command, options in calls:
        assert command in COMMANDS
        known = {name for parameter in COMMANDS[command].params for name in parameter.opts}
        assert set(options) <= known, command


def test_commands_are_named() -> None:
    assert set(COMMANDS) <= set(re.findall(r"[a-z]+", "\n".join(code(README))))


def test_sample_events_are_named() -> None:
    assert {*KINDS, *PLAIN} <= set(spans(README))


def test_parameters_environment_and_defaults_are_those_of_the_template() -> None:
    parameters = template()["Parameters"]
    variables = template()["Globals"]["Function"]["Environment"]["Variables"]
    of_parameter = {value["Ref"]: name for name, value in variables.items() if "Ref" in value}
    [table] = tables(section(README, "Settings"))
    shown: set[str] = set()
    for names, environment, default, _ in table:
        named, defaults = re.findall(r"`(\w+)`", names), re.findall(r"`([^`]*)`", default) or [""]
        assert [str(parameters[name]["Default"]) for name in named] == defaults
        for name in named:
            if name in of_parameter:
                assert environment == f"`{of_parameter[name]}`"
        shown.update(named)
    assert shown == set(parameters)


def test_environment_variables_exist() -> None:
    named = {name for piece in all_code() for name in re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b", piece)}
    assert len(named) > 15
    assert sorted(name for name in named if not re.search(rf"\b{name}\b", source())) == []


def test_the_functions_variables_are_named() -> None:
    variables = template()["Globals"]["Function"]["Environment"]["Variables"]
    ours = {name for name in variables if not name.startswith("POWERTOOLS_")}
    assert ours <= {name for piece in code(README) for name in re.findall(r"\w+", piece)}


def test_alarms_are_named_and_each_has_its_section() -> None:
    assert alarms() <= set(spans(README))
    assert alarms() <= set(re.findall(r"^## (\w+)$", text(RUNBOOK), re.MULTILINE))
    for document in DOCUMENTS:
        named = set(re.findall(r"\b[A-Z]\w+Alarm\b", text(document)))
        assert named <= alarms()


@pytest.mark.parametrize("alarm", sorted(alarms()))
def test_an_alarms_section_says_what_it_means_what_to_do_and_when_to_worry(alarm: str) -> None:
    said = section(RUNBOOK, alarm)
    parts = re.findall(r"^\*\*(It means|What to do:|Worry)\*\*", said, re.MULTILINE)
    assert parts == ["It means", "What to do:", "Worry"]
    _, means, to_do, worry = re.split(r"^\*\*(?:It means|What to do:|Worry)\*\*", said, flags=re.MULTILINE)
    assert min(len(means), len(to_do), len(worry)) > 40
    assert alarm.lower() in anchors(RUNBOOK)


def test_the_saved_queries_are_named() -> None:
    resources = template()["Resources"].values()
    queries = [one["Properties"] for one in resources if one["Type"] == "AWS::Logs::QueryDefinition"]
    names = {one["Name"]["Fn::Sub"].partition("/")[2] for one in queries}
    [table] = tables(section(WATCHING, "Saved queries"))
    assert {row[0].strip("`") for row in table} == names
    assert {name for name in spans(RUNBOOK) if name in names}


def test_the_metrics_that_cost_all_the_time_are_counted() -> None:
    [table] = tables(section(README, "Costs"))
    [arithmetic] = [row[4] for row in table if row[0] == "CloudWatch"]
    always = [
        one
        for one in template()["Resources"].values()
        if one["Type"] == "AWS::CloudWatch::Alarm" and "Condition" not in one
    ]
    assert f"{len(always)} alarms" in arithmetic


def test_metrics_are_those_that_the_code_counts() -> None:
    table = tables(section(HOW_IT_WORKS, "Log lines and metrics"))[-1]
    assert {name for row in table for name in re.findall(r"`(\w+)`", row[0])} == emitted_metrics()
    runbook = tables(section(RUNBOOK, "No alarm, but worth a look"))[-1]
    assert {name for row in runbook for name in re.findall(r"`(\w+)`", row[0])} <= emitted_metrics()
    assert f"`{telemetry.NAMESPACE}`" in text(README)


def test_every_outcome_is_explained() -> None:
    [table] = tables(section(README, "Outcomes"))
    assert {row[0].strip("`") for row in table} == {status.value for status in Status}


def test_each_code_of_a_refusal_is_explained() -> None:
    [table] = tables(section(HOW_IT_WORKS, "Refused afterwards, and doubted"))
    assert {code for row in table for code in re.findall(r"`(\w+)`", row[0])} == set(error_reports._BY_CODE)
    for row in table[:-1]:
        codes = re.findall(r"`(\w+)`", row[0])
        stops = {error_reports.remedy_for(code) is error_reports.Remedy.STOP for code in codes}
        assert stops == {row[1].startswith("not sent again")}, row[0]


def test_each_check_of_the_doctor_is_explained() -> None:
    checks = [check.name for check in (*CHECKS, *OF_STACK)]
    assert re.findall(r"^### (.+)$", text(DOCTOR), re.MULTILINE) == checks


def test_the_doctor_asks_for_the_permissions_of_the_table() -> None:
    [table] = tables(section(README, "Deploy"))
    for scope in (*READS, EVENTS, CUSTOMERS, METER_EVENTS, INVOICES, USAGE_RECORDS):
        [permission] = [row[1] for row in table if scope.resource in row[0].split(" (")[0].split(", ")]
        assert scope.permission in permission


def test_what_the_doctor_reads_in_aws_is_named() -> None:
    files = (PROJECT / "src" / "cli" / "checks").glob("*.py")
    asked = re.compile(r"\.(?:call|pages)\(\s*\"([a-z]+)\",\s*\"([a-z_]+)\"")
    calls = {found for file in files for found in asked.findall(file.read_text())}
    actions = {f"{service}:{operation.title().replace('_', '')}" for service, operation in calls}
    assert len(actions) > 10
    named = {span for span in spans(DOCTOR) if re.fullmatch(r"[a-z]+:[A-Z]\w+", span)}
    assert named == actions | {"secretsmanager:GetSecretValue", "dynamodb:BatchGetItem"}


def test_outputs_and_functions_exist() -> None:
    documents = "\n".join(text(document) for document in DOCUMENTS)
    assert set(re.findall(r"<output (\w+)>", documents)) <= set(template()["Outputs"])
    assert set(re.findall(r"\b[A-Z]\w+Function\b", documents)) <= set(template()["Resources"])


def test_configurations_of_sam_exist() -> None:
    known = tomllib.loads((PROJECT / "samconfig.toml").read_text())
    named = {name for piece in all_code() for name in re.findall(r"--config-env (\w+)", piece)}
    assert named == {"dev", "prod"}
    assert named <= set(known)
    assert known["prod"]["deploy"]["parameters"]["stack_name"] == "usage-reporter"


def test_what_the_webhook_handles_is_named() -> None:
    assert {*HANDLED, *THIN_EVENTS} <= set(spans(README))
    assert API_VERSION in text(README)


def test_paths_of_the_tree_exist() -> None:
    [tree] = [block for block in blocks(README, "") if block.startswith("template.yaml")]
    named = re.findall(r"[\w.*-]+(?:/[\w*-]+)+/?|\w+\.(?:yaml|toml)|Makefile|^\w+/", tree, re.MULTILINE)
    assert len(named) > 10
    for path in named:
        inside_tests = PROJECT / "tests" / path
        assert list(PROJECT.glob(path)) or inside_tests.exists(), path


def _quoted() -> list[str]:
    """What the documents say that the product says."""
    symptoms = [row[0] for row in tables(section(README, "Trouble-shooting"))[0]]
    problems = [re.fullmatch(r"(?:`held`:|`refused`:|[45]\d\d) (.*)", symptom) for symptom in symptoms]
    held = [row[0] for row in tables(section(RUNBOOK, "HeldAlarm"))[0]]
    said = [*held, *(problem[1] for problem in problems if problem)]
    return [part for one in said for part in re.split(r" or |\.\.\.|, |`|\(.*?\)", one)]


def test_what_the_product_is_quoted_with_is_what_it_says() -> None:
    fragments = [part.strip() for part in _quoted() if len(part.split()) > 2]
    assert len(fragments) > 12
    assert [part for part in fragments if part not in messages()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for link in links(document):
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.is_file(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_no_registry_and_no_place_of_one_machine_is_named(document: Path) -> None:
    # A letter in brackets, so that this line does not name one itself.
    assert not re.search(r"p[y]pi|python[h]osted|npm[j]s|(?<!\w)/(work|root|tmp|home)/", text(document))
