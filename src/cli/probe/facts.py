"""All facts, in the order in which they are looked at, and how."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import stripe

from cli.errors import explain
from cli.probe.ending_facts import ENDING_FACTS
from cli.probe.fact import Fact, NotSeenError, Result, Seen
from cli.probe.meter_facts import METER_FACTS
from cli.probe.period_facts import PERIOD_FACTS
from cli.probe.workshop import Workshop

FACTS: tuple[Fact, ...] = (*PERIOD_FACTS, *ENDING_FACTS, *METER_FACTS)


def look_at(
    facts: Sequence[Fact], workshop: Workshop, begin: Callable[[Fact], None]
) -> Iterator[tuple[Fact, Seen]]:
    """Look at one fact after the other; one that cannot be seen does not stop the others.

    `begin` is told of each before it. Raises stripe.StripeError for a key that cannot be used at all.
    """
    workshop.clear_away_by_name()
    for fact in facts:
        begin(fact)
        yield fact, _seen(fact, workshop)


def _seen(fact: Fact, workshop: Workshop) -> Seen:
    try:
        return fact.look(workshop)
    except NotSeenError as error:
        return Seen(Result.NOT_SEEN, f"{str(error).rstrip('.')}.")
    except stripe.StripeError as error:
        return Seen(Result.NOT_SEEN, f"{explain(error)[0].rstrip('.')}.")
    except Exception as error:  # noqa: BLE001 - a defect in one fact must not hide what the others show
        return Seen(Result.NOT_SEEN, f"{explain(error)[0]}.")
