"""What the probe makes in a Stripe account, found again by a later run, and how it is put away."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import stripe

from cli.errors import explain
from usage_reporting.stripe_api import LEGACY_API_VERSION, PAGE_SIZE

Json = dict[str, Any]

NAME = "usage_reporter_probe"
"""The product's id, and what the names of everything else begin with."""

TITLE = "usage-reporter probe"
DEAD_END = "https://usage-reporter-probe.invalid/"
"""An address that never exists (RFC 6761): Stripe gets no answer from it."""
CLOCK_POLL = 3
CLOCK_PATIENCE = 600
"""Seconds that a test clock may take to get ready."""
CENTS = 100
"""A unit's price: a line of one unit is above the least that Stripe charges (0.50 USD)."""
_BUSY_TRIES = 8
_BUSY_S = 2


@dataclass(frozen=True, slots=True)
class Pace:
    """How time passes: `sleep` takes whole seconds, `now` gives UTC seconds."""

    sleep: Callable[[int], object]
    now: Callable[[], int]
    patience: int
    """For how many seconds to wait for Stripe's summaries of usage."""


@dataclass(slots=True)
class Workshop:
    """One Stripe account in test mode, and what the probe made there.

    `stream` posts events to the stream of the v2 API, with a session of its own.
    """

    client: stripe.StripeClient
    pace: Pace
    stream: Callable[[list[Json]], object]
    lags: list[int] = field(default_factory=list)
    """Seconds that usage took until Stripe's summaries showed it, as far as was seen."""
    left: list[str] = field(default_factory=list)
    """What could not be put away, and why."""
    _made: dict[str, Json] = field(default_factory=dict)

    def get(self, path: str, **params: Any) -> Json:
        """Read an object, or a page of a list. Raises stripe.StripeError."""
        return self._call("get", path, "", params)

    def post(self, path: str, version: str = "", **params: Any) -> Json:
        """Make or change an object. Raises stripe.StripeError."""
        return self._call("post", path, version, params)

    def delete(self, path: str, **params: Any) -> Json:
        """Delete an object. Raises stripe.StripeError."""
        return self._call("delete", path, "", params)

    def all(self, path: str, **params: Any) -> list[Json]:
        """All rows of a list, newest first. Raises stripe.StripeError."""
        rows: list[Json] = []
        page: Json = {"has_more": True}
        while page["has_more"]:
            after = {"starting_after": rows[-1]["id"]} if rows else {}
            page = self.get(path, limit=PAGE_SIZE, **params, **after)
            rows += page["data"]
        return rows

    def product(self) -> Json:
        """The product of every price."""
        return self._once("product", self._open_product)

    def meter(self, formula: str, window: str = "") -> Json:
        """The meter with this formula, and this `event_time_window`."""
        event_name = f"{NAME}_{window or formula}"
        return self._once(event_name, lambda: self._open_meter(event_name, formula, window))

    def price(self, meter: Json, cents: int = CENTS) -> Json:
        """A daily price on a meter."""
        recurring = {"interval": "day", "usage_type": "metered", "meter": meter["id"]}
        return self._price(f"{meter['event_name']}_{cents}", unit_amount=cents, recurring=recurring)

    def tiered_price(self, meter: Json) -> Json:
        """A daily price whose first five units cost more than the others."""
        recurring = {"interval": "day", "usage_type": "metered", "meter": meter["id"]}
        tiers = [{"up_to": 5, "unit_amount": CENTS}, {"up_to": "inf", "unit_amount": CENTS // 2}]
        return self._price(
            f"{meter['event_name']}_tiers",
            billing_scheme="tiered",
            tiers_mode="graduated",
            tiers=tiers,
            recurring=recurring,
        )

    def package_price(self, meter: Json) -> Json:
        """A daily price for each five units that were begun."""
        recurring = {"interval": "day", "usage_type": "metered", "meter": meter["id"]}
        return self._price(
            f"{meter['event_name']}_packages",
            unit_amount=CENTS,
            transform_quantity={"divide_by": 5, "round": "up"},
            recurring=recurring,
        )

    def legacy_price(self) -> Json:
        """A daily price without a meter. Raises stripe.StripeError where Stripe makes none any more."""
        recurring = {"interval": "day", "usage_type": "metered"}
        return self._price(f"{NAME}_legacy", LEGACY_API_VERSION, unit_amount=CENTS, recurring=recurring)

    def put_away(self) -> None:
        """Archive prices and product, and deactivate meters: Stripe deletes none of these."""
        for made in reversed(self._made.values()):
            self._archive(made)
        self._made.clear()

    def _archive(self, made: Json) -> None:
        path, change = _ARCHIVED[made["object"]]
        self.put_away_one(made["id"], partial(self.post, path.format(made["id"]), **change))

    def clear_away_by_name(self) -> None:
        """Put away whatever of the probe is in the account, of this run or of one that was killed.

        Raises stripe.StripeError where the account cannot be read.
        """
        for row in self.all("webhook_endpoints"):
            if row["url"] == DEAD_END:
                self.put_away_one(row["id"], partial(self.delete, f"webhook_endpoints/{row['id']}"))
        for row in self.all("test_helpers/test_clocks"):
            if (row["name"] or "").startswith(f"{TITLE}: "):
                self.put_away_one(row["id"], partial(self.delete_clock, row["id"]))
        for row in self.all("prices", active=True):
            if row["product"] == NAME:
                self._archive(row)
        for row in self.all("billing/meters", status="active"):
            if row["event_name"].startswith(f"{NAME}_"):
                self._archive(row)
        for row in self.all("products", active=True, ids=[NAME]):
            self._archive(row)

    def delete_clock(self, clock: str) -> None:
        """Delete a test clock, and with it its customer. Raises stripe.StripeError."""
        deadline = self.pace.now() + CLOCK_PATIENCE
        # A clock that is being advanced cannot be deleted.
        while self.clock_status(clock) == "advancing" and self.pace.now() < deadline:
            self.pace.sleep(CLOCK_POLL)
        self.delete(f"test_helpers/test_clocks/{clock}")

    def clock_status(self, clock: str) -> str:
        """What a test clock is doing. Raises stripe.StripeError."""
        found: str = self.get(f"test_helpers/test_clocks/{clock}")["status"]
        return found

    def put_away_one(self, what: str, put_away: Callable[[], object]) -> None:
        """Delete or archive one object; what cannot be is kept in `left`."""
        try:
            put_away()
        except stripe.StripeError as error:
            self.left.append(f"{what}: {explain(error)[0]}")

    def _call(self, method: str, path: str, version: str, params: Json) -> Json:
        """One call; the client itself repeats all but a plain 429."""
        options: Json = {"stripe_version": version} if version else {}
        for attempt in range(_BUSY_TRIES):
            try:
                answer = self.client.raw_request(method, f"/v1/{path}", **params, **options)
            except stripe.RateLimitError:
                if attempt == _BUSY_TRIES - 1:
                    raise
                self.pace.sleep(_BUSY_S)
            else:
                read: Json = json.loads(answer.body)
                return read
        raise AssertionError("unreachable: the last try returns or raises")

    def _once(self, name: str, make: Callable[[], Json]) -> Json:
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]

    def _open_product(self) -> Json:
        try:
            return self.post(f"products/{NAME}", active=True)
        except stripe.InvalidRequestError as error:
            if error.http_status != 404:
                raise
        return self.post("products", id=NAME, name=TITLE)

    def _open_meter(self, event_name: str, formula: str, window: str) -> Json:
        named = [row for row in self.all("billing/meters") if row["event_name"] == event_name]
        for meter in sorted(named, key=lambda row: row["status"] != "active"):
            if meter["status"] == "active":
                return meter
            return self.post(f"billing/meters/{meter['id']}/reactivate")
        return self.post(
            "billing/meters",
            display_name=f"{TITLE}: {window or formula}",
            event_name=event_name,
            default_aggregation={"formula": formula},
            **({"event_time_window": window} if window else {}),
        )

    def _price(self, key: str, version: str = "", **params: Any) -> Json:
        return self._once(key, lambda: self._open_price(key, version, params))

    def _open_price(self, key: str, version: str, params: Json) -> Json:
        product = self.product()
        wanted = {"lookup_keys": [key], "product": product["id"]}
        # A run before put it away, and Stripe lists archived prices to nobody who does not ask for them.
        pages = [self.get("prices", active=active, **wanted) for active in (False, True)]
        found = [one for page in pages for one in page["data"]]
        if found:
            return self.post(f"prices/{found[0]['id']}", version, active=True)
        return self.post(
            "prices", version, currency="usd", product=product["id"], lookup_key=key, nickname=TITLE, **params
        )


_ARCHIVED: dict[str, tuple[str, Json]] = {
    "price": ("prices/{}", {"active": False}),
    "product": ("products/{}", {"active": False}),
    "billing.meter": ("billing/meters/{}/deactivate", {}),
}
