"""The page queue in memory, with what SQS promises and no more (Amazon SQS, "Standard queues")."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

VISIBILITY_S: Final = 360
RECEIVES: Final = 3
RETENTION_S: Final = 3600
LARGEST_BATCH: Final = 10


@dataclass(slots=True)
class Message:
    """One message; `visible_at` and `sent_at` in UTC seconds."""

    number: int
    body: str
    sent_at: int
    visible_at: int
    receives: int = 0


class MemoryQueue:
    """Visibility time-out, receive count, dead letters, retention and delayed messages.

    Without other numbers, in seconds and receives, it is the page queue.
    """

    def __init__(
        self,
        clock: Callable[[], int],
        *,
        visibility: int = VISIBILITY_S,
        receives: int = RECEIVES,
        retention: int = RETENTION_S,
    ) -> None:
        self._clock = clock
        self._visibility, self._receives, self._retention = visibility, receives, retention
        self._count = 0
        self.waiting: list[Message] = []
        self.sent: list[str] = []
        """All that was ever put on it."""
        self.dead: list[Message] = []

    def send(self, message: dict[str, Any], delay: int = 0) -> None:
        """Put a message on the queue, to be seen after so many seconds."""
        self._count += 1
        now = self._clock()
        body = json.dumps(message, separators=(",", ":"))
        self.sent.append(body)
        self.waiting.append(Message(self._count, body, now, now + delay))

    def next_due(self) -> int | None:
        """When the next message can be received."""
        return min((message.visible_at for message in self.waiting), default=None)

    def receive(self) -> Message | None:
        """Take the oldest visible message; it is hidden until it is deleted or its time runs out."""
        now = self._clock()
        self.waiting = [one for one in self.waiting if now - one.sent_at < self._retention]
        for message in list(self.waiting):
            if message.visible_at > now:
                continue
            if message.receives == self._receives:
                self.waiting.remove(message)
                self.dead.append(message)
                continue
            message.receives += 1
            message.visible_at = now + self._visibility
            return message
        return None

    @property
    def has_more(self) -> bool:
        """Whether a message can be received now."""
        return any(message.visible_at <= self._clock() for message in self.waiting)

    def receive_more(self) -> list[Message]:
        """All that can be received now, as far as a batch takes it."""
        return list(itertools.islice(iter(self.receive, None), LARGEST_BATCH - 1))

    def again(self, message: Message) -> None:
        """Let a message be received once more although somebody has it: at-least-once delivery."""
        message.visible_at = self._clock()

    def delete(self, message: Message) -> None:
        """Done with it."""
        if message in self.waiting:
            self.waiting.remove(message)
