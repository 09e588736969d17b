"""`usage-reporter bench`: how fast, how small, and how near the limits, all in one run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from cli.output import print_line, print_table, progress
from sandbox.bench.growth_chart import growth_chart
from sandbox.bench.measure import QUICK, WHOLE, Results, measure
from sandbox.bench.report import document, named_ticks, promises


def bench(
    quick: Annotated[
        bool, typer.Option("--quick", help="Less of everything, in under a minute: no growth, no storm.")
    ] = False,
    file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the results as JSON as well.")
    ] = None,
    chart: Annotated[
        Path | None, typer.Option("--svg", metavar="FILE", help="Draw the growth as an SVG as well.")
    ] = None,
) -> int:
    """Measure the speed of this software against the plain way, and against the limits of Stripe.

    Everything runs on this machine, against stand-ins that take 80 ms (Stripe) and 50 ms (OpenMeter) for
    each call and keep Stripe's rate limits. Under ten minutes. Exit code 1 when a promise is not kept.

    Example: `usage-reporter bench --quick --json bench.json`
    """
    for written in filter(None, (file, chart)):
        if not written.absolute().parent.is_dir():
            raise typer.BadParameter(f"there is no folder for {written}; make it first")
    with progress("measuring", 1) as bar:
        results = measure(
            QUICK if quick else WHOLE,
            lambda what, share: bar.update(bar.task_ids[0], description=what, completed=share),
        )
    if file is not None:
        file.write_text(json.dumps(document(results), indent=2) + "\n")
    if chart is not None:
        chart.write_text(growth_chart(results.growth))
    _print(results)
    return 0 if all(one.is_kept for one in promises(results)) else 1


def _print(results: Results) -> None:
    base = results.baseline
    print_line(
        f"the plain way: {base.subscriptions} subscriptions in {base.seconds:.1f} s, "
        f"its {base.stripe_calls + base.openmeter_queries} calls alone {base.seconds_of_calls:.1f} s"
    )
    print_line()
    numbers = ["seconds", "calls to Stripe", "queries to OpenMeter", "processor, s"]
    rows = [
        [
            name,
            f"{tick.run.seconds:.2f}",
            str(tick.calls.stripe_calls),
            str(tick.calls.openmeter_queries),
            f"{tick.run.processor_seconds:.2f}",
        ]
        for name, tick in named_ticks(results)
    ]
    print_table([f"a tick over {results.plain.subscriptions:,} subscriptions", *numbers], rows, right=numbers)
    print_line()
    columns = ["subscriptions", "seconds", "calls to Stripe", "queries to OpenMeter", "most memory, MB"]
    rows = [
        [
            f"{one.tick.subscriptions:,}",
            f"{one.tick.run.seconds:.2f}",
            f"{one.tick.calls.stripe_calls:,}",
            f"{one.tick.calls.openmeter_queries:,}",
            f"{one.peak_mb:.0f}",
        ]
        for one in results.growth
    ]
    print_table(columns, rows, right=columns)
    print_line()
    rows = [
        [
            one.what,
            f"{one.measured:.3g}",
            f"{'at least' if one.is_at_least else 'at most'} {one.bound:g}",
            "kept" if one.is_kept else "NOT KEPT",
        ]
        for one in promises(results)
    ]
    print_table(["promise", "measured", "bound", ""], rows, right=["measured"])
