"""What `usage-reporter demo` prints at its end, and its exit code; the demo itself is run by `make demo`."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import ClassVar, Self, cast

import pytest
from typer.testing import CliRunner, Result

from cli.demo import playground_of
from cli.evidence import InvoiceEvidence, LineEvidence
from cli.main import app
from sandbox.clock import ManualClock
from sandbox.cloud import LocalCloudError
from sandbox.openmeter import OpenMeterSandbox
from sandbox.playground import PlaygroundError
from sandbox.stage import STACK, Stage
from sandbox.story import Bill, subscribers
from sandbox.stripe import StripeSandbox
from usage_reporting.model import Target

EXACT = Bill("Ada", "execution_duration", Decimal("1234.5"), Decimal("1234.500"), "in_ada", 12345)
SHORT = Bill("Bell", "execution_duration", Decimal("2.5"), Decimal(2), "in_bell", 20)
OVER = Bill("Curie", "api_calls", Decimal(7), Decimal(8), "in_curie", 2002)

Play = Callable[..., Result]


def explained(bill: Bill, *, ends_in_billed: bool = True) -> InvoiceEvidence:
    """An invoice of one line that ends in the billed quantity, or not."""
    line = LineEvidence(
        subscription="sub_1",
        item="si_1",
        price="price_1",
        pricing="",
        target=Target.MIRROR,
        stripe_meter="mtr_1",
        event_name=bill.meter,
        openmeter_meter=bill.meter,
        subject="cus_1",
        start=0,
        end=1,
        billed=bill.billed,
        amount=Decimal(bill.amount),
        currency="usd",
        is_final=True,
        ends_in_billed=ends_in_billed,
    )
    return InvoiceEvidence(
        "in_1", bill.invoice, "paid", "cus_1", bill.customer, "usd", Decimal(0), 0, 0, [line]
    )


@pytest.fixture
def shown() -> list[tuple[str, bool]]:
    """The versions of OpenMeter's API that stages were set up with."""
    return []


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, shown: list[tuple[str, bool]]) -> Play:
    """Run the command with these bills as the story's outcome, or with this error in its course."""

    def run(*arguments: str, outcome: list[Bill] | BaseException) -> Result:
        class Acts:
            def __init__(self, stage: object, *_: object) -> None:
                self.stage = stage
                self.people = subscribers(1_784_116_800)
                self.explained: list[InvoiceEvidence] = []

            def play(self) -> list[Bill]:
                if isinstance(outcome, BaseException):
                    raise outcome
                self.explained = [explained(bill) for bill in outcome]
                return outcome

        class Stage:
            environment: ClassVar = {"STRIPE_KEY": "sk_test_sandbox", "AWS_REGION": "us-east-1 and more"}
            environment_file = tmp_path / ".cache" / "demo.env"
            customers: ClassVar = {"Ada": "cus_ada"}

            def __init__(self, openmeter_api: str, *, over_event_bridge: bool) -> None:
                shown.append((openmeter_api, over_event_bridge))

            def __enter__(self) -> Self:
                return self

            def __exit__(self, *_: object) -> None:
                pass

        monkeypatch.setattr("cli.demo.Acts", Acts)
        monkeypatch.setattr("cli.demo.Stage", Stage)
        return CliRunner().invoke(app, ["demo", *arguments])

    return run


