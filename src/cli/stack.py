"""A deployed stack: its outputs, its functions' settings, its ledger table and its secret."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.exceptions import ClientError

from cli.errors import NotDoneError, WrongUseError
from usage_reporting.credentials import SecretsManagerCredentials
from usage_reporting.ledger import DynamoTable

_THIS_MACHINE = {"127.0.0.1", "localhost", "::1"}


@dataclass(frozen=True, slots=True)
class Stack:
    """A CloudFormation stack made from this project's template."""

    name: str
    outputs: Mapping[str, str]
    session: boto3.Session = field(repr=False)
    arn: str = field(default="", kw_only=True)

    @classmethod
    def read(cls, name: str, region: str = "") -> Stack:
        """Read a stack's outputs. Raises WrongUseError for an unknown stack, and botocore's errors."""
        session = boto3.Session(region_name=region or os.environ.get("AWS_REGION") or None)
        try:
            answer = session.client("cloudformation").describe_stacks(StackName=name)
        except ClientError as error:
            if "does not exist" not in str(error):
                raise
            where = session.region_name
            raise WrongUseError(
                f"there is no stack {name!r} in {where}; check --stack and --region, or deploy it with "
                "`sam deploy`"
            ) from error
        (stack,) = answer["Stacks"]
        outputs = {one["OutputKey"]: one["OutputValue"] for one in stack.get("Outputs", [])}
        return cls(name, outputs, session, arn=stack["StackId"])

    @property
    def account(self) -> str:
        """The AWS account that it is in."""
        return self.arn.split(":")[4]

    @property
    def region(self) -> str:
        """The AWS region that it is in."""
        return self.arn.split(":")[3]

    @property
    def is_over_event_bridge(self) -> bool:
        """Whether Stripe's events come over EventBridge, and not to an address of its own."""
        return "StripeEventQueueUrl" in self.outputs

    @property
    def local_cloud(self) -> str:
        """The address of the cloud on this machine that the stack is in; empty for one in AWS."""
        url = str(self.client("cloudformation").meta.endpoint_url)
        return url if urlsplit(url).hostname in _THIS_MACHINE else ""

    def output(self, name: str) -> str:
        """One output. Raises WrongUseError when the stack has none of that name."""
        if name not in self.outputs:
            raise WrongUseError(
                f"stack {self.name!r} has no output {name}, so it is not one of this project's, or not "
                "deployed yet; check --stack"
            )
        return self.outputs[name]

    def environment(self) -> dict[str, str]:
        """The environment of the webhook's function, which all three share."""
        answer = self.client("lambda").get_function_configuration(
            FunctionName=self.output("WebhookFunctionName")
        )
        return dict(answer.get("Environment", {}).get("Variables", {}))

    def table(self) -> DynamoTable:
        """The ledger table."""
        return DynamoTable(self.output("LedgerTableName"), self.client("dynamodb"))

    def credentials(self) -> SecretsManagerCredentials:
        """The keys in the stack's secret."""
        return SecretsManagerCredentials(self.output("SecretArn"), self.client("secretsmanager"))

    def read_secret(self) -> dict[str, Any]:
        """All that the secret holds. Raises NotDoneError when that is no JSON object."""
        answer = self.client("secretsmanager").get_secret_value(SecretId=self.output("SecretArn"))
        try:
            data = json.loads(answer.get("SecretString", ""))
        except ValueError:
            data = None
        if not isinstance(data, dict):
            raise NotDoneError(
                f"the secret {self.output('SecretArn')} is no JSON object, and what it holds may be of use "
                "to somebody; put {} into it and run this again"
            )
        return data

    def write_secret(self, data: Mapping[str, Any]) -> None:
        """Replace all that the secret holds; Secrets Manager keeps the version before."""
        self.client("secretsmanager").put_secret_value(
            SecretId=self.output("SecretArn"), SecretString=json.dumps(data)
        )

    def client(self, service: str) -> Any:
        """A client of a service of AWS, where the stack is."""
        return self.session.client(service)
