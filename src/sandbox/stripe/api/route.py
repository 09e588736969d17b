"""What an endpoint is, and what its function is called with."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any

from sandbox.stripe.account import Account, Json
from sandbox.stripe.books import Books
from sandbox.stripe.errors import malformed, no_such
from sandbox.stripe.events import Event
from sandbox.stripe.render import render
from sandbox.stripe.sandbox import StripeSandbox
from sandbox.stripe.schema import Fields, Kind, Members, earliest
from sandbox.stripe.table import Identified, Table
from sandbox.stripe.versions import ApiVersion

DEFAULT_LIMIT = 10


@dataclass(frozen=True)
class Call:
    """A validated call of an endpoint."""

    stripe: StripeSandbox
    version: ApiVersion
    path: str
    ids: tuple[str, ...]
    params: Mapping[str, Any]

    @property
    def account(self) -> Account:
        return self.stripe.account

    @property
    def books(self) -> Books:
        return self.stripe.books

    @property
    def id(self) -> str:
        """The first id in the path."""
        return self.ids[0]

    def show(self, row: Any) -> Json:
        """The object in the caller's API version; events keep the shape that they were made in."""
        if isinstance(row, Event):
            return row.body(self.account.settings.livemode)
        return render(self.account, row, self.version)

    def page[T: Identified](
        self, table: Table[T], matches: Callable[[T], bool] = lambda _: True, **by: str | None
    ) -> Json:
        """One page of a table's rows that match, newest first; cursors may name any row ever made.

        `by`: what the table can look its rows up by; they must match all the same. No more rows are looked
        at than the page needs, so that a page of many costs no more than one of few.
        """
        self._one_cursor()
        limit = self.params.get("limit", DEFAULT_LIMIT)
        if "ending_before" in self.params:
            rows = table.oldest(table.order(self.params["ending_before"], "ending_before"), **by)
        else:
            cursor = self.params.get("starting_after")
            before = None if cursor is None else table.order(cursor, "starting_after")
            rows = table.newest(before, since=earliest(self.params.get("created")), **by)
        found = list(islice(filter(matches, rows), limit + 1))
        kept = found[:limit]
        if "ending_before" in self.params:
            kept.reverse()
        return self._list([self.show(row) for row in kept], has_more=len(found) > limit)

    def page_of(self, rows: list[Json]) -> Json:
        """One page of rows that belong to no table; cursors name rows by id."""
        self._one_cursor()
        ids = [row["id"] for row in rows]
        for name in ("starting_after", "ending_before"):
            cursor = self.params.get(name)
            if cursor is not None and cursor not in ids:
                raise no_such("object", cursor, name, status=400)
        if "starting_after" in self.params:
            rows = rows[ids.index(self.params["starting_after"]) + 1 :]
        if "ending_before" in self.params:
            rows = rows[: ids.index(self.params["ending_before"])]
        limit = self.params.get("limit", DEFAULT_LIMIT)
        kept = rows[-limit:] if "ending_before" in self.params else rows[:limit]
        return self._list(kept, has_more=len(rows) > limit)

    def _list(self, rows: list[Json], *, has_more: bool) -> Json:
        return {"object": "list", "data": rows, "has_more": has_more, "url": self.path}

    def _one_cursor(self) -> None:
        if "starting_after" in self.params and "ending_before" in self.params:
            raise malformed(
                "You cannot parameterize both starting_after and ending_before.", "starting_after"
            )


@dataclass(frozen=True)
class Route:
    """An endpoint; restricted keys need its `resource`; `legacy`: before basil only.

    `by_session`: called with the token of a meter event session in place of an API key.
    """

    method: str
    template: str
    resource: str
    run: Callable[[Call], Json]
    params: Fields = field(default_factory=lambda: Fields({}))
    legacy: bool = False
    by_session: bool = False

    @property
    def name(self) -> str:
        """Method and path template."""
        return f"{self.method} {self.template}"

    @property
    def permission(self) -> str:
        """The restricted-key permission in Stripe's spelling."""
        return f"rak_{self.resource}_{'read' if self.method == 'GET' else 'write'}"

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        return re.compile(re.sub(r"\{\w+\}", r"([^/]+)", self.template))


def fields(*parts: Members, **members: Kind) -> Fields:
    """Parameters from shared parts and own members."""
    merged: dict[str, Kind] = {}
    for part in parts:
        merged.update(part)
    merged.update(members)
    return Fields(merged)
