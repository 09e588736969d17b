"""The layer's parts, wired for one command on this machine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from cli.errors import WrongUseError
from cli.output import status, warn
from cli.stack import Stack
from sandbox.memory_table import MemoryTable
from usage_reporting import advice, container
from usage_reporting.accounts import OWN_ACCOUNT
from usage_reporting.billing import Billing, Listing
from usage_reporting.config import Settings
from usage_reporting.connected import Connected
from usage_reporting.connection_pools import ConnectionPools
from usage_reporting.credentials import Credentials, EnvironmentCredentials, Secret
from usage_reporting.endings import Endings
from usage_reporting.errors import NotConfiguredError, RejectedError, StripeUnavailableError
from usage_reporting.ledger import Ledger
from usage_reporting.model import CustomerMeter
from usage_reporting.openmeter import OpenMeter
from usage_reporting.period_bounds import PeriodBounds
from usage_reporting.reporter import Reporter
from usage_reporting.sender import Sender
from usage_reporting.stripe_api import TIMEOUT_S, StripeApi, redacted

SETTINGS = (
    "MODE",
    "OPENMETER_URL",
    "OPENMETER_API",
    "OPENMETER_CONCURRENCY",
    "OPENMETER_CUSTOMERS",
    "OPENMETER_MAP_BY_EVENT_NAME",
    "PERIOD_BOUNDS",
    "SUBJECT_METADATA_KEY",
    "CONNECTED_ACCOUNTS",
    "SUBJECT_WITH_ACCOUNT",
    "ROUNDING",
    "ALLOW_DECREASE",
    "HOLD_DRAFTS",
    "STRIPE_METER_STREAM",
    "BRAKE_FACTOR",
    "BRAKE_FLOOR",
    "BRAKE_DEADLINE",
    "STRIPE_API_BASE",
)
"""What this machine's environment may say otherwise than the stack's functions."""

_ASKING = "asking Stripe who is billed for what"


@dataclass(frozen=True, slots=True)
class Operator:
    """The parts of one command; all times in UTC seconds."""

    settings: Settings
    billing: Billing
    openmeter: OpenMeter
    ledger: Ledger
    reporter: Reporter
    clock: Callable[[], int]
    failed: dict[str, str] = field(default_factory=dict)
    """Connected accounts that could not be worked on, and why."""

    def of(self, account: str) -> Operator:
        """The parts for an account, `self` or a connected one. Raises WrongUseError for one not served."""
        if account == self.billing.account:
            return self
        if not self.settings.connected_accounts.serves(account):
            raise WrongUseError(
                f"--account {account}: ConnectedAccounts of the stack (CONNECTED_ACCOUNTS) does not name it; "
                "it is acct_... of a connected account that does, or self"
            )
        api = self.billing.api.for_account(account)
        billing = Billing(api, self.settings, self.clock)
        sender = Sender(api, self.ledger, self.clock)
        reporter = Reporter(self.settings, billing, self.openmeter, self.ledger, sender, self.clock)
        return replace(self, billing=billing, reporter=reporter)

    async def over[T](
        self, work: Callable[[Operator], Awaitable[T]], *, account: str = "", customer: str = ""
    ) -> list[T]:
        """Do work for one account, or for all that are served; a customer is one of the key's own account.

        A connected account that fails stops none of the others. Raises what the work raises elsewhere.
        """
        if account or customer:
            chosen = self.of(account or OWN_ACCOUNT)
            with advice.about(chosen.billing.account):
                return [await work(chosen)]
        done = [await work(self)]
        connected = Connected(self.settings.connected_accounts, self.billing.api)
        async for page in connected.pages():
            for one in page:
                try:
                    with advice.about(one):
                        done.append(await work(self.of(one)))
                except (RejectedError, StripeUnavailableError) as error:
                    self.failed[one] = redacted(error.reason)
                    warn(f"{one}: {self.failed[one]}")
        return done

    async def customer_meters(
        self, customer: str = "", *, drafts: bool = True, endings: bool = False
    ) -> list[CustomerMeter]:
        """Who is billed for what: on live subscriptions, on drafts, and what else ended of late.

        Raises WrongUseError for a customer of whom there is nothing to report.
        """
        filters = {"customer": customer} if customer else {}
        found: list[CustomerMeter] = []
        with status(_ASKING) as say:
            async for listing in self._listings(filters, drafts=drafts, endings=endings):
                found.extend(one for one in listing.customer_meters if customer in ("", one.customer))
                say(f"{_ASKING}: {len(found):,} customer meters so far")
        if customer and not found:
            unmapped = ", ".join(self.billing.unmapped)
            why = f"its metered items ({unmapped}) name no om_meter_id" if unmapped else "check --customer"
            if self.settings.connected_accounts and self.billing.account == OWN_ACCOUNT:
                why += ", or name the connected account that it is in: --account acct_..."
            raise WrongUseError(f"Stripe shows no usage to report of customer {customer!r}; {why}")
        return found

    async def _listings(
        self, filters: Mapping[str, str], *, drafts: bool, endings: bool
    ) -> AsyncIterator[Listing]:
        async for listing in self.billing.subscriptions(filters):
            yield listing
        if drafts:
            async for listing in self.billing.drafts(filters=filters):
                yield listing
        if endings:
            async for listing in Endings(self.billing, self.clock).listings():
                yield listing


@asynccontextmanager
async def operator(environment: Mapping[str, str], stack: Stack | None = None) -> AsyncIterator[Operator]:
    """The parts with a stack's ledger, keys and settings, or with this machine's alone.

    The environment goes before the stack. Raises ConfigurationError for a bad setting.
    """
    settings = _settings(environment, stack)
    if stack is not None:
        advice.STACK.set(stack.name)
    credentials = _credentials(environment, stack)
    http = ConnectionPools(TIMEOUT_S)
    clock = container.system_clock
    api = StripeApi(credentials, api_base=settings.stripe_api_base, http_client=http)
    ledger = Ledger(stack.table() if stack else MemoryTable())
    billing = Billing(api, settings, clock)
    openmeter = OpenMeter(
        settings.openmeter_url,
        credentials,
        api=settings.openmeter_api,
        concurrency=settings.openmeter_concurrency,
        whole_windows=settings.period_bounds is not PeriodBounds.EXACT,
    )
    if settings.openmeter_customers:
        openmeter.ask_by_customer(clock)
    sender = Sender(api, ledger, clock, is_streaming=settings.stripe_meter_stream)
    reporter = Reporter(settings, billing, openmeter, ledger, sender, clock)
    try:
        yield Operator(settings, billing, openmeter, ledger, reporter, clock)
    finally:
        await openmeter.aclose()
        await http.close_async()


def _settings(environment: Mapping[str, str], stack: Stack | None) -> Settings:
    own = {name: environment[name] for name in SETTINGS if environment.get(name)}
    return Settings.for_operator({**(stack.environment() if stack else {}), **own})


def _credentials(environment: Mapping[str, str], stack: Stack | None) -> Credentials:
    if stack is None:
        return EnvironmentCredentials(environment)
    own = environment.get("STRIPE_KEY", "").strip(), environment.get("OPENMETER_API_KEY", "").strip()
    return _StackCredentials(stack.credentials(), *own)


@dataclass(frozen=True, slots=True)
class _StackCredentials:
    """The stack's keys; those in the environment go before."""

    stored: Credentials
    stripe_key: str
    openmeter_key: str

    def current(self) -> Secret:
        """The keys in force. Raises ConfigurationError or AskAgainError."""
        try:
            secret = self.stored.current()
        except NotConfiguredError:
            if not self.stripe_key:
                raise
            secret = Secret(stripe_api_key=self.stripe_key)
        return replace(
            secret,
            stripe_api_key=self.stripe_key or secret.stripe_api_key,
            openmeter_api_key=self.openmeter_key or secret.openmeter_api_key,
        )

    def reread(self) -> bool:
        """Look the stack's keys up afresh."""
        return self.stored.reread()
