"""The workflows run what a developer runs, with no key; the role may do what the template needs."""

from __future__ import annotations

import json
import re
import tomllib
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from cfnlint import ManualArgs, lint
from cfnlint.schema import PROVIDER_SCHEMA_MANAGER

from tests.infrastructure.template import PROJECT, Block, read, transformed

GITHUB = PROJECT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
ROLE = GITHUB / "deploy-role.yaml"


class _Strict(yaml.SafeLoader):
    """Every value is a text, `on` among them."""


_Strict.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if tag == "tag:yaml.org,2002:null"]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def workflow(name: str) -> Block:
    found: Block = yaml.load((GITHUB / "workflows" / name).read_text(), Loader=_Strict)
    return found


ACCOUNT = {
    "StackName": "usage-reporter",
    "AWS::Partition": "aws",
    "AWS::AccountId": "1" * 12,
    "AWS::Region": "ap-northeast-1",
}


def role() -> Block:
    """The template of the deploy role."""
    return read(ROLE)


def policies() -> list[Block]:
    return [
        one["Properties"] for one in role()["Resources"].values() if one["Type"] == "AWS::IAM::RolePolicy"
    ]


@cache
def statements() -> list[Block]:
    return [one for policy in policies() for one in policy["PolicyDocument"]["Statement"]]


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def granted() -> set[str]:
    return {action for one in statements() for action in listed(one["Action"])}


def needed(kind: str) -> set[str]:
    """What CloudFormation calls to make, read, change and delete a resource, by its published schema."""
    schema = PROVIDER_SCHEMA_MANAGER.get_resource_schema("us-east-1", kind).schema
    return {
        action
        for name, handler in schema["handlers"].items()
        if name != "list"
        for action in handler["permissions"]
    }


NEVER_CALLED = (
    # Parts of a resource that the template does not have: keys of one's own, networks, replicas, streams,
    # imports, provisioned or canary versions, users, groups, boundaries, protected logs, signed code.
    *("kms:*", "ec2:*", "elasticfilesystem:*", "s3files:*", "kinesis:*", "codedeploy:*", "firehose:*"),
    *("iam:*UserPolicy", "iam:*GroupPolicy", "iam:*RolePermissionsBoundary", "iam:CreateServiceLinkedRole"),
    *("s3:GetObjectMetadata", "s3:REST.PUT.OBJECT", "s3:getObject"),
    *("dynamodb:*Replica", "dynamodb:*Item", "dynamodb:Query", "dynamodb:Scan", "dynamodb:*Import*"),
    *("dynamodb:*ableKinesis*", "dynamodb:UpdateKinesis*", "dynamodb:UpdateContributorInsights"),
    *("dynamodb:PutResourcePolicy", "dynamodb:DeleteResourcePolicy"),
    *(
        "lambda:PutProvisioned*",
        "lambda:DeleteProvisioned*",
        "lambda:*CodeSigningConfig",
        "lambda:PassCapacity*",
    ),
    *(
        "lambda:PutRuntime*",
        "lambda:AssociateRuntime*",
        "lambda:PutFunctionScaling*",
        "lambda:PutFunctionRecursion*",
    ),
    *("logs:*KmsKey", "logs:*tDataProtectionPolicy", "logs:*eDataProtectionPolicy", "logs:PutIndex*"),
    *(
        "logs:DeleteIndex*",
        "logs:PutBearer*",
        "logs:PutLogGroupDeletionProtection",
        "logs:DeleteResourcePolicy",
    ),
    *("logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"),
    *("events:PutPermission", "events:RemovePermission", "apigateway:*agResource"),
    *("secretsmanager:GetRandomPassword", "secretsmanager:*Replic*"),
    # What outlives the stack is not for a workflow to delete.
    *("dynamodb:DeleteTable", "secretsmanager:DeleteSecret"),
)


@pytest.mark.parametrize("kind", sorted({one["Type"] for one in transformed()["Resources"].values()}))
def test_the_role_may_do_what_each_resource_of_the_template_needs(kind: str) -> None:
    may = {action.lower() for action in granted()}
    lacking = {
        action
        for action in needed(kind)
        if action.lower() not in may and not any(fnmatchcase(action, one) for one in NEVER_CALLED)
    }
    assert lacking == set()


def test_the_role_may_do_nothing_that_no_resource_needs() -> None:
    kinds = {one["Type"] for one in transformed()["Resources"].values()}
    asked = {action.lower() for kind in kinds for action in needed(kind)}
    own = {"cloudformation", "s3"}
    delivery = "logs:*logdelivery", "logs:listlogdeliveries"
    assert not any("*" in action for action in granted())
    assert {
        action
        for action in granted()
        if action.lower() not in asked
        and action.partition(":")[0] not in own
        and not any(fnmatchcase(action.lower(), one) for one in delivery)
    } == set()


def test_the_role_neither_reads_nor_deletes_the_ledger() -> None:
    assert not [
        action for action in granted() if re.fullmatch(r"dynamodb:(.*Item|Query|Scan|DeleteTable)", action)
    ]
    assert "secretsmanager:DeleteSecret" not in granted()


def test_everything_that_can_be_narrowed_is_narrowed() -> None:
    wide = {one["Sid"] for one in statements() if "*" in listed(one["Resource"]) and "Condition" not in one}
    assert wide == {"Summaries", "LogsOfTheAccount"}
    [passing] = [one for one in statements() if "iam:PassRole" in listed(one["Action"])]
    assert passing["Resource"]["Fn::Sub"].endswith(":role/${StackName}-*")
    services = set(passing["Condition"]["StringEquals"]["iam:PassedToService"])
    trusted = {
        listed(statement["Principal"]["Service"])[0]
        for one in transformed()["Resources"].values()
        if one["Type"] == "AWS::IAM::Role"
        for statement in one["Properties"]["AssumeRolePolicyDocument"]["Statement"]
    }
    assert services >= trusted - {"events.amazonaws.com"}


