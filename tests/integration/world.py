"""A whole deployment in one process: both stand-ins over HTTP, AWS in memory or by moto, one clock."""

from __future__ import annotations

import base64
import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import stripe

from cli.checks.keys import PROBE
from sandbox.clock import ManualClock
from sandbox.openmeter import OpenMeterSandbox
from sandbox.stripe import StripeSandbox, sign
from tests.contract.stripe_openapi import request_errors
from tests.integration.aws import Clients
from tests.layer.builders import instant_pacer
from usage_reporting.config import Mode, Settings
from usage_reporting.container import Container
from usage_reporting.credentials import SecretsManagerCredentials
from usage_reporting.error_reports import THIN_EVENTS, THIN_OBJECT
from usage_reporting.heads import Options
from usage_reporting.ledger import DynamoTable
from usage_reporting.model import Report
from usage_reporting.pages import SqsQueue
from usage_reporting.renewals import DELETED, UPDATED
from usage_reporting.stripe_api import API_VERSION
from usage_reporting.ticks import tick, work_off
from usage_reporting.webhook import Answer, answer

DAY = 86_400
HOUR = 3600
MINUTE = 60

NOON = 1_784_116_800
"""2026-07-15T12:00:00Z"""

API_KEY = "sk_test_sandbox"
WEBHOOK_SECRET = "whsec_first"


