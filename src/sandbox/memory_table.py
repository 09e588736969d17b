"""The ledger's table in memory, as strict as DynamoDB where the ledger could tell them apart."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from decimal import Context, Decimal, Inexact, Rounded
from typing import Any

from usage_reporting.errors import LedgerUnavailableError, LostRaceError
from usage_reporting.ledger import Item, Key

_NUMBERS = Context(prec=38, Emin=-128, Emax=126, traps=[Inexact, Rounded])
"""DynamoDB, "Supported data types": up to 38 digits."""


class MemoryTable:
    """Implements `usage_reporting.ledger.Table`; safe between threads."""

    def __init__(self, created_at: str = "0") -> None:
        self._created_at = created_at
        self._items: dict[Key, Item] = {}
        self._lock = threading.Lock()

    def created_at(self) -> str:
        """When the table was made, as it was told."""
        return self._created_at

    def get(self, keys: Sequence[Key]) -> list[Item]:
        """Read items; missing ones are left out. Raises LedgerUnavailableError for a key asked twice."""
        if len(set(keys)) != len(keys):
            raise LedgerUnavailableError("a read names a key twice")
        with self._lock:
            return [stored_copy(self._items[key]) for key in keys if key in self._items]

    def put(self, item: Item, read_version: int) -> None:
        """Write an item whose stored version is still `read_version` (0: there is none).

        Raises LostRaceError, and TypeError for what DynamoDB cannot hold.
        """
        kept = stored_copy(item)
        key = (item["pk"], item["sk"])
        with self._lock:
            stored = self._items.get(key)
            if (stored["version"] if stored else 0) != read_version:
                raise LostRaceError("the ledger entry was written by somebody else; read it again")
            self._items[key] = kept


def stored_copy(value: Any) -> Any:
    """The value as DynamoDB gives it back: its own copy, with every number a Decimal."""
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return value
    if kind is int or kind is Decimal:
        return _NUMBERS.create_decimal(value)
    if isinstance(value, Mapping):
        if not all(type(name) is str for name in value):
            raise TypeError("a map's names are texts")
        return {name: stored_copy(held) for name, held in value.items()}
    if isinstance(value, list | tuple):
        return [stored_copy(held) for held in value]
    raise TypeError(f"a table holds no {kind.__name__}")
