"""The three functions' core in processes as Lambda would run them: one lists, others report pages.

What AWS does between them is done by this machine: the queue is a folder, the ledger a file, each with the
time that a call takes within a region. A process is warm before anything is measured.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from sandbox.bench.processes import SPAWN, started
from sandbox.bench.stand_ins import OPENMETER_KEY, STRIPE_KEY, StandIns
from sandbox.file_table import FileTable
from usage_reporting import telemetry
from usage_reporting.config import Mode, Settings
from usage_reporting.container import Container
from usage_reporting.credentials import Secret
from usage_reporting.ticks import tick, work_off

LEDGER_LATENCY_S: Final = 0.004
QUEUE_LATENCY_S: Final = 0.01
WORKERS: Final = 6
"""MaximumConcurrency of the stack that is measured."""
RATE_SHARES: Final = {"lister": (0.25, 0.85), "worker": (0.6 / WORKERS, 0.85 / WORKERS)}
"""As the template shares Stripe's limits among the functions."""

_END: Final = ""
_MEGABYTE: Final = 1024


class Keys:
    """The secret, as it is in the process."""

    def current(self) -> Secret:
        return Secret(STRIPE_KEY, openmeter_api_key=OPENMETER_KEY)

    def reread(self) -> bool:
        return False


@dataclass(slots=True)
class _FolderQueue:
    """Messages as files, named to whoever takes them."""

    folder: Path
    names: Any
    _sent: int = 0

    def send(self, message: dict[str, Any], delay: int = 0) -> None:
        """Put one message on the queue; nothing of a benchmark is due later."""
        assert not delay
        time.sleep(QUEUE_LATENCY_S)
        name = f"{self._sent}.json"
        self._sent += 1
        (self.folder / name).write_text(json.dumps(message, separators=(",", ":")))
        self.names.put(name)


@dataclass(frozen=True, slots=True)
class Run:
    """One tick, from its beginning until all pages are reported."""

    seconds: float
    customer_meters: int
    failures: int
    processor_seconds: float
    """Of all processes together, the stand-ins' left out."""


class Deployment:
    """A context manager: a lister and its workers, with one ledger. `stream`: STRIPE_METER_STREAM."""

    def __init__(self, stand_ins: StandIns, *, stream: bool, ledger: Path) -> None:
        self._stand_ins = stand_ins
        self._stream = stream
        self._ledger = ledger
        self._opened = ExitStack()
        self._pipes: list[Connection] = []

    def __enter__(self) -> Self:
        folder = Path(self._opened.enter_context(tempfile.TemporaryDirectory()))
        names = SPAWN.SimpleQueue()
        roles = ["lister", *["worker"] * WORKERS]
        for role in roles:
            share, endpoint_share = RATE_SHARES[role]
            settings = Settings(
                openmeter_url=self._stand_ins.openmeter_url,
                stripe_api_base=self._stand_ins.stripe_url,
                mode=Mode.LIVE,
                stripe_meter_stream=self._stream,
                stripe_rate_share=share,
                stripe_endpoint_share=endpoint_share,
            )
            process, pipe = started(_process, role, settings, self._ledger, folder, names)
            self._opened.callback(process.join)
            self._opened.callback(process.terminate)
            self._pipes.append(pipe)
        for pipe in self._pipes:
            pipe.recv()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._opened.close()

    def tick(self, now: int, scope: str = "all") -> Run:
        """One tick at an instant (UTC seconds), and the workers until the queue is empty."""
        lister, *workers = self._pipes
        began = time.monotonic()
        for pipe in self._pipes:
            pipe.send((now, scope))
        customer_meters, processor_seconds = lister.recv()
        done = [worker.recv() for worker in workers]
        return Run(
            seconds=time.monotonic() - began,
            customer_meters=customer_meters,
            failures=sum(failures for failures, _ in done),
            processor_seconds=processor_seconds + sum(seconds for _, seconds in done),
        )

    def peak_mb(self) -> float:
        """The most memory that one of the processes ever had, in MB."""
        return max(self._peaks())

    def _peaks(self) -> Sequence[float]:
        for pipe in self._pipes:
            pipe.send(None)
        return [float(pipe.recv()) for pipe in self._pipes]


@dataclass(slots=True)
class _Clock:
    now: int = 0

    def __call__(self) -> int:
        return self.now


def _process(pipe: Connection, role: str, settings: Settings, ledger: Path, folder: Path, names: Any) -> None:
    # The plain way logs nothing either. Metrics are written as on Lambda, and read by nobody.
    telemetry.logger.setLevel("WARNING")
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    clock = _Clock()
    table = FileTable(ledger, latency=LEDGER_LATENCY_S)
    container = Container(settings, Keys(), table, _FolderQueue(folder, names), clock)
    pipe.send("warm")
    while True:
        try:
            order = pipe.recv()
        except EOFError:
            return
        if order is None:
            pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _MEGABYTE)
            continue
        clock.now, scope = order
        began = time.process_time()
        if role == "lister":
            done = tick(container, {"scope": scope}, None)["customer_meters"]
            telemetry.flush()
            for _ in range(WORKERS):
                names.put(_END)
        else:
            done = _work(container, folder, names)
        pipe.send((done, time.process_time() - began))


def _work(container: Container, folder: Path, names: Any) -> int:
    """Report pages until the end is named; how many failed."""
    failures = 0
    while name := names.get():
        file = folder / name
        record = {"messageId": name, "body": file.read_text()}
        file.unlink()
        failures += len(work_off(container, {"Records": [record]}, None)["batchItemFailures"])
        telemetry.flush()
    return failures
