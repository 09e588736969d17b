"""`usage-reporter console`: the address it prints, its one document, its exit codes, and its end."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable

import httpx
import pytest

from cli import console as command
from cli.output import print_line
from cli.stack import Stack
from tests.cli.conftest import Run
from tests.integration.world import HOUR, NOON, World


def test_the_document_is_what_the_page_shows(run: Run, world: World, stack: str, ada: str) -> None:
    world.use(ada, NOON + HOUR, "2.5")

    result = run("console", "--stack", stack, "--json")

    assert result.code == 0, result.err
    [period] = result.json["periods"]
    assert (period["stripe_customer"], period["meter"], period["condition"]) == (ada, "m1", "to send")
    assert (period["metered"], period["in_stripe"], period["difference"]) == ("12.5", "10", "2.5")
    assert period["words"] == "2.5 to send"
    assert result.json["counts"] == {"to send": 1}
    assert result.json["problems"] == {}
    assert result.json["traffic"]["days"]["m1"][-1] == {"day": "2026-07-15", "metered": "12.5", "told": "10"}
    assert [event["value"] for event in world.meter_events(ada)] == [10]


def test_what_needs_somebody_is_exit_code_1(run: Run, world: World, stack: str, ada: str) -> None:
    price, _ = world.metered_price("requests")
    world.subscription(price, om_meter_id="no_such_meter")

    result = run("console", "--stack", stack, "--json")

    assert result.code == 1
    assert result.json["counts"] == {"exact": 1, "refused": 1}


def test_what_cannot_be_read_is_exit_code_1_and_named(run: Run, world: World, stack: str, ada: str) -> None:
    world.stripe.faults.add("status", status=503, times=None)

    result = run("console", "--stack", stack, "--json")

    world.stripe.faults.clear()
    assert result.code == 1
    assert "Stripe answered 503" in result.json["problems"]["Periods"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "pass --stack NAME"),
        (("--stack", "nothing"), "there is no stack 'nothing'"),
        (("--stack", "billing", "--port", "70000"), "there is no port 70000"),
        (("--stack", "billing", "--port", "many"), "should be a valid integer"),
    ],
)
def test_a_wrong_use_is_one_line(run: Run, stack: str, arguments: tuple[str, ...], said: str) -> None:
    result = run("console", *arguments)

    assert result.code == 2
    assert said in result.err
    assert result.out == ""


def test_a_port_that_is_taken_is_said(run: Run, stack: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        result = run("console", "--stack", stack, "--port", str(other.getsockname()[1]))

    assert result.code == 2
    assert "cannot be had on this machine" in result.err


def test_it_serves_this_machine_alone_until_ctrl_c(
    run: Run, world: World, stack: str, ada: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.use(ada, NOON + 60, -3)
    asked: list[str] = []
    _then(monkeypatch, lambda url: asked.append(httpx.get(url).text))

    result = run("console", "--stack", stack)

    assert result.code == 0, result.err
    assert result.out.startswith("console: http://127.0.0.1:")
    assert result.err == "console: ended\n"
    assert f"report --stack billing --customer {ada} --accept" in asked[0]


def test_a_browser_is_opened_where_that_is_asked_for(
    run: Run, world: World, stack: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    def open_nothing(url: str) -> bool:
        opened.append(url)
        return False

    monkeypatch.setattr("webbrowser.open", open_nothing)
    _then(monkeypatch, lambda _url: None)

    result = run("console", "--stack", stack, "--open")

    assert result.out == f"console: {opened[0]} (Ctrl-C ends it)\n"
    assert "has no browser to open" in result.err


def test_the_usual_port_may_be_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        monkeypatch.setattr(command, "USUAL_PORT", other.getsockname()[1])
        with command._listener(0) as listener:
            host, port = listener.getsockname()

    assert host == "127.0.0.1"
    assert port != command.USUAL_PORT


def _then(monkeypatch: pytest.MonkeyPatch, act: Callable[[str], None]) -> None:
    """Once the console tells its address, do something with it, and press Ctrl-C."""
    served = command.serve_console

    def serve_and_stop(deployed: Stack, environment: object, **options: object) -> None:
        def tell(text: str) -> None:
            print_line(text)
            threading.Thread(target=stop, args=(text.split()[1],)).start()

        def stop(url: str) -> None:
            try:
                act(url)
                time.sleep(0.1)
            finally:
                os.kill(os.getpid(), signal.SIGINT)

        served(deployed, os.environ, tell=tell, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(command, "serve_console", serve_and_stop)
