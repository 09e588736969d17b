"""The OpenMeter client: when it asks again, what it refuses, and that numbers and subjects stay apart."""

from __future__ import annotations

import asyncio
import contextlib

import httpx
import pytest

from tests.layer.answers_in_turn import Answer
from tests.layer.builders import NOON, D, FixedCredentials, Sleeps
from tests.layer.openmeter_forms import V1, V3, Api, Form, asked, hours, problem
from usage_reporting.backoff import LONGEST_PAUSE_S
from usage_reporting.errors import OpenMeterUnavailableError, RefusedError
from usage_reporting.openmeter import OpenMeter, OpenMeterMeter
from usage_reporting.openmeter_http import TRIES
from usage_reporting.windows import DAY, HOUR, rfc3339


@pytest.fixture(params=[V1(), V3()], ids=["v1", "v3"])
def form(request: pytest.FixtureRequest) -> Form:
    """A version of the API; what has no such parameter here is about v1."""
    chosen: Form = request.param
    return chosen


# Queries


def test_hours_of_several_subjects() -> None:
    api = Api([V1().rows(("a", NOON, "1"), ("b", NOON, "2"), ("a", NOON + HOUR, "0.5"))])

    assert hours(V1(), api, "a", "b") == {"a": {NOON: D(1), NOON + HOUR: D("0.5")}, "b": {NOON: D(2)}}
    [request] = api.requests
    assert (request.method, str(request.url)) == ("POST", "http://openmeter.test/api/v1/meters/m1/query")
    assert api.body() == {
        "from": "2026-07-15T12:00:00Z",
        "to": "2026-07-15T14:00:00Z",
        "subject": ["a", "b"],
        "windowSize": "HOUR",
    }


def test_totals_have_no_windows() -> None:
    api = Api([V1().rows(("a", NOON, "7"))])

    found = asked(api, lambda openmeter: openmeter.totals("m1", ["a", "b"], NOON + 1, NOON + 62))

    assert found == {"a": D(7)}
    assert api.body() == {"from": "2026-07-15T12:00:01Z", "to": "2026-07-15T12:01:02Z", "subject": ["a", "b"]}


def test_long_times_are_asked_seven_days_at_a_time_and_put_together(form: Form) -> None:
    api = Api([form.rows(("a", NOON, "1"))])

    assert hours(form, api, days=15) == {"a": {NOON: D(3)}}
    spans = sorted((api.body(number)["from"], api.body(number)["to"]) for number in range(len(api.requests)))
    assert spans == [
        ("2026-07-15T12:00:00Z", "2026-07-22T12:00:00Z"),
        ("2026-07-22T12:00:00Z", "2026-07-29T12:00:00Z"),
        ("2026-07-29T12:00:00Z", "2026-07-30T12:00:00Z"),
    ]


@pytest.mark.parametrize(
    ("start", "end", "asked_for"),
    [
        (NOON, NOON + 2 * HOUR, {(NOON, NOON + 2 * HOUR, "HOUR")}),
        (NOON, NOON + 90 * 60, {(NOON, NOON + HOUR, "HOUR"), (NOON + HOUR, NOON + 90 * 60, None)}),
        (NOON + 60, NOON + HOUR, {(NOON + 60, NOON + HOUR, None)}),
        (NOON + 60, NOON + 120, {(NOON + 60, NOON + 120, None)}),
        (
            NOON - 60,
            NOON + HOUR + 60,
            {(NOON - 60, NOON, None), (NOON, NOON + HOUR, "HOUR"), (NOON + HOUR, NOON + HOUR + 60, None)},
        ),
        (NOON - 60, NOON + 60, {(NOON - 60, NOON, None), (NOON, NOON + 60, None)}),
    ],
)
def test_with_whole_windows_hours_have_full_hours_as_bounds_and_parts_are_totals(
    form: Form, start: int, end: int, asked_for: set[tuple[int, int, str | None]]
) -> None:
    api = Api([form.rows(("a", at - 17 * (at % HOUR != 0), "1")) for at, _, _ in sorted(asked_for)])
    work = asked(
        form.served(api),
        lambda openmeter: openmeter.hours("m1", ["a"], start, end),
        whole_windows=True,
        version=form.api,
    )

    bodies = [api.body(number) for number in range(len(api.requests))]
    assert {(body["from"], body["to"], form.granularity(body)) for body in bodies} == {
        (rfc3339(left), rfc3339(right), size) for left, right, size in asked_for
    }
    assert len(work["a"]) == len(asked_for)
    assert all(hour % HOUR == 0 for hour in work["a"])