def test_the_ways_are_those_of_the_options_or_of_the_environment(
    play: Play, shown: list[tuple[str, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENMETER_API", raising=False)
    monkeypatch.delenv("STRIPE_INGRESS", raising=False)
    play(outcome=[EXACT])
    play("--openmeter-api", "v3", "--ingress", "eventbridge", outcome=[EXACT])
    monkeypatch.setenv("OPENMETER_API", "v3")
    play(outcome=[EXACT])
    monkeypatch.setenv("STRIPE_INGRESS", "eventbridge")
    play(outcome=[EXACT])

    assert shown == [("v1", False), ("v3", True), ("v3", False), ("v3", True)]
    assert play("--openmeter-api", "v2", outcome=[EXACT]).exit_code == 2
    assert play("--ingress", "sqs", outcome=[EXACT]).exit_code == 2


def test_the_last_line_says_exact_when_every_line_is(play: Play) -> None:
    result = play(outcome=[EXACT])

    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1] == "demo: EXACT"
    assert (
        "Ada       execution_duration  1,234.500  1,234.500  in_ada          $123.45  EXACT" in result.stdout
    )


@pytest.mark.parametrize(("bill", "verdict"), [(SHORT, "SHORT by 0.5"), (OVER, "OVER by 1")])
def test_one_line_that_is_not_exact_is_enough(play: Play, bill: Bill, verdict: str) -> None:
    result = play(outcome=[EXACT, bill])

    assert result.exit_code == 1
    assert result.stdout.splitlines()[-1] == "demo: NOT EXACT"
    assert verdict in result.stdout


def test_no_bill_at_all_is_not_exact(play: Play) -> None:
    assert play(outcome=[]).exit_code == 1


def test_a_line_that_explain_cannot_follow_is_not_exact(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.explained", functools.partial(explained, ends_in_billed=False))

    result = play(outcome=[EXACT])

    assert result.exit_code == 1
    assert "explained: 0 of 1 lines end in the billed quantity, 1 with a difference" in result.stdout
    assert result.stdout.splitlines()[-1] == "demo: NOT EXACT"


def test_as_json_standard_output_is_one_document(play: Play) -> None:
    result = play("--json", "--seed", "7", outcome=[EXACT, SHORT])

    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert (document["verdict"], document["seed"]) == ("NOT EXACT", 7)
    assert document["lines"][0] == {
        "customer": "Ada",
        "meter": "execution_duration",
        "metered": "1234.5",
        "billed": "1234.5",
        "invoice": "in_ada",
        "invoice_amount": "123.45",
        "verdict": "EXACT",
    }


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (LocalCloudError("sam build failed; all it said is in x.log\nmuch more"), "sam build failed"),
        (OSError("no port is free"), "no port is free"),
        (RuntimeError("the local server did not start"), "the local server did not start"),
    ],
)
def test_what_goes_wrong_is_said_in_one_line(play: Play, error: Exception, line: str) -> None:
    result = play(outcome=error)

    assert result.exit_code == 1
    assert line in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert "demo: EXACT" not in result.output


def test_stopped_it_says_so_and_is_not_exact(play: Play) -> None:
    result = play(outcome=KeyboardInterrupt())

    assert result.exit_code == 130
    assert result.stderr.splitlines() == ["demo: stopped, and all of it taken down"]
    assert "EXACT" not in result.stdout


def test_it_stays_until_it_is_stopped_and_says_how_to_reach_it(
    play: Play, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / ".cache" / "demo.env"
    found: list[str] = []

    def stopped(_event: object) -> bool:
        found.extend(file.read_text().splitlines())
        raise KeyboardInterrupt

    monkeypatch.setattr("threading.Event.wait", stopped)
    monkeypatch.chdir(tmp_path)

    result = play("--stay", outcome=[EXACT])

    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines.index("demo: EXACT") < lines.index("source .cache/demo.env")
    assert f"usage-reporter explain in_1 --stack {STACK}" in lines
    assert f"usage-reporter report --stack {STACK} --customer cus_ada --dry-run" in lines
    assert "export STRIPE_KEY=sk_test_sandbox" in found
    assert "export AWS_REGION='us-east-1 and more'" in found
    assert result.stderr.splitlines()[-1] == "demo: all of it taken down"
    assert not file.exists()


def test_what_a_later_demo_left_for_another_terminal_stays(
    play: Play, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / ".cache" / "demo.env"

    def stopped(_event: object) -> bool:
        file.write_text("export STRIPE_KEY=of_the_later_demo\n")
        raise KeyboardInterrupt

    monkeypatch.setattr("threading.Event.wait", stopped)

    assert play("--stay", outcome=[EXACT]).exit_code == 0
    assert file.read_text() == "export STRIPE_KEY=of_the_later_demo\n"


def test_a_demo_that_stayed_still_tells_by_its_exit_code_what_it_found(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("threading.Event.wait", _stopped)

    result = play("--stay", "--json", outcome=[SHORT])

    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert document["environment"]["STRIPE_KEY"] == "sk_test_sandbox"
    assert document["file"].endswith("/.cache/demo.env")


def _stopped(_event: object) -> bool:
    raise KeyboardInterrupt


def test_the_console_is_served_over_it_until_it_is_stopped(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: dict[str, object] = {}

    def serve(deployed: str, environment: Mapping[str, str], **options: object) -> None:
        served.update(options, deployed=deployed, key=environment["STRIPE_KEY"])

    monkeypatch.setattr("cli.demo.serve_console", serve)
    monkeypatch.setattr("cli.demo.Stack.read", lambda name: name)
    monkeypatch.setattr("cli.demo.playground_of", lambda stage: "levers")

    result = play("--console", "--port", "8799", "--json", outcome=[SHORT])

    assert result.exit_code == 1
    assert json.loads(result.stdout)["verdict"] == "NOT EXACT"
    assert (served["deployed"], served["key"], served["port"]) == (STACK, "sk_test_sandbox", 8799)
    assert served["playground"] == "levers"


def test_the_consoles_tick_says_what_the_schedule_said() -> None:
    class OfTick:
        stripe = StripeSandbox(ManualClock(1_784_116_800))
        openmeter = OpenMeterSandbox(ManualClock(1_784_116_800))
        client: object = None

        def tick(self, scope: str) -> dict[str, object]:
            if scope == "closing":
                return {"status": "unknown", "reason": "Stripe answered 503"}
            return {"status": "queued", "customer_meters": 7}

        def wait_for_queue(self, seconds: float) -> bool:
            return True

    levers = playground_of(cast("Stage", OfTick()))

    assert levers.tick("all") == ("The schedule function queued 7 customer meters, and the worker took them")
    with pytest.raises(PlaygroundError, match="Stripe answered 503"):
        levers.tick("closing")
