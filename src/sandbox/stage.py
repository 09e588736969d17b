"""The stage of the demo: both stand-ins over HTTP, the local cloud, and what is done with them."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.request import getproxies

import httpx
import stripe

from sandbox.clock import system_clock
from sandbox.cloud import LocalCloud
from sandbox.openmeter import OpenMeterSandbox, OpenMeterSettings
from sandbox.openmeter import create_app as openmeter_app
from sandbox.openmeter.faults import ApiVersion
from sandbox.scratch import scratch_folder
from sandbox.serve import serve
from sandbox.story import CALLS, DURATION, Subscriber, Usage
from sandbox.stripe import StripeSandbox, StripeSettings
from sandbox.stripe import create_app as stripe_app

STACK: Final = "usage-reporter"
STRIPE_KEY: Final = "sk_test_sandbox"
OPENMETER_KEY: Final = "om_sandbox"
RENEWAL: Final = "customer.subscription.updated"

_EVENT_TYPES = {DURATION: "execution", CALLS: "api_call"}
_METERS: Final[dict[ApiVersion, list[dict[str, str]]]] = {
    "v1": [
        {
            "slug": DURATION,
            "eventType": _EVENT_TYPES[DURATION],
            "aggregation": "SUM",
            "valueProperty": "$.value",
        },
        {"slug": CALLS, "eventType": _EVENT_TYPES[CALLS], "aggregation": "COUNT"},
    ],
    "v3": [
        {
            "key": DURATION,
            "name": DURATION,
            "event_type": _EVENT_TYPES[DURATION],
            "aggregation": "sum",
            "value_property": "$.value",
        },
        {"key": CALLS, "name": CALLS, "event_type": _EVENT_TYPES[CALLS], "aggregation": "count"},
    ],
}
_UNSIGNED = {"Stripe-Signature": "t=0"}
_QUEUED = {
    "messageId": "first",
    "eventSource": "aws:sqs",
    "body": '{"detail-type": "invoice.created", "source": "aws.partner/stripe.com/ed_test_first", '
    '"detail": {"type": "invoice.created"}}',
}
_BATCH = 500
_POLL_SECONDS = 0.2
_FINAL = {"open", "paid"}


@dataclass(frozen=True, slots=True)
class Delivery:
    """A renewal's webhook to a customer's name; `statuses`: what each try was answered, 0 for no answer."""

    customer: str
    statuses: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class FinalLine:
    """What the final invoices of a month's end bill on one price."""

    quantity: Decimal
    invoice: str
    amount: int