@pytest.mark.parametrize("count", [0, 101])
def test_a_query_takes_1_to_100_subjects(form: Form, count: int) -> None:
    api = Api([form.rows()])
    subjects = [f"s{number}" for number in range(count)]

    with pytest.raises(ValueError, match="1 to 100 subjects"):
        asked(
            form.served(api),
            lambda openmeter: openmeter.hours("m1", subjects, NOON, NOON + HOUR),
            version=form.api,
        )
    with pytest.raises(ValueError, match="1 to 100 subjects"):
        asked(
            form.served(api),
            lambda openmeter: openmeter.totals("m1", subjects, NOON, NOON + HOUR),
            version=form.api,
        )
    assert api.requests == []


def test_a_hundred_subjects_are_fine(form: Form) -> None:
    assert hours(form, Api([form.rows()]), *(f"s{number}" for number in range(100))) == {}


def test_subjects_that_were_not_asked_for_are_left_out(form: Form) -> None:
    api = Api([form.rows(("b", NOON, "1"), ("A", NOON, "3"), ("a", NOON, "4"))])

    assert hours(form, api, "a") == {"a": {NOON: D(4)}}


@pytest.mark.parametrize("subject", [None, ""])
def test_usage_of_nobody_is_not_taken_for_no_usage_of_those_asked_for(
    form: Form, subject: str | None
) -> None:
    api = Api([form.rows(("a", NOON, "1"), (subject, NOON, "5"))])

    with pytest.raises(OpenMeterUnavailableError, match="a query of subjects with usage that names none"):
        hours(form, api, "a", "None")


@pytest.mark.parametrize("bad", ["null", "true", "false", '"7"', "NaN", "Infinity", "[1]", "{}"])
def test_a_value_that_is_no_number_spoils_only_its_subject(bad: str) -> None:
    found = hours(V1(), Api([V1().rows(("a", NOON, bad), ("b", NOON, "1"))]), "a", "b")

    assert not found["a"][NOON].is_finite()
    assert found["b"] == {NOON: D(1)}


@pytest.mark.parametrize(
    "number", ["9007199254740993", "0.30000000000000004", "1e21", "-5", "0", "1e-7", "123456789.123456789"]
)
def test_numbers_are_exactly_those_of_the_answer(form: Form, number: str) -> None:
    assert hours(form, Api([form.rows(("a", NOON, number))])) == {"a": {NOON: D(number)}}


def test_a_total_in_parts_is_not_the_last_of_them(form: Form) -> None:
    """Of a UNIQUE_COUNT the parts do not add up either."""
    api = form.served(Api([form.rows(("a", NOON, "1"), ("a", NOON + HOUR, "2"))]))

    with pytest.raises(OpenMeterUnavailableError, match="answered a query of totals with parts of them"):
        asked(api, lambda openmeter: openmeter.totals("m1", ["a"], NOON, NOON + 2 * HOUR), version=form.api)


def test_other_time_zones_are_the_same_instants() -> None:
    text = '{"data":[{"subject":"a","windowStart":"2026-07-15T14:00:00+02:00","value":1}]}'

    assert hours(V1(), Api([httpx.Response(200, text=text)])) == {"a": {NOON: D(1)}}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<html>",
        "[]",
        "null",
        "{}",
        '{"data":null}',
        '{"data":5}',
        '{"data":["x"]}',
        '{"data":[[]]}',
        '{"data":[{"subject":"a","value":1}]}',
        '{"data":[{"windowStart":"2026-07-15T12:00:00Z","value":1}]}',
        '{"data":[{"subject":"a","windowStart":"2026-07-15T12:00:00Z"}]}',
        '{"data":[{"subject":"a","windowStart":"2026-07-15T12:00:00","value":1}]}',
        '{"data":[{"subject":"a","windowStart":"noon","value":1}]}',
        '{"data":[{"subject":"a","windowStart":5,"value":1}]}',
        "[" * 200_000,
        '{"data":[{"subject":"a","windowStart":"2026-07-15T12:00:00Z","value":1e99999999999999999999}]}',
    ],
)
def test_an_answer_of_another_shape_is_a_reason_to_ask_again(text: str) -> None:
    with pytest.raises(OpenMeterUnavailableError):
        hours(V1(), Api([httpx.Response(200, text=text)]))


# Meters


def test_a_meter_is_asked_once() -> None:
    api = Api([httpx.Response(200, json={"slug": "m1", "aggregation": "sum"})])

    async def twice(openmeter: OpenMeter) -> list[OpenMeterMeter]:
        return [await openmeter.meter("m1"), await openmeter.meter("m1")]

    assert asked(api, twice) == [OpenMeterMeter("m1", "SUM")] * 2
    [request] = api.requests
    assert (request.method, str(request.url)) == ("GET", "http://openmeter.test/api/v1/meters/m1")


