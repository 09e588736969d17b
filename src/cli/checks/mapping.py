"""The mapping: what is metered by what, whether both sides fit, and whose usage OpenMeter has."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from cli.checks.finding import Finding, Level, count, ok, problem, some_of, warning
from cli.checks.patient import Patient
from usage_reporting.customer_meters import OM_METER_ID
from usage_reporting.errors import NotPermittedError, RefusedError, RejectedError
from usage_reporting.model import CustomerMeter, Target
from usage_reporting.openmeter_customers import OpenMeterCustomers

MOST_ASKED = 20
"""Customers whose metadata is looked through for a subject that OpenMeter knows."""

WHERE = f"{OM_METER_ID} in the metadata of the subscription item, its price or its product"


async def mapping(patient: Patient) -> list[Finding]:
    """Whether each live metered item is fed by an OpenMeter meter that fits its Stripe meter."""
    live = await patient.live()
    found: list[Finding] = []
    by_slug = _by_slug(live.customer_meters)
    for slug, several in sorted(by_slug.items()):
        found += await _meter(patient, slug, several)
    found += _refusals(live.customer_meters)
    found += [
        problem(f"{name} could not be read: {reason}", "look at it in Stripe's Dashboard")
        for name, reason in sorted(patient.operator.billing.unreadable.items())
    ]
    found += await _unmapped(patient)
    if live.classic:
        found.append(
            warning(
                f"classic billing mode: {some_of(live.classic)}. Stripe never bills usage from before a "
                "price swap there, reported or not",
                "migrate these subscriptions to flexible billing mode in Stripe, or swap prices at renewals "
                "only (docs/endings.md)",
            )
        )
    found += _legacy(patient, live.customer_meters)
    if not live.metered and not found:
        return [
            warning(
                "Stripe shows no live subscription with a metered price",
                "is the key of the right mode (test or live)? To try it: `usage-reporter setup`",
            )
        ]
    if by_slug and not any(finding.level is Level.PROBLEM for finding in found):
        customers = {one.customer for one in live.customer_meters}
        meters = f"{count(len(by_slug), 'OpenMeter meter')} ({some_of(sorted(by_slug))})"
        found.insert(0, ok(f"{count(len(customers), 'customer')} on {meters}, which fit their Stripe meters"))
    return found


def _legacy(patient: Patient, customer_meters: Iterable[CustomerMeter]) -> list[Finding]:
    """Stripe calls usage records deprecated ("Migrate to billing meters"); no end of them is known."""
    items = {span.item for one in customer_meters if one.target is Target.USAGE_RECORD for span in one.spans}
    if not items:
        return []
    return [
        warning(
            f"{count(len(items), 'subscription item')} on legacy prices, which are billed by usage records: "
            "in whole numbers, and cut half an hour early. Stripe calls them deprecated",
            f"move to meters, without a gap (docs/migration.md): {patient.command('migrate')}",
        )
    ]


def _by_slug(customer_meters: Iterable[CustomerMeter]) -> dict[str, list[CustomerMeter]]:
    found: dict[str, list[CustomerMeter]] = defaultdict(list)
    for one in customer_meters:
        if one.openmeter_meter:
            found[one.openmeter_meter].append(one)
    return found


def items_of(several: Sequence[CustomerMeter]) -> str:
    """The items of customer meters, with their prices."""
    items = {span.item: f"{span.item} (price {span.price})" for one in several for span in one.spans}
    return f"subscription items {some_of(sorted(items.values()))}"


async def _meter(patient: Patient, slug: str, several: Sequence[CustomerMeter]) -> list[Finding]:
    try:
        meter = await patient.operator.openmeter.meter(slug)
    except RefusedError as error:
        return [
            problem(
                f"{error.reason}; named by {items_of(several)}",
                f"create the meter in OpenMeter, or correct {WHERE}",
            )
        ]
    summed = [one for one in several if one.target is Target.MIRROR]
    try:
        if summed:
            meter.check_adds_up()
    except RefusedError as error:
        fix = f"put the price on a Stripe meter with formula 'last', or correct {WHERE}"
        return [problem(f"{error.reason}; it is on {items_of(summed)}", fix)]
    return []


def _refusals(customer_meters: Iterable[CustomerMeter]) -> list[Finding]:
    by_reason: dict[str, list[CustomerMeter]] = defaultdict(list)
    for one in customer_meters:
        if one.refusal:
            by_reason[one.refusal].append(one)
    shown = [
        problem(f"{reason.partition('; ')[0]}; on {items_of(several)}", _fix_of(reason))
        for reason, several in sorted(by_reason.items())
    ]
    if len(shown) <= MOST_ASKED:
        return shown
    rest = len(shown) - MOST_ASKED
    more = problem(f"{rest:,} more like these", "mend these first, then run it again")
    return [*shown[:MOST_ASKED], more]


def _fix_of(reason: str) -> str:
    """A refusal says what, why, and at its end what to do."""
    _, _, fix = reason.rpartition("; ")
    return fix


async def _unmapped(patient: Patient) -> list[Finding]:
    """Items that are not ours; those that were are lost money."""
    unmapped = list(patient.operator.billing.unmapped.values())
    heads = await patient.operator.ledger.heads([one.pk for one in unmapped]) if unmapped else {}
    lost = [one for one in unmapped if one.pk in heads]
    never = [one for one in unmapped if one.pk not in heads]
    found = []
    if lost:
        named = some_of([f"{one.item} of {one.subscription}" for one in lost])
        found.append(
            problem(
                f"items that name no OpenMeter meter any more, though their usage was sent before: {named}",
                f"put {WHERE}",
            )
        )
    if never:
        named = some_of([f"{one.item} of {one.subscription}" for one in never])
        found.append(
            warning(
                f"no OpenMeter meter is named by {count(len(never), 'metered item')}, so that nothing of "
                f"theirs is reported: {named}",
                f"put {WHERE}; leave them if their usage comes from elsewhere",
            )
        )
    return found


async def subjects(patient: Patient) -> list[Finding]:
    """Whether OpenMeter ever had usage of each subject, and if not, under what name it may have."""
    live = await patient.live()
    if patient.operator.openmeter.customers is not None:
        return await _customers(patient, patient.operator.openmeter.customers, live.customer_meters)
    found: list[Finding] = []
    seen = 0
    for slug, several in sorted(_by_slug(live.customer_meters).items()):
        try:
            known = await patient.operator.openmeter.subjects(slug)
        except RefusedError:
            continue  # the mapping says so
        named = [one for one in several if one.subject]
        unseen = [one for one in named if one.subject not in known]
        seen += len(named) - len(unseen)
        if unseen:
            found.append(await _unseen(patient, slug, unseen, known))
    if not found:
        return [ok(f"OpenMeter has usage of each subject ({seen:,})")]
    return found


async def _customers(
    patient: Patient, customers: OpenMeterCustomers, live: Sequence[CustomerMeter]
) -> list[Finding]:
    """Whether each key has a customer in OpenMeter, and OpenMeter usage of one of its subjects."""
    known = await customers.known(sorted({one.subject for one in live} - {""}))
    missing = sorted({one.subject for one in live} - {""} - set(known))
    found = []
    if missing:
        found.append(
            problem(
                f"OpenMeter has no customer with key {some_of(missing)}: nothing of theirs is reported",
                "create them in OpenMeter with the subject keys that their usage is sent under, or correct "
                "what the Stripe customers name",
            )
        )
    for slug, several in sorted(_by_slug(live).items()):
        try:
            seen = await patient.operator.openmeter.subjects(slug)
        except RefusedError:
            continue  # the mapping says so
        keys = sorted({one.subject for one in several} & set(known))
        unseen = [known[key] for key in keys if not seen & {key, *known[key].subject_keys}]
        if bare := [one.key for one in unseen if not one.subject_keys]:
            found.append(
                warning(
                    f"no subject keys have these customers in OpenMeter, and no event on meter {slug} "
                    f"has their key as its subject: {some_of(bare)}",
                    "put the subjects that their usage is sent under into their usageAttribution.subjectKeys",
                )
            )
        if quiet := [one.key for one in unseen if one.subject_keys]:
            found.append(
                warning(
                    f"OpenMeter never had an event on meter {slug} of any subject of {some_of(quiet)}",
                    "if they have used something: correct the subject keys of these customers in OpenMeter",
                )
            )
    return found or [ok(f"OpenMeter has each customer, with usage of their subjects ({len(known):,})")]


async def _unseen(
    patient: Patient, slug: str, unseen: Sequence[CustomerMeter], known: frozenset[str]
) -> Finding:
    names = sorted({one.subject for one in unseen})
    # v3 has no list of a meter's subjects but that of those with a value.
    had = "an event" if patient.operator.settings.openmeter_api == "v1" else "usage"
    what = f"OpenMeter never had {had} on meter {slug} of {some_of(names)}"
    if known:
        what += f"; it has of {some_of(sorted(known))}"
    key, customers = await _key_that_fits(patient, unseen, known)
    if key:
        return problem(
            f"{what}. The metadata {key!r} of {some_of(customers)} is such a subject",
            f"deploy with SubjectMetadataKey={key}",
        )
    return warning(
        what,
        "if they have used something: send their events under these subjects, or put the subject into the "
        "metadata of the Stripe customer and deploy with SubjectMetadataKey",
    )


async def _key_that_fits(
    patient: Patient, unseen: Sequence[CustomerMeter], known: frozenset[str]
) -> tuple[str, list[str]]:
    """The metadata key under which most of these customers name a subject that OpenMeter knows."""
    fitting: dict[str, list[str]] = defaultdict(list)
    for customer in sorted({one.customer for one in unseen})[:MOST_ASKED]:
        try:
            shown = await patient.stripe.get(f"/v1/customers/{customer}")
        except (NotPermittedError, RejectedError):
            continue
        for key, value in (shown.get("metadata") or {}).items():
            if value in known:
                fitting[key].append(customer)
    if not fitting:
        return "", []
    key = max(fitting, key=lambda name: len(fitting[name]))
    return key, fitting[key]


async def events(patient: Patient) -> list[Finding]:
    """Whether OpenMeter can read a value out of the newest events."""
    newest = await patient.operator.openmeter.newest_events()
    is_v1 = patient.operator.settings.openmeter_api == "v1"
    wrong: dict[str, list[str]] = defaultdict(list)
    for one in newest:
        if error := one.get("validationError"):
            wrong[str(error)].append(str((one.get("event") or {}).get("type", "")))
    if not newest:
        return [
            warning(
                "OpenMeter had no events in the last three days" if is_v1 else "OpenMeter has no events",
                "check that your application still sends them",
            )
        ]
    if not wrong and not is_v1:
        # The spec has `validation_errors`; the server that was read fills them in for v1 alone.
        return [
            ok(
                f"OpenMeter has {count(len(newest), 'newest event')}; whether it can read their values, "
                "its v3 API may not say"
            )
        ]
    if not wrong:
        return [ok(f"OpenMeter has nothing against its newest events ({len(newest)})")]
    return [
        warning(
            f"{len(types)} of OpenMeter's newest events ({len(newest)}) count as nothing: {error} "
            f"(type {some_of(sorted(set(types)))})",
            "send the value that the meter's valueProperty names, as a number",
        )
        for error, types in sorted(wrong.items())
    ]