@dataclass
class World:
    """Stripe, OpenMeter, AWS and the functions, all on one clock (UTC seconds)."""

    clock: ManualClock
    stripe: StripeSandbox
    stripe_url: str
    openmeter: OpenMeterSandbox
    openmeter_url: str
    aws: Clients
    settings: dict[str, Any] = field(default_factory=dict)
    inbox: list[bytes] = field(default_factory=list)
    thin_secret: str = ""
    _containers: list[Container] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.sqs, self.dynamodb, self.secrets = self.aws.sqs, self.aws.dynamodb, self.aws.secrets
        self.queue_url = self.sqs.create_queue(QueueName="pages")["QueueUrl"]
        self.create_table("ledger")
        self.secrets.create_secret(Name="keys", SecretString="{}")
        self.write_secret()
        self.client: Any = stripe.StripeClient(
            API_KEY, base_addresses={"api": self.stripe_url}, max_network_retries=0
        )

    # Set-up

    def create_table(self, name: str) -> None:
        self.dynamodb.create_table(
            TableName=name,
            KeySchema=[
                {"AttributeName": "pk", "KeyType": "HASH"},
                {"AttributeName": "sk", "KeyType": "RANGE"},
            ],
            AttributeDefinitions=[
                {"AttributeName": "pk", "AttributeType": "S"},
                {"AttributeName": "sk", "AttributeType": "S"},
            ],
            BillingMode="PAY_PER_REQUEST",
        )

    def write_secret(self, webhook_secret: str | list[str] = WEBHOOK_SECRET) -> None:
        secret = {"stripe_api_key": API_KEY, "stripe_webhook_secret": webhook_secret}
        self.secrets.put_secret_value(SecretId="keys", SecretString=json.dumps(secret))

    def container(self) -> Container:
        """A new process: nothing cached, no connection open."""
        settings = Settings(
            **{
                "openmeter_url": self.openmeter_url,
                "secret_id": "keys",
                "ledger_table": "ledger",
                "queue_url": self.queue_url,
                "stripe_api_base": self.stripe_url,
                "mode": Mode.LIVE,
                **self.settings,
            }
        )
        made = Container(
            settings=settings,
            credentials=SecretsManagerCredentials("keys", self.secrets),
            table=DynamoTable(settings.ledger_table, self.dynamodb),
            queue=SqsQueue(self.queue_url, self.sqs),
            clock=self.clock,
        )
        made.billing.api._sleep = _no_sleep
        made.billing.api._pacer = instant_pacer()
        made.reporter.sender.sleep = _no_sleep
        made.reporter.openmeter.http.sleep = _no_sleep
        self._containers.append(made)
        return made

    def spec_violations(self) -> list[str]:
        """What Stripe's published OpenAPI spec has against the requests that were made."""
        return sorted(
            {
                f"{request.method} {request.path}: {error}"
                for request in self.stripe.log.requests
                if request.headers.get("stripe-version") == API_VERSION
                # What the doctor sends to be refused is meant to be wrong.
                if not request.headers.get("idempotency-key", "").startswith(PROBE)
                for error in request_errors(request.method, request.path, request.params)
            }
        )

    def close(self) -> None:
        for container in self._containers:
            container.run(container.reporter.openmeter.aclose())
            stripe_client: Any = container.billing.api._http_client
            container.run(stripe_client.close_async())
            container.loop.close()

    # Entities

    @contextmanager
    def of_account(self, account: str) -> Iterator[StripeSandbox]:
        """What is made meanwhile is made in a connected account, which is connected if it is not yet."""
        own = self.client
        found = self.stripe.connected.get(account) or self.stripe.connect(account)
        self.client = stripe.StripeClient(
            API_KEY, base_addresses={"api": self.stripe_url}, max_network_retries=0, stripe_account=account
        )
        try:
            yield found
        finally:
            self.client = own

    def metered_price(
        self, event_name: str = "tokens", formula: str = "sum", **price: Any
    ) -> tuple[str, str]:
        """A Stripe meter and a monthly price on it, of $0.10 unless it says otherwise: (price, meter)."""
        meter = self.client.v1.billing.meters.create(
            {
                "display_name": event_name,
                "event_name": event_name,
                "default_aggregation": {"formula": formula},
            }
        )
        product = self.client.v1.products.create({"name": f"product of {event_name}"})
        params = {
            "currency": "usd",
            "product": product.id,
            "recurring": {"interval": "month", "usage_type": "metered", "meter": meter.id},
            **({} if price.keys() & {"tiers", "unit_amount_decimal"} else {"unit_amount": 10}),
            **price,
        }
        return str(self.client.v1.prices.create(params).id), str(meter.id)

    def customer(self, **params: Any) -> str:
        return str(self.client.v1.customers.create({"name": "Ada", **params}).id)

    def subscription(self, price: str, customer: str = "", *, om_meter_id: str = "m1", **params: Any) -> Any:
        """A subscription of one metered item that starts now."""
        return self.client.v1.subscriptions.create(
            {
                "customer": customer or self.customer(),
                "items": [{"price": price, "metadata": {"om_meter_id": om_meter_id}}],
                "collection_method": "send_invoice",
                "days_until_due": 30,
                **params,
            }
        )

    def use(self, subject: str, time: int, value: float | str = 1, *, meter: str = "m1") -> None:
        """Usage that happened at `time`."""
        self.openmeter.record(self.openmeter.meter(meter).event_type, subject, time, value)

    # What happens

    def travel(self, instant: int) -> None:
        """Let time pass up to `instant`; Stripe renews, bills and queues webhooks on the way."""
        self.clock.set(instant)
        self.stripe.run_due()

    def tick(self, scope: str = "all", container: Container | None = None) -> dict[str, Any]:
        """A scheduled tick, and the worker until the queue is empty; the tick's answer."""
        made = container or self.container()
        result = tick(made, {"scope": scope}, None)
        failures = self.work(made)
        return {**result, "failures": failures}

    def work(self, container: Container | None = None) -> int:
        """Let the worker take every message once; the number of messages given back."""
        made = container or self.container()
        failures = 0
        while messages := self.sqs.receive_message(
            QueueUrl=self.queue_url, MaxNumberOfMessages=1, VisibilityTimeout=12 * HOUR
        ).get("Messages"):
            records = [{"messageId": m["MessageId"], "body": m["Body"]} for m in messages]
            failed = len(work_off(made, {"Records": records}, None)["batchItemFailures"])
            failures += failed
            if not failed:
                self.sqs.delete_message(QueueUrl=self.queue_url, ReceiptHandle=messages[0]["ReceiptHandle"])
        return failures

    def report_all(self, options: Options | None = None) -> list[Report]:
        """Report every live subscription in a new process, and give the reports."""
        made = self.container()

        async def report() -> list[Report]:
            listings = [listing async for listing in made.billing.subscriptions({})]
            found = [one for listing in listings for one in listing.customer_meters]
            return await made.reporter.report(found, options)

        return made.run(report())

    def post(
        self,
        event: Mapping[str, Any] | bytes,
        *,
        secret: str = WEBHOOK_SECRET,
        at: int | None = None,
        container: Container | None = None,
        as_base64: bool = False,
    ) -> Answer:
        """Post an event to the webhook as API Gateway hands it over."""
        body = event if isinstance(event, bytes) else json.dumps(event).encode()
        made = container or self.container()
        call = {
            "headers": {"Stripe-Signature": sign(body, secret, self.clock() if at is None else at)},
            "body": base64.b64encode(body).decode() if as_base64 else body.decode(),
            "isBase64Encoded": as_base64,
        }
        return answer(made, call)

    def listen(
        self,
        api_version: str = API_VERSION,
        enabled_events: Collection[str] = (UPDATED, DELETED),
        **other: Any,
    ) -> None:
        """Register the webhook with Stripe; what it sends is kept for `deliver`."""
        endpoint = self.client.v1.webhook_endpoints.create(
            {
                "url": "https://example.com/stripe/webhook",
                "enabled_events": sorted(enabled_events),
                "api_version": api_version,
                **other,
            }
        )
        self.write_secret(str(endpoint.secret))
        self.stripe.deliver = self._receive

    def listen_to_refusals(self, **other: Any) -> None:
        """Register the second destination, of thin events, with a signing secret of its own."""
        made = self.client.v2.core.event_destinations.create(
            {
                "name": "usage-reporter",
                "type": "webhook_endpoint",
                "event_payload": "thin",
                "enabled_events": sorted(THIN_EVENTS),
                "webhook_endpoint": {"url": "https://example.com/stripe/webhook"},
                "include": ["webhook_endpoint.signing_secret"],
                **other,
            }
        )
        self.thin_secret = str(made.webhook_endpoint.signing_secret)
        self.write_secret([*self._webhook_secrets(), self.thin_secret])
        self.stripe.deliver = self._receive

    def _webhook_secrets(self) -> list[str]:
        stored = json.loads(self.secrets.get_secret_value(SecretId="keys")["SecretString"])
        secrets = stored["stripe_webhook_secret"]
        return secrets if isinstance(secrets, list) else [secrets]

    def _receive(self, _url: str, _headers: Mapping[str, str], body: bytes) -> int:
        self.inbox.append(body)
        return 200

    def deliver(self, container: Container | None = None) -> list[Answer]:
        """Hand what Stripe sent so far to the webhook, signed afresh as each retry is."""
        made = container or self.container()
        secret = self._webhook_secrets()[0]
        answers = [
            self.post(body, secret=self.thin_secret if _is_thin(body) else secret, container=made)
            for body in self.inbox
        ]
        self.inbox.clear()
        return answers

    # What came of it

    def meter_events(self, customer: str = "") -> list[dict[str, Any]]:
        """The meter events that Stripe took, oldest first: timestamp, value, identifier."""
        taken = [
            {"timestamp": row.timestamp, "value": row.value, "identifier": row.identifier}
            for row in self.stripe.meters.accepted()
            if customer in {"", row.customer}
        ]
        return sorted(taken, key=lambda row: row["timestamp"])

    def held(self, customer: str, start: int, end: int) -> Decimal:
        """What Stripe holds of a customer in [start, end)."""
        return sum(
            (row["value"] for row in self.meter_events(customer) if start <= row["timestamp"] < end),
            Decimal(0),
        )

    def billed(self, subscription: str) -> list[tuple[str, Decimal, str]]:
        """The metered lines of a subscription's invoices, oldest invoice first: price, quantity, status."""
        lines = []
        for invoice in reversed(
            self.client.v1.invoices.list({"subscription": subscription, "limit": 100}).data
        ):
            for line in invoice.lines.data:
                price = line.pricing.price_details.price
                lines.append((str(price), Decimal(line.quantity_decimal or 0), str(invoice.status)))
        return lines

    def usage_records(self, item: str) -> dict[int, int]:
        """The quantities that Stripe holds of a legacy item, by time stamp."""
        rows = [row for sub in self.stripe.account.subscriptions for row in sub.items if row.id == item]
        return dict(self.stripe.books.usage.records(rows[0]))

    def ledger(self) -> list[dict[str, Any]]:
        """All items of the ledger table."""
        return list(self.dynamodb.scan(TableName="ledger")["Items"])


def _is_thin(body: bytes) -> bool:
    return bool(json.loads(body)["object"] == THIN_OBJECT)


async def _no_sleep(_seconds: float) -> None:
    """Retries do not wait in tests."""


__all__ = ["API_KEY", "DAY", "HOUR", "MINUTE", "NOON", "WEBHOOK_SECRET", "World"]