@pytest.mark.parametrize(
    "slug", ["", "M1", "m-1", "m1/../x", "m1?x", "_m", "m_", "m__1", "ü", "m" * 65, "m1\n"]
)
def test_a_name_that_cannot_be_a_slug_is_refused_without_asking(slug: str) -> None:
    api = Api([V1().rows()])

    with pytest.raises(RefusedError, match=r"om_meter_id .* cannot be the slug"):
        asked(api, lambda openmeter: openmeter.meter(slug))
    assert api.requests == []


@pytest.mark.parametrize("slug", ["m", "tokens_total", "a1_2", "m" * 64, "01ARZ3NDEKTSV4RRFFQ69G5FAV"])
def test_slugs_and_ids_are_taken(slug: str) -> None:
    api = Api([httpx.Response(200, json={"aggregation": "COUNT"})])

    assert asked(api, lambda openmeter: openmeter.meter(slug)) == OpenMeterMeter(slug, "COUNT")


# Refusals


def test_an_unknown_meter_is_refused_by_name(form: Form) -> None:
    api = Api([problem(404)])

    with pytest.raises(RefusedError, match=r"has no meter 'm1'.*create it or correct om_meter_id"):
        hours(form, api)
    assert len(api.requests) == 1


@pytest.mark.parametrize(
    ("answer", "detail"),
    [
        (problem(400, "from must be before to"), "from must be before to"),
        (problem(422), "Problem"),
        (httpx.Response(400, text="<html>"), ""),
        (httpx.Response(400, json=["x"]), ""),
    ],
)
def test_a_query_that_openmeter_does_not_take_is_refused_with_its_words(
    answer: httpx.Response, detail: str
) -> None:
    api = Api([answer])

    with pytest.raises(RefusedError) as refusal:
        hours(V1(), api)
    assert refusal.value.reason == (
        f"OpenMeter refuses the query of meter 'm1' ({answer.status_code}): {detail}"
    )
    assert len(api.requests) == 1


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("https://me:pw@om.example/api?token=1#x", "https://om.example/api"),
        ("/login", "http://openmeter.test/login"),
    ],
)
def test_openmeter_at_another_address_is_refused_with_it_and_not_followed(
    form: Form, location: str, shown: str
) -> None:
    api = Api([httpx.Response(308, headers={"Location": location})])

    with pytest.raises(RefusedError) as refusal:
        hours(form, api)
    assert refusal.value.reason == (
        f"OpenMeter answers 308, and refers to {shown}, where its key is not sent; correct OPENMETER_URL "
        "(https, not http?)"
    )
    assert len(api.requests) == 1


# Asking again


@pytest.mark.parametrize(
    "trouble",
    [
        *(problem(status) for status in (408, 429, 500, 502, 503, 504)),
        httpx.ConnectError("refused"),
        httpx.ReadTimeout("slow"),
        httpx.RemoteProtocolError("cut"),
    ],
    ids=repr,
)
def test_trouble_is_asked_again(form: Form, trouble: Answer) -> None:
    sleeps = Sleeps()
    api = Api([trouble, trouble, form.rows(("a", NOON, "1"))])

    assert hours(form, api, sleeps=sleeps) == {"a": {NOON: D(1)}}
    assert len(sleeps.seconds) == 2
    assert 0.1 < sleeps.seconds[0] <= 0.25 < sleeps.seconds[1] * 1.01 <= 0.51


def test_lasting_trouble_is_given_up_with_what_it_was(form: Form) -> None:
    sleeps, api = Sleeps(), Api([problem(503)])

    with pytest.raises(OpenMeterUnavailableError, match="OpenMeter answered 503, 4 times"):
        hours(form, api, sleeps=sleeps)
    assert len(api.requests) == TRIES
    assert len(sleeps.seconds) == TRIES - 1

    with pytest.raises(OpenMeterUnavailableError, match="could not be reached: ConnectTimeout"):
        hours(form, Api([httpx.ConnectTimeout("key=om_private")]))


@pytest.mark.parametrize(
    ("header", "waited"),
    [
        ("2", 2.0),
        ("3600", LONGEST_PAUSE_S),
        ("9" * 400, LONGEST_PAUSE_S),
        ("soon", 0.0),
        ("-1", 0.0),
        ("", 0.0),
    ],
)
def test_openmeter_may_say_when_to_ask_again(form: Form, header: str, waited: float) -> None:
    sleeps = Sleeps()
    hours(form, Api([problem(429, **{"Retry-After": header}), form.rows()]), sleeps=sleeps)

    [seconds] = sleeps.seconds
    assert seconds == waited if waited else 0 < seconds <= 0.25


