"""The ledger's table in a file, for several processes at once, as strict as the one in memory."""

from __future__ import annotations

import pickle
import sqlite3
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from sandbox.memory_table import stored_copy
from usage_reporting.errors import LedgerUnavailableError, LostRaceError
from usage_reporting.ledger import Item, Key

_BUSY_S = 30.0


class FileTable:
    """Implements `usage_reporting.ledger.Table` on SQLite; `latency` seconds pass in each call."""

    def __init__(self, file: Path, *, latency: float = 0.0) -> None:
        self._file = file
        self._latency = latency
        self._local = threading.local()
        self._open: list[sqlite3.Connection] = []

    def close(self) -> None:
        """Close the connections of all threads."""
        while self._open:
            self._open.pop().close()

    def created_at(self) -> str:
        """When the file was made, in whole UTC seconds."""
        [[at]] = self._connection.execute("SELECT at FROM created")
        return str(at)

    def get(self, keys: Sequence[Key]) -> list[Item]:
        """Read items; missing ones are left out. Raises LedgerUnavailableError for a key asked twice."""
        if len(set(keys)) != len(keys):
            raise LedgerUnavailableError("a read names a key twice")
        ends_at = time.monotonic() + self._latency
        found: list[Item] = []
        for key in keys:
            for [pickled] in self._connection.execute("SELECT item FROM items WHERE pk = ? AND sk = ?", key):
                found.append(pickle.loads(pickled))  # noqa: S301 - our own file
        self._wait(ends_at)
        return found

    def put(self, item: Item, read_version: int) -> None:
        """Write an item whose stored version is still `read_version` (0: there is none).

        Raises LostRaceError, and TypeError for what DynamoDB cannot hold.
        """
        ends_at = time.monotonic() + self._latency
        row = (pickle.dumps(stored_copy(item)), int(item["version"]), item["pk"], item["sk"])
        if read_version:
            change = "UPDATE items SET item = ?, version = ? WHERE pk = ? AND sk = ? AND version = ?"
            changed = self._connection.execute(change, (*row, read_version)).rowcount
        else:
            change = "INSERT OR IGNORE INTO items (item, version, pk, sk) VALUES (?, ?, ?, ?)"
            changed = self._connection.execute(change, row).rowcount
        self._wait(ends_at)
        if not changed:
            raise LostRaceError("the ledger entry was written by somebody else; read it again")

    def put_all(self, items: Sequence[Item]) -> None:
        """Write many new items at once, to begin with."""
        rows = [
            (pickle.dumps(stored_copy(item)), int(item["version"]), item["pk"], item["sk"]) for item in items
        ]
        with self._connection as connection:
            connection.execute("BEGIN")
            connection.executemany("INSERT INTO items (item, version, pk, sk) VALUES (?, ?, ?, ?)", rows)

    def _wait(self, ends_at: float) -> None:
        if (left := ends_at - time.monotonic()) > 0 and self._latency:
            time.sleep(left)

    @property
    def _connection(self) -> sqlite3.Connection:
        """This thread's connection."""
        found: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if found is None:
            found = self._local.connection = sqlite3.connect(
                self._file, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
            )
            self._open.append(found)
            found.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF;" + _TABLES)
            found.execute("INSERT OR IGNORE INTO created VALUES (0, ?)", (int(time.time()),))
        return found


_TABLES = """
CREATE TABLE IF NOT EXISTS created (one INTEGER PRIMARY KEY, at INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS items (
  pk TEXT NOT NULL, sk TEXT NOT NULL, version INTEGER NOT NULL, item BLOB NOT NULL, PRIMARY KEY (pk, sk)
) WITHOUT ROWID;
"""
