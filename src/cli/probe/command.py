"""`usage-reporter probe`: how a Stripe account behaves where Stripe's documentation is silent."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import stripe
import typer

from cli.errors import WrongUseError, explain
from cli.output import AsJson, is_terminal, print_json, print_line, print_table, warn
from cli.probe.fact import Fact, Result, Seen
from cli.probe.facts import FACTS, look_at
from cli.probe.workshop import Pace, Workshop
from cli.stopping import STOPPED, stoppable
from cli.stripe_account import is_test_key, required_key, stripe_client
from sandbox.clock import system_clock
from usage_reporting.stripe_api import API_VERSION
from usage_reporting.windows import rfc3339

OUTPUT = Path("stripe-facts.json")
PATIENCE = 15
_MINUTE = 60
_STOPPED = "probe: stopped; test clocks are deleted, the rest is archived, and no file was written"
_LEFT = "probe: stopped before all was put away, and no file was written; the next run puts it away"

sleep = time.sleep
now = system_clock

Json = dict[str, Any]


def probe(
    only: Annotated[
        list[str] | None, typer.Option("--only", help="Look at this fact alone; can be given more than once.")
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", help="The file that the stand-in can read: `simulate --facts FILE`.")
    ] = OUTPUT,
    patience: Annotated[
        int, typer.Option("--patience", min=1, help="Minutes to wait for Stripe to count usage.")
    ] = PATIENCE,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before it begins.")] = False,
    list_facts: Annotated[bool, typer.Option("--list", help="Name the facts, and do nothing.")] = False,
    as_json: AsJson = False,
) -> int:
    """Find out on your own Stripe test account whether what bills rest on, undocumented by Stripe, holds.

    It uses the account of STRIPE_KEY, which must be a test key: take a sandbox. It makes a product, a few
    meters and prices, which are archived at the end, and for each fact a test clock with one customer, which
    is deleted, on Ctrl-C too. Exit code 1 when a fact differs; what could not be seen says why.

    Example: `STRIPE_KEY=sk_test_... usage-reporter probe --only period-end --only last-by-stamp`
    """
    facts = _chosen(only or [])
    if list_facts:
        _print_list(facts, as_json=as_json)
        return 0
    key = _test_key(os.environ)
    _check_writable(output)
    minutes = sum(fact.minutes for fact in facts)
    if not (yes or _is_wanted(facts, minutes)):
        return 1
    found = _look(facts, key, patience, minutes, as_json=as_json)
    document = _document(found)
    if as_json:
        print_json(document)
    else:
        _print_end(found, output)
    output.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return 1 if any(seen.result is Result.DIFFERS for _, seen in found) else 0


def _chosen(only: Sequence[str]) -> list[Fact]:
    names = [fact.name for fact in FACTS]
    unknown = [name for name in only if name not in names]
    if unknown:
        raise typer.BadParameter(f"{', '.join(unknown)} is no fact; these are: {', '.join(names)}")
    return [fact for fact in FACTS if not only or fact.name in only]


def _test_key(environment: Mapping[str, str]) -> str:
    key = required_key(environment)
    if not is_test_key(key):
        raise WrongUseError(
            "STRIPE_KEY is no test key, and real customers are nothing to try things on; export one of a "
            "sandbox (sk_test_...)"
        )
    return key


def _check_writable(output: Path) -> None:
    folder = output.resolve().parent
    if (
        output.is_dir()
        or not folder.is_dir()
        or not os.access(output if output.exists() else folder, os.W_OK)
    ):
        raise WrongUseError(f"--output {output} cannot be written; name a file in a folder of yours")


def _is_wanted(facts: Sequence[Fact], minutes: int) -> bool:
    warn(
        "This makes, in the test mode of the account of STRIPE_KEY: a product, up to three meters and seven "
        f"prices, archived at the end; {len(facts)} test clocks, one after the other, each with a customer "
        "who is deleted with it; and, for custom-time-loses-hold, a webhook endpoint that never answers, for "
        "which drafts of other test customers wait some minutes, too. "
        f"It takes about {minutes} minutes, most of them waiting for Stripe to count."
    )
    if not is_terminal():
        raise WrongUseError("there is no terminal to ask at; pass --yes")
    return typer.confirm("Begin?", err=True)


def _look(
    facts: Sequence[Fact], key: str, patience: int, minutes: int, *, as_json: bool
) -> list[tuple[Fact, Seen]]:
    """Look at the facts, and tell of each as soon as it is seen."""
    found: list[tuple[Fact, Seen]] = []
    left = minutes

    def begin(fact: Fact) -> None:
        nonlocal left
        warn(f"{len(found) + 1} of {len(facts)}: {fact.name}; about {left} minutes left")
        left -= fact.minutes

    with stoppable(_STOPPED), _workshop(key, patience) as workshop:
        for fact, seen in look_at(facts, workshop, begin):
            found.append((fact, seen))
            if not as_json:
                _print_fact(fact, seen)
    return found


@contextmanager
def _workshop(key: str, patience: int) -> Iterator[Workshop]:
    """A workshop that is cleared away at the end, whatever happened in it."""
    with stripe_client(key, os.environ) as client:
        pace = Pace(sleep, now, patience * _MINUTE)
        workshop = Workshop(client, pace, lambda events: _stream(client, events))
        try:
            yield workshop
            workshop.put_away()
        except KeyboardInterrupt:
            # The answer of what was just made, or deleted, may never have come.
            with _second_stop_ends_it():
                workshop.clear_away_by_name()
            raise
        except BaseException:
            workshop.put_away()
            raise
        finally:
            for what in workshop.left:
                warn(f"could not be put away: {what}")


@contextmanager
def _second_stop_ends_it() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        warn(_LEFT)
        raise typer.Exit(STOPPED) from None
    except stripe.StripeError as error:
        warn(f"{_LEFT} ({explain(error)[0]})")
        raise typer.Exit(STOPPED) from None


def _stream(client: stripe.StripeClient, events: list[Json]) -> None:
    """Stream meter events. Raises stripe.StripeError."""
    token = client.v2.billing.meter_event_session.create().authentication_token
    with stripe_client(token, os.environ) as streaming:
        streaming.v2.billing.meter_event_stream.create({"events": events})  # type: ignore[typeddict-item]


def _document(found: Sequence[tuple[Fact, Seen]]) -> Json:
    return {
        "probed_at": rfc3339(now()),
        "api_version": API_VERSION,
        "facts": [fact.document(seen) for fact, seen in found],
    }


def _print_list(facts: Sequence[Fact], *, as_json: bool) -> None:
    if as_json:
        print_json([{"name": fact.name, "assumed": fact.assumed, "minutes": fact.minutes} for fact in facts])
        return
    rows = [[fact.name, str(fact.minutes), fact.assumed] for fact in facts]
    print_table(["fact", "minutes", "what is assumed"], rows, right=["minutes"])


def _print_fact(fact: Fact, seen: Seen) -> None:
    shown = f" ({', '.join(seen.evidence)})" if seen.evidence else ""
    print_line(f"{seen.result.value}: {fact.name}")
    print_line(f"  assumed  {fact.assumed} See {fact.matters}")
    print_line(f"  tried    {fact.tried}")
    print_line(f"  seen     {seen.what}{shown}")
    if seen.result is Result.DIFFERS:
        print_line(f"  so       {fact.if_differs}")


def _print_end(found: Sequence[tuple[Fact, Seen]], output: Path) -> None:
    counts = [(result, sum(seen.result is result for _, seen in found)) for result in Result]
    print_line()
    print_line(f"{', '.join(f'{count} {result.value}' for result, count in counts)}; written to {output}")
