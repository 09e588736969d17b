"""The side of Lambda that a runtime talks to, for one invocation.

Source: "Using the Lambda runtime API for custom runtimes" (AWS Lambda Developer Guide).
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Queue
from typing import Any

_PREFIX = "/2018-06-01/runtime"
_REQUEST_ID = "8476a536-e9f4-11e8-9739-2dfe598c3fcd"


class RuntimeApi(ThreadingHTTPServer):
    """Hands out one event; `outcome` gets the path and the body that came of it."""

    daemon_threads = True

    def __init__(self, event: object, seconds: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.event = json.dumps(event).encode()
        self.seconds = seconds
        self.outcome: Queue[tuple[str, Any]] = Queue()
        self.handed_out = threading.Event()
        self.closed = threading.Event()

    @property
    def address(self) -> str:
        """What AWS_LAMBDA_RUNTIME_API is set to."""
        return f"127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: RuntimeApi

    def do_GET(self) -> None:
        if self.server.handed_out.is_set():
            self.server.closed.wait()  # there is no second event
            return
        self.server.handed_out.set()
        self.send_response(200)
        self.send_header("Lambda-Runtime-Aws-Request-Id", _REQUEST_ID)
        deadline = int(time.time() + self.server.seconds) * 1000
        self.send_header("Lambda-Runtime-Deadline-Ms", str(deadline))
        self.send_header(
            "Lambda-Runtime-Invoked-Function-Arn",
            "arn:aws:lambda:us-east-1:123456789012:function:tested",
        )
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(self.server.event)))
        self.end_headers()
        self.wfile.write(self.server.event)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        path = self.path.removeprefix(_PREFIX).replace(_REQUEST_ID, "id")
        self.send_response(202)
        self.send_header("Content-Length", "0")
        self.end_headers()
        self.server.outcome.put((path, json.loads(body)))

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def serve_event(event: object, seconds: int) -> Iterator[RuntimeApi]:
    """A runtime API with this event to handle, which times out after so many seconds."""
    api = RuntimeApi(event, seconds)
    thread = threading.Thread(target=api.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield api
    finally:
        api.closed.set()
        api.shutdown()
        thread.join()
        api.server_close()