# Keys


def test_no_key_means_no_header(form: Form) -> None:
    api = Api([form.rows()])
    hours(form, api)

    assert "Authorization" not in api.requests[0].headers


@pytest.mark.parametrize("status", [401, 403])
def test_a_key_that_stopped_working_is_read_again(form: Form, status: int) -> None:
    credentials = FixedCredentials(openmeter_keys=["om_old", "om_new"])
    api = Api([problem(status), form.rows(("a", NOON, "1"))])

    assert hours(form, api, credentials=credentials) == {"a": {NOON: D(1)}}
    assert [request.headers["Authorization"] for request in api.requests] == [
        "Bearer om_old",
        "Bearer om_new",
    ]
    assert credentials.rereads == 1


def test_a_key_that_does_not_work_after_that_either_is_named_not_shown(form: Form) -> None:
    credentials = FixedCredentials(openmeter_keys=["om_old", "om_new"])
    api = Api([problem(401)])

    with pytest.raises(OpenMeterUnavailableError) as trouble:
        hours(form, api, credentials=credentials)
    assert "openmeter_api_key" in trouble.value.reason
    assert "om_" not in trouble.value.reason
    assert len(api.requests) == 2


# Concurrency


@pytest.mark.parametrize("cap", [1, 2, 3])
def test_never_more_queries_at_once_than_allowed(form: Form, cap: int) -> None:
    running, most = 0, 0

    async def slow(request: httpx.Request) -> httpx.Response:
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(5):
            await asyncio.sleep(0)
        running -= 1
        return form.rows()

    async def work(openmeter: OpenMeter) -> None:
        await asyncio.gather(*(openmeter.hours("m1", ["a"], NOON, NOON + 30 * DAY) for _ in range(3)))

    asked(form.served(slow), work, concurrency=cap, version=form.api)

    assert most == cap


def test_a_wait_before_the_next_try_blocks_nobody(form: Form) -> None:
    finished: list[str] = []
    good = asyncio.Event()

    async def api(request: httpx.Request) -> httpx.Response:
        return form.rows() if "good" in str(request.url) else problem(503)

    class Waits(Sleeps):
        async def __call__(self, seconds: float) -> None:
            await good.wait()

    async def work(openmeter: OpenMeter) -> None:
        async def ask(slug: str) -> None:
            with contextlib.suppress(OpenMeterUnavailableError):
                await openmeter.totals(slug, ["a"], NOON, NOON + HOUR)
            finished.append(slug)
            good.set()

        await asyncio.wait_for(asyncio.gather(ask("bad"), ask("good")), timeout=5)

    asked(form.served(api), work, concurrency=1, sleeps=Waits(), version=form.api)

    assert finished == ["good", "bad"]


def test_lists_are_read_as_they_are() -> None:
    meters = Api([httpx.Response(200, json=[{"slug": "m1"}, {"slug": "m2"}])])
    assert asked(meters, OpenMeter.slugs) == ["m1", "m2"]
    assert meters.requests[0].url.path == "/api/v1/meters"

    subjects = Api([httpx.Response(200, json=["a", "b", "a"])])
    assert asked(subjects, lambda openmeter: openmeter.subjects("m1")) == {"a", "b"}
    assert subjects.requests[0].url.path == "/api/v1/meters/m1/subjects"

    events = Api([httpx.Response(200, json=[{"event": {"type": "used"}}, None])])
    assert asked(events, OpenMeter.newest_events) == [{"event": {"type": "used"}}]
    assert events.requests[0].url.path == "/api/v1/events"


def test_what_is_no_list_or_no_openmeter_is_said() -> None:
    with pytest.raises(OpenMeterUnavailableError, match="not a JSON array"):
        asked(Api([httpx.Response(200, json={"data": []})]), OpenMeter.slugs)
    with pytest.raises(RefusedError, match=r"404 to /api/v1/meters; OPENMETER_URL must be the base address"):
        asked(Api([problem(404)]), OpenMeter.slugs)
    with pytest.raises(RefusedError, match="no meter 'm9'"):
        asked(Api([problem(404)]), lambda openmeter: openmeter.subjects("m9"))


@pytest.mark.parametrize("aggregation", ["UNIQUE_COUNT", "AVG", "MIN", "MAX", "LATEST"])
def test_hours_of_most_aggregations_do_not_add_up(aggregation: str) -> None:
    OpenMeterMeter("m1", "SUM").check_adds_up()
    OpenMeterMeter("m1", "COUNT").check_adds_up()
    with pytest.raises(RefusedError, match=f"aggregates by {aggregation}, which does not add up"):
        OpenMeterMeter("m1", aggregation).check_adds_up()
