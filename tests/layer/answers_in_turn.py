"""A server that answers as it is told, for clients that take a transport."""

from __future__ import annotations

from dataclasses import dataclass, field

import httpx

Answer = httpx.Response | Exception


@dataclass
class AnswersInTurn:
    """Gives the answers in turn, the last one for ever, and remembers what it was asked."""

    answers: list[Answer]
    requests: list[httpx.Request] = field(default_factory=list)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer
