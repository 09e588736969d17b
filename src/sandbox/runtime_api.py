"""The side of Lambda that a runtime talks to, for one start of a function and one invocation.

Source: "Using the Lambda runtime API for custom runtimes" (AWS Lambda Developer Guide).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Empty, Queue
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
        self.asked_at = 0.0
        """When the runtime asked for the event: it has started. By time.perf_counter()."""
        self.closed = threading.Event()

    @property
    def address(self) -> str:
        """What AWS_LAMBDA_RUNTIME_API is set to."""
        return f"127.0.0.1:{self.server_port}"

    def wait_for_start(self, process: subprocess.Popen[str], seconds: float) -> None:
        """Wait until the runtime asks for the event, its process ends, or the time is over."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and process.poll() is None and not self.handed_out.wait(0.1):
            pass

    def result(self, process: subprocess.Popen[str], seconds: float = 30) -> tuple[str, Any]:
        """What came of the event: path and body; `no answer` when the process ended without."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                return self.outcome.get(timeout=0.1)
            except Empty:
                if process.poll() is not None:
                    break
        return "no answer", None


class _Handler(BaseHTTPRequestHandler):
    server: RuntimeApi

    def do_GET(self) -> None:
        if self.server.handed_out.is_set():
            self.server.closed.wait()  # there is no second event
            return
        self.server.asked_at = time.perf_counter()
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
        self.server.handed_out.set()

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


def start_function(
    api: RuntimeApi, task: Path, path: Sequence[Path], environment: Mapping[str, str]
) -> subprocess.Popen[str]:
    """Start the function in a folder under AWS's runtime interface client.

    Of this environment's packages it sees nothing but what is on `path`, and it can write no bytecode.
    """
    variables = {
        "AWS_LAMBDA_FUNCTION_NAME": task.name,
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "512",
        "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
        "AWS_LAMBDA_RUNTIME_API": api.address,
        "LAMBDA_TASK_ROOT": str(task),
        "PATH": os.defpath,
        "PYTHONPATH": os.pathsep.join(map(str, [task, *path])),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return subprocess.Popen(
        # -S: without the packages of the environment that this runs in
        [sys.executable, "-S", "-m", "awslambdaric", "app.handler"],
        cwd=task,
        env={**environment, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
