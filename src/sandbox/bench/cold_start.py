"""How long the webhook function takes to start, beside a function that only imports its libraries."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sandbox.bench.layer import layer_folder, mebibytes, runtime_folder, without_bytecode
from sandbox.runtime_api import serve_event, start_function

WEBHOOK = Path(__file__).resolve().parents[2] / "webhook"
ROUNDS = 9
QUICK_ROUNDS = 2
PLAIN_EVERY = 3
"""A layer without bytecode is slow to start with, and takes a third of the rounds."""
LONGEST_START_S = 30

BARE = '''\
"""What any function of this kind imports and makes before it does anything."""

import boto3
import stripe
from aws_lambda_powertools import Logger

logger = Logger()
clients = [boto3.client("secretsmanager"), boto3.client("dynamodb")]
webhook = stripe.Webhook


def handler(event, context):
    """Answer nothing."""
'''
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "measuring",
    "AWS_SECRET_ACCESS_KEY": "measuring",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_REGION": "us-east-1",
    "SECRET_ID": "secret",
    "LEDGER_TABLE": "ledger",
    "QUEUE_URL": "http://127.0.0.1/queue",
    "MODE": "live",
    "OPENMETER_URL": "http://127.0.0.1",
    "POWERTOOLS_METRICS_NAMESPACE": "UsageReporting",
    "POWERTOOLS_SERVICE_NAME": "bench",
}


class NotStartedError(Exception):
    """A function did not start; the message is what it printed."""


@dataclass(frozen=True, slots=True)
class ColdStart:
    """Milliseconds, from the start of the process until it asks for its first event."""

    webhook_ms: float
    bare_ms: float
    """A function with the same layer that imports stripe, boto3 and Powertools' logger, and makes clients."""
    webhook_without_bytecode_ms: float
    layer_mb: float
    """MiB of the layer, unzipped."""

    @property
    def ratio(self) -> float:
        """The webhook's start over that of the bare function."""
        return self.webhook_ms / self.bare_ms

    @property
    def bytecode_gain(self) -> float:
        """The webhook's start with a layer that is not compiled, over that with the layer as it ships."""
        return self.webhook_without_bytecode_ms / self.webhook_ms


def measure_cold_start(*, quick: bool = False) -> ColdStart:
    """Start the functions in turns under AWS's runtime interface client; of each the fastest start counts.

    What else a machine does only adds to a start, and not to each the same.

    Raises NotStartedError; OtherVersionError when this environment's packages are not those of the layer.
    """
    layer, runtime = layer_folder(), runtime_folder()
    with tempfile.TemporaryDirectory(prefix="cold-start-") as scratch:
        bare, plain = Path(scratch, "bare"), Path(scratch, "layer")
        bare.mkdir()
        (bare / "app.py").write_text(BARE)
        without_bytecode(layer, plain)
        rounds = QUICK_ROUNDS if quick else ROUNDS
        webhook_ms, bare_ms, plain_ms = [], [], []
        for number in range(rounds):
            webhook_ms.append(start_ms(WEBHOOK, [layer, runtime], ENVIRONMENT))
            bare_ms.append(start_ms(bare, [layer, runtime], ENVIRONMENT))
            if number * PLAIN_EVERY < rounds:
                plain_ms.append(start_ms(WEBHOOK, [plain, runtime], ENVIRONMENT))
    return ColdStart(min(webhook_ms), min(bare_ms), min(plain_ms), mebibytes(layer))


def start_ms(task: Path, path: Sequence[Path], environment: Mapping[str, str]) -> float:
    """Milliseconds until a function asks for its first event. Raises NotStartedError."""
    with serve_event({}, LONGEST_START_S) as api:
        started_at = time.perf_counter()
        with start_function(api, task, path, environment) as process:
            try:
                api.wait_for_start(process, LONGEST_START_S)
            finally:
                process.kill()
                printed = process.communicate()[0]
    if not api.asked_at:
        raise NotStartedError(f"{task} did not start: {printed}")
    return (api.asked_at - started_at) * 1000
