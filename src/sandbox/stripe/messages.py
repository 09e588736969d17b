"""Requests and answers, free of any web framework."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class Request:
    """An HTTP request; header names in lower case."""

    method: str
    path: str
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True)
class Response:
    """An HTTP answer; `dropped`: the connection is cut instead of answering."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    dropped: bool = False

    def json(self) -> Any:
        """The decoded body."""
        return json.loads(self.body)

    def replayed(self) -> Response:
        """The same answer, marked as a replay."""
        return replace(self, headers={**self.headers, "Idempotent-Replayed": "true"})


def json_response(status: int, content: Any, headers: Mapping[str, str] | None = None) -> Response:
    """An answer with a JSON body."""
    body = json.dumps(content).encode()
    return Response(status, {"Content-Type": "application/json", **(headers or {})}, body)