class Stage:
    """A context manager: all that it started is gone on exit. Within it, AWS settings are the local cloud's.

    `openmeter_api`: the only version that the OpenMeter on it serves, and so all that its applications and
    the functions can speak. With `over_event_bridge` Stripe's events come in by a bus, a rule and a queue of
    the local cloud. Raises LocalCloudError, OSError or RuntimeError where something does not start.
    """

    def __init__(self, openmeter_api: ApiVersion = "v1", *, over_event_bridge: bool = False) -> None:
        self.openmeter_api = openmeter_api
        self.over_event_bridge = over_event_bridge
        # Stripe waits minutes between the tries of a webhook; nobody wants to watch that.
        self.stripe = StripeSandbox(
            system_clock,
            StripeSettings(webhook_retry_delays=(2, 3, 5, 8)),
            reached_at=self._reached_at,
            hand_over=self._hand_over,
        )
        self.openmeter = OpenMeterSandbox(
            system_clock, OpenMeterSettings(api_key=OPENMETER_KEY, apis=(openmeter_api,))
        )
        self.outputs: dict[str, str] = {}
        self.customers: dict[str, str] = {}
        """Names of those who signed up, and their Stripe ids."""
        self.subscriptions: dict[str, str] = {}
        self.stripe_url = self.openmeter_url = ""
        self._open = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as opened:
            scratch = opened.enter_context(scratch_folder("usage-reporter-demo-"))
            opened.enter_context(_environment(_own(os.environ, scratch)))
            self.stripe_url = opened.enter_context(serve(stripe_app(self.stripe)))
            self.openmeter_url = opened.enter_context(serve(openmeter_app(self.openmeter)))
            self.cloud = opened.enter_context(LocalCloud())
            os.environ.update(self.cloud.environment)
            headers = {"Authorization": f"Bearer {OPENMETER_KEY}"}
            self._http = opened.enter_context(httpx.Client(trust_env=False, timeout=30, headers=headers))
            self.client = stripe.StripeClient(
                STRIPE_KEY,
                base_addresses={"api": self.stripe_url},
                http_client=stripe.HTTPXClient(allow_sync_methods=True),
            )
            self._open = opened.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.close()

    def deploy(self, **sources: str) -> None:
        """Build the template and deploy it, live, with the stand-ins' addresses and event sources."""
        parameters = {
            "Mode": "live",
            "OpenMeterUrl": self.openmeter_url,
            "OpenMeterApi": self.openmeter_api,
            "StripeApiBase": self.stripe_url,
        }
        self.outputs = self.cloud.deploy(STACK, {**parameters, **sources})

    def associate(self, sources: Iterable[str]) -> None:
        """Tell Stripe what AWS would: whether a bus is associated with its event sources."""
        for source in sources:
            self.stripe.associate(source, "active" if self.cloud.has_bus(source) else "pending")

    def wake(self) -> dict[str, str]:
        """Start the functions, all at once; what they answer, by name."""
        webhook = self.outputs["WebhookFunctionName"]
        calls: dict[str, Callable[[], Any]] = {
            "webhook": lambda: (
                self.cloud.invoke(webhook, {"Records": [_QUEUED]})
                if self.over_event_bridge
                else self._http.post(self.webhook_url, json={}, headers=_UNSIGNED).json()
            ),
            "schedule": lambda: self.tick("all"),
            "worker": lambda: self.cloud.invoke(self.outputs["WorkerFunctionName"], {"Records": []}),
        }
        with ThreadPoolExecutor(len(calls)) as threads:
            answers = {function: threads.submit(call) for function, call in calls.items()}
            return {function: str(answer.result()["status"]) for function, answer in answers.items()}

    @property
    def environment(self) -> dict[str, str]:
        """With these variables any process on this machine is the operator of the stack; keys are made up."""
        beside_proxies = {name: os.environ[name] for name in ("NO_PROXY", "no_proxy") if getproxies()}
        return {
            "STRIPE_KEY": STRIPE_KEY,
            "STRIPE_API_BASE": self.stripe_url,
            "OPENMETER_URL": self.openmeter_url,
            "OPENMETER_API": self.openmeter_api,
            "OPENMETER_API_KEY": OPENMETER_KEY,
            **self.cloud.environment,
            **beside_proxies,
        }

    @property
    def environment_file(self) -> Path:
        """Where `environment` can be left for another terminal; ignored by git, as all that is made there."""
        return self.cloud.project / ".cache" / "demo.env"

    @property
    def _openmeter_base(self) -> str:
        below = {"v1": "api/v1", "v3": "api/v3/openmeter"}[self.openmeter_api]
        return f"{self.openmeter_url}/{below}"

    @property
    def webhook_url(self) -> str:
        """The stack's route, as it is reached on this machine."""
        return self.cloud.reachable(self.outputs["WebhookUrl"])

    # Stripe's and OpenMeter's side

    def create_meters(self) -> None:
        """The two meters in OpenMeter."""
        for body in _METERS[self.openmeter_api]:
            self._http.post(f"{self._openmeter_base}/meters", json=body).raise_for_status()

    def turn_clock(self, instant: int | None) -> None:
        """Turn Stripe's clock to a moment of the past, or back to the present, as test clocks do."""
        offset = 0 if instant is None else instant - system_clock()
        self._steer("clock", {"offset": offset})

    def sign_up(self, person: Subscriber, items: Sequence[Mapping[str, Any]]) -> None:
        """A customer and a subscription, made at the moment that Stripe's clock shows."""
        customer = self.client.v1.customers.create({"name": person.name})
        backdated = {} if person.signed_up is not None else {"backdate_start_date": person.start}
        subscription = self.client.v1.subscriptions.create(
            {
                "customer": customer.id,
                "items": list(items),
                "billing_mode": {"type": person.billing_mode},
                "billing_cycle_anchor": person.anchor,
                **backdated,
            }  # type: ignore[arg-type]
        )
        self.customers[person.name] = customer.id
        self.subscriptions[person.name] = subscription.id

    def period_of(self, person: Subscriber) -> tuple[int, int]:
        """The current period that Stripe shows, the same of all items."""
        shown = self.client.v1.subscriptions.retrieve(self.subscriptions[person.name])
        ((start, end),) = {(i.current_period_start, i.current_period_end) for i in shown["items"].data}
        return start, end

    def disturb(self, person: Subscriber) -> None:
        """Have the coming renewal's webhook delivered twice, or never."""
        action = {"twice": "webhooks/duplicate", "never": "webhooks/drop"}.get(person.webhook)
        if action:
            self._steer(action, {"type": RENEWAL, "customer": self.customers[person.name]})

    def use(self, events: Iterable[Usage]) -> int:
        """Send usage events to OpenMeter, as an application would; the number sent."""
        documents = [self._cloud_event(event) for event in events]
        for first in range(0, len(documents), _BATCH):
            answer = self._http.post(
                f"{self._openmeter_base}/events",
                json=documents[first : first + _BATCH],
                headers={"Content-Type": "application/cloudevents-batch+json"},
            )
            answer.raise_for_status()
        return len(documents)

    def renewals(self, since: int) -> list[Delivery]:
        """The webhooks of renewals since an instant, oldest first."""
        names = {customer: name for name, customer in self.customers.items()}
        return [
            Delivery(names[row.event.customer or ""], tuple(row.statuses))
            for row in list(self.stripe.webhooks.log)
            if row.event.type == RENEWAL and row.event.created >= since and row.event.customer in names
        ]

    def meter_events(self) -> int:
        """How many meter events Stripe was sent so far."""
        return self.stripe.calls.get(("POST", "/v1/billing/meter_events"), 0)

    def finalize(self, person: Subscriber, at: int) -> None:
        """Have the drafts of the month's end become final at an instant, as a merchant may."""
        for invoice in self._invoices_of(person):
            if invoice.status == "draft":
                changes = {"auto_advance": True, "automatically_finalizes_at": at}
                self.client.v1.invoices.update(str(invoice.id), changes)  # type: ignore[arg-type]

    def final_invoices(self, person: Subscriber) -> list[str]:
        """The ids of the final invoices of the month's end, newest first."""
        return [str(invoice.id) for invoice in self._invoices_of(person) if invoice.status in _FINAL]

    def final_lines(self, person: Subscriber) -> dict[str, FinalLine] | None:
        """What the invoices of the month's end bill by usage, by price; None until they are final."""
        invoices = self._invoices_of(person)
        if not invoices or any(invoice.status not in _FINAL for invoice in invoices):
            return None
        lines: dict[str, FinalLine] = {}
        for invoice in invoices:
            for line in invoice.lines.data:
                price = str(line.pricing and line.pricing.price_details and line.pricing.price_details.price)
                before = lines[price].quantity if price in lines else Decimal(0)
                quantity = before + Decimal(line.quantity_decimal or 0)
                lines[price] = FinalLine(quantity, str(invoice.id), invoice.total)
        return lines

    # AWS's side

    def tick(self, scope: str) -> dict[str, Any]:
        """Invoke the schedule function as EventBridge Scheduler does; its answer."""
        answer: dict[str, Any] = self.cloud.invoke(self.outputs["ScheduleFunctionName"], {"scope": scope})
        return answer

    def wait_for_queue(self, seconds: float) -> bool:
        """Wait until the worker has taken every page; whether it had in that time."""
        queue = self.cloud.client("sqs")
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]

        def is_empty() -> bool:
            answer = queue.get_queue_attributes(QueueUrl=self.outputs["QueueUrl"], AttributeNames=names)
            return not any(int(answer["Attributes"][name]) for name in names)

        return wait_until(is_empty, seconds)

    def verdicts(self) -> list[str]:
        """What the functions found of the lines of final invoices, as their ledger has it."""
        found = self.cloud.client("dynamodb").scan(
            TableName=self.outputs["LedgerTableName"],
            FilterExpression="sk = :verdict",
            ExpressionAttributeValues={":verdict": {"S": "verdict"}},
        )
        return [line["M"]["verdict"]["S"] for item in found["Items"] for line in item["lines"]["L"]]

    def _invoices_of(self, person: Subscriber) -> list[stripe.Invoice]:
        query = {
            "subscription": self.subscriptions[person.name],
            "created": {"gte": person.end},
            "limit": 100,
        }
        return self.client.v1.invoices.list(query).data  # type: ignore[arg-type]

    def _reached_at(self, url: str) -> str:
        return self.cloud.reachable(url)

    def _hand_over(self, entry: Mapping[str, Any]) -> bool:
        return self.cloud.put_partner_event(entry)

    def _steer(self, path: str, body: Mapping[str, Any]) -> None:
        self._http.post(f"{self.stripe_url}/_sandbox/{path}", json=body).raise_for_status()

    def _cloud_event(self, event: Usage) -> dict[str, Any]:
        moment = datetime.fromtimestamp(event.time, UTC)
        return {
            "specversion": "1.0",
            "id": event.id,
            "source": "demo",
            "type": _EVENT_TYPES[event.meter],
            "subject": self.customers[event.customer],
            "time": moment.isoformat().replace("+00:00", "Z"),
            "data": {"value": float(event.value)},
        }


def wait_until(is_so: Callable[[], bool], seconds: float) -> bool:
    """Wait until something is so; whether it was in that time."""
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


@contextmanager
def _environment(wanted: Mapping[str, str]) -> Iterator[None]:
    before, folder = dict(os.environ), tempfile.tempdir
    try:
        os.environ.clear()
        os.environ.update(wanted)
        tempfile.tempdir = None  # it is looked up again in the environment
        yield
    finally:
        tempfile.tempdir = folder
        os.environ.clear()
        os.environ.update(before)


def _own(environment: Mapping[str, str], scratch: str) -> dict[str, str]:
    """The operator's environment, without AWS's settings, which must not reach what runs here."""
    own = {name: value for name, value in environment.items() if not name.startswith("AWS_")}
    for name in ("NO_PROXY", "no_proxy"):
        own[name] = ",".join(filter(None, [environment.get(name), "127.0.0.1"]))
    return {**own, "TMPDIR": scratch}
