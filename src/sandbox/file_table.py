"""The ledger's table in files, for several processes at once, as strict as the one in memory."""

from __future__ import annotations

import pickle
import sqlite3
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from sandbox.memory_table import stored_copy
from usage_reporting.errors import LedgerUnavailableError, LostRaceError
from usage_reporting.ledger import Item, Key

_FILES = 64
"""SQLite lets one write to a file at a time; those who write to DynamoDB do not wait for each other."""
_BUSY_S = 30.0


class FileTable:
    """Implements `usage_reporting.ledger.Table` on SQLite; `latency` seconds pass in each call."""

    def __init__(self, folder: Path, *, latency: float = 0.0) -> None:
        folder.mkdir(exist_ok=True)
        self._latency = latency
        self._files = [_File(folder / f"{number}.sqlite") for number in range(_FILES)]

    def close(self) -> None:
        """Close all files."""
        for file in self._files:
            file.close()

    def created_at(self) -> str:
        """When the table was made, in whole UTC seconds."""
        return self._files[0].run(_created_at)

    def get(self, keys: Sequence[Key]) -> list[Item]:
        """Read items; missing ones are left out. Raises LedgerUnavailableError for a key asked twice."""
        if len(set(keys)) != len(keys):
            raise LedgerUnavailableError("a read names a key twice")
        ends_at = time.monotonic() + self._latency
        found = [row for key in keys if (row := self._of(key[0]).run(partial(_read, key=key)))]
        items: list[Item] = [pickle.loads(pickled) for (pickled,) in found]  # noqa: S301 - ours
        self._wait(ends_at)
        return items

    def put(self, item: Item, read_version: int) -> None:
        """Write an item whose stored version is still `read_version` (0: there is none).

        Raises LostRaceError, and TypeError for what DynamoDB cannot hold.
        """
        ends_at = time.monotonic() + self._latency
        row = _row(item)
        changed = self._of(item["pk"]).run(partial(_write, row=row, read_version=read_version))
        self._wait(ends_at)
        if not changed:
            raise LostRaceError("the ledger entry was written by somebody else; read it again")

    def put_all(self, items: Sequence[Item]) -> None:
        """Write many new items, to begin with."""
        for item in items:
            self.put(item, 0)

    def _of(self, pk: str) -> _File:
        return self._files[zlib.crc32(pk.encode()) % _FILES]

    def _wait(self, ends_at: float) -> None:
        if (left := ends_at - time.monotonic()) > 0 and self._latency:
            time.sleep(left)


class _File:
    """One of the files; its connection is made on first use, and used by one thread at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None

    def run[T](self, work: Callable[[sqlite3.Connection], T]) -> T:
        with self._lock:
            if self._connection is None:
                self._connection = sqlite3.connect(
                    self._path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
                )
                self._connection.executescript(_SET_UP)
                self._connection.execute("INSERT OR IGNORE INTO created VALUES (0, ?)", (int(time.time()),))
            return work(self._connection)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


_SET_UP = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = OFF;
PRAGMA cache_size = -64;
CREATE TABLE IF NOT EXISTS created (one INTEGER PRIMARY KEY, at INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS items (
  pk TEXT NOT NULL, sk TEXT NOT NULL, version INTEGER NOT NULL, item BLOB NOT NULL, PRIMARY KEY (pk, sk)
) WITHOUT ROWID;
"""


def _created_at(connection: sqlite3.Connection) -> str:
    return str(connection.execute("SELECT at FROM created").fetchone()[0])


def _read(connection: sqlite3.Connection, key: Key) -> tuple[bytes] | None:
    found = connection.execute("SELECT item FROM items WHERE pk = ? AND sk = ?", key)
    row: tuple[bytes] | None = found.fetchone()
    return row


def _write(connection: sqlite3.Connection, row: tuple[bytes, int, str, str], read_version: int) -> int:
    """How many rows were written: one or none."""
    if read_version:
        change = "UPDATE items SET item = ?, version = ? WHERE pk = ? AND sk = ? AND version = ?"
        return connection.execute(change, (*row, read_version)).rowcount
    change = "INSERT OR IGNORE INTO items (item, version, pk, sk) VALUES (?, ?, ?, ?)"
    return connection.execute(change, row).rowcount


def _row(item: Item) -> tuple[bytes, int, str, str]:
    return pickle.dumps(stored_copy(item)), int(item["version"]), item["pk"], item["sk"]
