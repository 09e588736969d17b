"""Keeps what a listing has to remember to its end, so that memory does not grow with what is listed."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

Json = dict[str, Any]

MOST_CHARACTERS = 250_000_000
"""Of the 512 MB that a function may write to disk, with room for what SQLite leaves between rows."""

_TABLE = (
    "CREATE TABLE rows (family, key, number INTEGER, body, PRIMARY KEY (family, key, number)) WITHOUT ROWID"
)


class TemporaryRows:
    """JSON objects by family and key. Close it.

    A database without a name is SQLite's own temporary file, of which it keeps 2 MB in memory; nobody else
    sees it, and it is gone when the process is, however that ends ("In-Memory Databases").
    """

    def __init__(self) -> None:
        self.count = 0
        self._characters = 0
        self._database: sqlite3.Connection | None = None

    def add(self, rows: Iterable[tuple[str, str, Json]]) -> None:
        """Keep some rows: family, key and object."""
        with self._opened() as database:
            database.executemany("INSERT INTO rows VALUES (?, ?, ?, ?)", map(self._numbered, rows))

    @property
    def is_full(self) -> bool:
        """Whether there is no room for many more."""
        return self._characters > MOST_CHARACTERS

    def groups(self) -> Iterator[tuple[str, str, list[Json]]]:
        """Family, key and all its objects in the order of their coming; by family, then key."""
        found = self._opened().execute("SELECT family, key, body FROM rows ORDER BY family, key, number")
        for (family, key), rows in groupby(found, key=lambda row: (row[0], row[1])):
            yield family, key, [json.loads(body) for _, _, body in rows]

    def close(self) -> None:
        """Forget everything."""
        if self._database is not None:
            self._database.close()
            self._database = None

    def _numbered(self, row: tuple[str, str, Json]) -> tuple[str, str, int, str]:
        family, key, data = row
        body = json.dumps(data, separators=(",", ":"))
        self.count += 1
        self._characters += len(family) + len(key) + len(body)
        return family, key, self.count, body

    def _opened(self) -> sqlite3.Connection:
        if self._database is None:
            self._database = sqlite3.connect("")
            self._database.execute("PRAGMA journal_mode = OFF")
            self._database.execute(_TABLE)
        return self._database
