"""What a function loads and makes before its first event, and what it leaves for later."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sandbox.bench import cold_start
from sandbox.bench.cold_start import ColdStart, NotStartedError, start_ms
from tests.infrastructure.template import PROJECT

PROBE = """
import gc, json, sys
import botocore.client
made = []
create = botocore.client.ClientCreator.create_client
def recorded(self, service_name, *rest, **named):
    made.append(service_name)
    return create(self, service_name, *rest, **named)
botocore.client.ClientCreator.create_client = recorded
import ssl
read = []
create_default_context = ssl.create_default_context
def reading(*rest, **named):
    read.append(named.get("cafile"))
    return create_default_context(*rest, **named)
ssl.create_default_context = reading
import app
print(json.dumps({
    "modules": sorted(sys.modules), "clients": made, "certificates": len(read),
    "collects": gc.isenabled(), "frozen": gc.get_freeze_count(),
}))
"""


def start(function: str, environment: dict[str, str], path: list[Path]) -> Any:
    """What is there when a function has started."""
    folders = [PROJECT / "src" / function, *path]
    ran = subprocess.run(
        [sys.executable, "-S", "-c", PROBE],
        env={**environment, "PYTHONPATH": os.pathsep.join(map(str, folders)), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


@pytest.fixture(params=["webhook", "schedule", "worker"])
def started(
    request: pytest.FixtureRequest, environment: dict[str, str], layer: Path, runtime: Path
) -> dict[str, Any]:
    found: dict[str, Any] = start(request.param, environment, [layer, runtime])
    return found


def test_what_is_not_needed_is_not_loaded(started: dict[str, Any]) -> None:
    needless = {"boto3", "s3transfer", "requests", "multiprocessing", "unittest", "rich", "pydantic", "click"}
    loaded = {name.partition(".")[0] for name in started["modules"]}
    assert not needless & loaded
    assert not [name for name in started["modules"] if name.startswith("aws_lambda_powertools.utilities.par")]


def test_only_the_clients_of_each_event_are_made_and_few_certificates_read(started: dict[str, Any]) -> None:
    assert sorted(started["clients"]) == ["dynamodb", "secretsmanager"]
    assert started["certificates"] <= 1  # Stripe's few; all others when OpenMeter is asked


def test_garbage_is_collected_again_but_not_looked_for_in_what_was_loaded(started: dict[str, Any]) -> None:
    assert started["collects"]
    assert started["frozen"] > 10_000


def test_the_time_of_a_start_is_measured(runtime: Path, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("import time; time.sleep(0.2)\ndef handler(event, context): pass\n")
    assert 200 < start_ms(tmp_path, [runtime], cold_start.ENVIRONMENT) < 20_000


def test_a_function_that_does_not_start_is_no_measurement(runtime: Path, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("raise RuntimeError('no start')\n")
    with pytest.raises(NotStartedError, match="no start"):
        start_ms(tmp_path, [runtime], cold_start.ENVIRONMENT)


def test_a_bad_environment_stops_the_start_and_is_named(layer: Path, runtime: Path) -> None:
    environment = {**cold_start.ENVIRONMENT, "MODE": "lively"}
    with pytest.raises(NotStartedError, match="MODE"):
        start_ms(cold_start.WEBHOOK, [layer, runtime], environment)


def test_the_measurement_names_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([50.0, 30.0, 90.0] + [40.0, 20.0] * 2)
    monkeypatch.setattr(cold_start, "start_ms", lambda *_: next(times))
    measured = cold_start.measure_cold_start(quick=True)
    assert measured == ColdStart(40.0, 20.0, 90.0, measured.layer_mb)
    assert (measured.ratio, measured.bytecode_gain) == (2.0, 2.25)
    assert 1 < measured.layer_mb < 40