def test_the_policies_are_not_too_long_for_a_role() -> None:
    """IAM, "Quotas": 10,240 characters of all inline policies of a role, white space not counted."""

    def filled(value: Any) -> Any:
        if isinstance(value, dict):
            if "Fn::Sub" in value:
                return re.sub(r"\$\{([^}]+)\}", lambda name: ACCOUNT[name[1]], value["Fn::Sub"])
            return {key: filled(one) for key, one in value.items()}
        return [filled(one) for one in value] if isinstance(value, list) else value

    written = sum(len(json.dumps(filled(one["PolicyDocument"]), separators=(",", ":"))) for one in policies())
    assert written < 10_240 - 600, written


def test_only_this_repositorys_environment_gets_the_role() -> None:
    [trust] = role()["Resources"]["DeployRole"]["Properties"]["AssumeRolePolicyDocument"]["Statement"]
    assert trust["Action"] == "sts:AssumeRoleWithWebIdentity"
    assert trust["Condition"] == {
        "StringEquals": {
            "token.actions.githubusercontent.com:aud": "sts.amazonaws.com",
            "token.actions.githubusercontent.com:sub": {
                "Fn::Sub": "repo:${GitHubRepository}:environment:${Environment}"
            },
        }
    }
    assert trust["Principal"]["Federated"]["Fn::If"][0] == "CreateProvider"
    assert role()["Resources"]["Provider"]["Condition"] == "CreateProvider"


def test_the_roles_template_is_well_formed() -> None:
    assert lint(ROLE.read_text(), ManualArgs(regions=["us-east-1", "eu-central-1"])) == []


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_has_few_rights_and_no_key(path: Path) -> None:
    found = workflow(path.name)
    assert {"name", "on", "permissions", "jobs"} <= found.keys()
    asked = [
        found["permissions"],
        *(job["permissions"] for job in found["jobs"].values() if "permissions" in job),
    ]
    assert all(set(one.items()) <= {("contents", "read"), ("id-token", "write")} for one in asked)
    assert "secrets." not in path.read_text()
    assert not re.search(r"access.key|AKIA", path.read_text(), re.IGNORECASE)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_to_commits_of_a_named_version(path: Path) -> None:
    uses = re.findall(r"uses: *(\S+)(.*)", path.read_text())
    for action, comment in uses:
        if action.startswith("./"):
            assert (PROJECT / action).is_file()
            continue
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action), action
        assert re.fullmatch(r" # v\d+\.\d+\.\d+", comment), comment


def test_the_workflows_pin_one_commit_of_each_action() -> None:
    pins = {pin for path in WORKFLOWS for pin in re.findall(r"uses: *(\w\S+)", path.read_text())}
    assert len(pins) == len({pin.partition("@")[0] for pin in pins})


def test_ci_runs_the_projects_own_script_and_nothing_else() -> None:
    ci = workflow("ci.yml")
    assert ci["name"] == "CI"
    assert ci["on"].keys() == {"push", "pull_request"}
    assert ci["permissions"] == {"contents": "read"}
    assert ci["concurrency"]["cancel-in-progress"] == "true"
    [job] = ci["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    assert (PROJECT / ".ci" / "run").stat().st_mode & 0o111
    assert int(job["timeout-minutes"]) == 90


def test_only_what_ci_passed_on_main_is_deployed_first_to_dev() -> None:
    deploy = workflow("deploy.yml")
    assert deploy["on"] == {
        "workflow_run": {
            "workflows": [workflow("ci.yml")["name"]],
            "types": ["completed"],
            "branches": ["main"],
        }
    }
    dev, prod = deploy["jobs"]["dev"], deploy["jobs"]["prod"]
    assert "workflow_run.conclusion == 'success'" in dev["if"]
    assert "workflow_run.event == 'push'" in dev["if"]
    assert prod["needs"] == "dev"
    assert "if" not in prod
    for name, job in (("dev", dev), ("prod", prod)):
        tested = "${{ github.event.workflow_run.head_sha }}"
        assert job["with"] == {"environment": name, "commit": tested}


def test_a_stack_is_deployed_by_a_token_one_at_a_time_as_samconfig_says() -> None:
    [job] = workflow("deploy-stack.yml")["jobs"].values()
    assert job["environment"] == "${{ inputs.environment }}"
    assert job["concurrency"] == {"group": "deploy-${{ inputs.environment }}", "cancel-in-progress": "false"}
    steps = job["steps"]
    assert steps[0]["with"]["ref"] == "${{ inputs.commit }}"
    assert steps[2]["run"] == "make build"
    assert steps[3]["with"].keys() == {"role-to-assume", "aws-region", "role-session-name"}
    assert steps[4]["run"].startswith('.venv-sam/bin/sam deploy --config-env "$CONFIG_ENV"')
    assert "${{" not in steps[4]["run"]
    assert {"--no-confirm-changeset", "--no-fail-on-empty-changeset"} <= set(steps[4]["run"].split())
    config = tomllib.loads((PROJECT / "samconfig.toml").read_text())
    assert set(role()["Parameters"]["Environment"]["AllowedValues"]) <= config.keys()
