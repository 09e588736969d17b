"""What time will do next to the account's subscriptions and drafts."""

from __future__ import annotations

import heapq
from collections.abc import Callable


class Agenda:
    """Instants (UTC unix seconds) by object id; asks `due_of` again for ids that were marked."""

    def __init__(self, due_of: Callable[[str], int | None]) -> None:
        self._due_of = due_of
        self._marked: set[str] = set()
        self._due: dict[str, int] = {}
        self._heap: list[tuple[int, str]] = []

    def mark(self, id_: str) -> None:
        """The object has changed, and with it perhaps when it is due."""
        self._marked.add(id_)

    def next(self) -> int | None:
        """The earliest instant at which anything is due."""
        self._refresh()
        while self._heap and self._due.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def take(self, instant: int) -> list[str]:
        """The ids that are due by this instant, in the order of time."""
        taken = []
        while (due := self.next()) is not None and due <= instant:
            _, id_ = heapq.heappop(self._heap)
            del self._due[id_]
            taken.append(id_)
        for id_ in taken:
            self.mark(id_)
        return taken

    def _refresh(self) -> None:
        for id_ in self._marked:
            due = self._due_of(id_)
            if due is None:
                self._due.pop(id_, None)
            elif self._due.get(id_) != due:
                self._due[id_] = due
                heapq.heappush(self._heap, (due, id_))
        self._marked.clear()
