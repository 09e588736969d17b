"""Tables of objects in the order of their creation."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from typing import Protocol

from sandbox.stripe.errors import no_such


class Identified(Protocol):
    id: str
    created: int


class Table[T: Identified]:
    """Objects of one kind; `by`: attributes that never change, by which they can be looked up.

    An object's place is its number in the order of creation; it keeps it when it is removed, so that a
    cursor may name any object ever made.
    """

    def __init__(self, resource: str, *, by: tuple[str, ...] = ()) -> None:
        self.resource = resource
        self._rows: dict[str, T] = {}
        self._order: dict[str, int] = {}
        self._ids: list[str] = []
        self._latest: list[int] = []
        self._by: dict[str, dict[str, list[int]]] = {name: {} for name in by}

    def add(self, row: T) -> T:
        place = len(self._ids)
        self._rows[row.id] = row
        self._order[row.id] = place
        self._ids.append(row.id)
        self._latest.append(max([row.created, *self._latest[-1:]]))
        for name, places in self._by.items():
            places.setdefault(getattr(row, name), []).append(place)
        return row

    def put_back(self, row: T) -> None:
        """Replace an object, or bring it back, in its old place."""
        self._rows[row.id] = row

    def remove(self, id_: str) -> None:
        del self._rows[id_]

    def find(self, id_: str | None) -> T | None:
        return self._rows.get(id_) if id_ is not None else None

    def get(self, id_: str, param: str = "id") -> T:
        """The object with this id; raises StripeError 404."""
        row = self._rows.get(id_)
        if row is None:
            raise no_such(self.resource, id_, param)
        return row

    def refer(self, id_: str, param: str) -> T:
        """The object that another one names; raises StripeError 400 for the parameter."""
        row = self._rows.get(id_)
        if row is None:
            raise no_such(self.resource, id_, param, status=400)
        return row

    def order(self, id_: str, param: str) -> int:
        """The place of an object, removed or not; raises StripeError 400."""
        if id_ not in self._order:
            raise no_such(self.resource, id_, param, status=400)
        return self._order[id_]

    def newest(self, before: int | None = None, *, since: int | None = None, **by: str | None) -> Iterator[T]:
        """Newest first, from before a place; `by`: those with this value, of the first that is not None.

        Ends where nothing can follow that was created at `since` (UTC unix seconds) or later.
        """
        places = self._places(by)
        end = len(places) if before is None else bisect_left(places, before)
        for index in range(end - 1, -1, -1):
            place = places[index]
            if since is not None and self._latest[place] < since:
                return
            row = self._rows.get(self._ids[place])
            if row is not None:
                yield row

    def oldest(self, after: int, **by: str | None) -> Iterator[T]:
        """Oldest first, from after a place."""
        places = self._places(by)
        for index in range(bisect_right(places, after), len(places)):
            row = self._rows.get(self._ids[places[index]])
            if row is not None:
                yield row

    def __iter__(self) -> Iterator[T]:
        return iter(list(self._rows.values()))

    def __len__(self) -> int:
        return len(self._rows)

    def _places(self, by: dict[str, str | None]) -> Sequence[int]:
        for name, value in by.items():
            if value is not None:
                return self._by[name].get(value, ())
        return range(len(self._ids))
