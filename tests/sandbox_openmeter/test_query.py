"""What a meter query answers."""

from __future__ import annotations

import math
import random
from time import process_time
from typing import TYPE_CHECKING, Any

import pytest

from sandbox.openmeter import OpenMeterSandbox, OpenMeterSettings, Problem, QueryResult
from tests.sandbox_openmeter.conftest import DAY, cloud_event

if TYPE_CHECKING:
    from sandbox.clock import ManualClock

TEN = DAY + 36_000


def values(result: QueryResult) -> list[float]:
    return [row.value for row in result.rows]


def windows(result: QueryResult) -> list[tuple[str, str]]:
    return [(row.window_start, row.window_end) for row in result.rows]


def test_from_is_inclusive_and_to_is_exclusive(openmeter: OpenMeterSandbox) -> None:
    openmeter.record("prompt", "cus_1", TEN, 1)
    openmeter.record("prompt", "cus_1", TEN + 60, 10)
    openmeter.record("prompt", "cus_1", TEN + 120, 100)

    assert values(openmeter.query("tokens", start=TEN, end=TEN + 120)) == [11]
    assert values(openmeter.query("tokens", start=TEN + 120, end=TEN + 121)) == [100]


def test_adjacent_periods_at_an_odd_second_share_nothing(openmeter: OpenMeterSandbox) -> None:
    for second in range(10):
        openmeter.record("prompt", "cus_1", TEN + second, 2**second)
    before = openmeter.query("tokens", start=DAY, end=TEN + 7)
    after = openmeter.query("tokens", start=TEN + 7, end=DAY + 86_400)
    assert values(before) == [127]
    assert values(after) == [1023 - 127]


def test_sub_seconds_are_cut_but_echoed(openmeter: OpenMeterSandbox) -> None:
    openmeter.ingest([cloud_event(time="2027-01-01T10:00:00.999Z")])
    result = openmeter.query("tokens", start="2027-01-01T10:00:00.900Z", end="2027-01-01T10:00:01.5+00:00")
    assert values(result) == [1]
    assert windows(result) == [("2027-01-01T10:00:00.9Z", "2027-01-01T10:00:01.5Z")]


def test_a_bound_with_an_offset_is_the_same_instant(openmeter: OpenMeterSandbox) -> None:
    openmeter.record("prompt", "cus_1", TEN, 1)
    result = openmeter.query("tokens", start="2027-01-01T12:00:00+02:00", end="2027-01-01T12:00:01+02:00")
    assert values(result) == [1]
    assert windows(result) == [("2027-01-01T12:00:00+02:00", "2027-01-01T12:00:01+02:00")]


def test_partial_windows_show_their_full_bounds(openmeter: OpenMeterSandbox) -> None:
    openmeter.record("prompt", "cus_1", TEN, 1)
    openmeter.record("prompt", "cus_1", TEN + 90, 10)
    result = openmeter.query("tokens", start=TEN + 60, end=TEN + 120, window_size="HOUR")
    assert values(result) == [10]
    assert windows(result) == [("2027-01-01T10:00:00Z", "2027-01-01T11:00:00Z")]


def test_windows_without_usage_are_missing_and_the_rest_is_in_order(
    openmeter: OpenMeterSandbox,
) -> None:
    for hour in (5, 1, 3):
        openmeter.record("prompt", "cus_1", DAY + hour * 3600, hour)
    result = openmeter.query("tokens", start=DAY, end=DAY + 86_400, window_size="HOUR")
    assert values(result) == [1, 3, 5]
    assert result.rows[0].window_start == "2027-01-01T01:00:00Z"


@pytest.mark.parametrize(
    ("size", "bounds"),
    [
        ("MINUTE", ("2027-01-01T10:00:00Z", "2027-01-01T10:01:00Z")),
        ("HOUR", ("2027-01-01T10:00:00Z", "2027-01-01T11:00:00Z")),
        ("DAY", ("2027-01-01T00:00:00Z", "2027-01-02T00:00:00Z")),
        ("MONTH", ("2027-01-01T00:00:00Z", "2027-02-01T00:00:00Z")),
    ],
)
def test_window_sizes(openmeter: OpenMeterSandbox, size: str, bounds: tuple[str, str]) -> None:
    openmeter.record("prompt", "cus_1", TEN + 59, 1)
    assert windows(openmeter.query("tokens", window_size=size)) == [bounds]


@pytest.mark.parametrize(
    ("time", "zone", "size", "bounds"),
    [
        # The day on which New York's clocks go forward has 23 hours.
        (
            "2027-03-14T12:00:00Z",
            "America/New_York",
            "DAY",
            ("2027-03-14T00:00:00-05:00", "2027-03-15T00:00:00-04:00"),
        ),
        (
            "2027-03-14T12:00:00Z",
            "Asia/Kolkata",
            "HOUR",
            ("2027-03-14T17:00:00+05:30", "2027-03-14T18:00:00+05:30"),
        ),
        (
            "2027-01-31T23:30:00Z",
            "Europe/Budapest",
            "MONTH",
            ("2027-02-01T00:00:00+01:00", "2027-03-01T00:00:00+01:00"),
        ),
    ],
)
def test_windows_in_a_time_zone(
    openmeter: OpenMeterSandbox, time: str, zone: str, size: str, bounds: tuple[str, str]
) -> None:
    openmeter.record("prompt", "cus_1", time, 1)
    result = openmeter.query("tokens", window_size=size, window_time_zone=zone)
    assert windows(result) == [bounds]


def test_half_hour_zones_split_an_utc_hour(openmeter: OpenMeterSandbox) -> None:
    openmeter.record("prompt", "cus_1", TEN + 29 * 60, 1)
    openmeter.record("prompt", "cus_1", TEN + 30 * 60, 10)
    result = openmeter.query("tokens", window_size="HOUR", window_time_zone="Asia/Kolkata")
    assert values(result) == [1, 10]


def test_without_windows_the_bounds_are_the_requested_ones(openmeter: OpenMeterSandbox) -> None:
    openmeter.record("prompt", "cus_1", TEN + 61, 1)
    openmeter.record("prompt", "cus_1", TEN + 200, 1)
    assert windows(openmeter.query("tokens", start=DAY + 1, end=DAY + 86_399)) == [
        ("2027-01-01T00:00:01Z", "2027-01-01T23:59:59Z")
    ]
    # A bound that is missing becomes the minute of the first or after the last event.
    assert windows(openmeter.query("tokens")) == [("2027-01-01T10:01:00Z", "2027-01-01T10:04:00Z")]


def test_subjects_filter_and_force_grouping(openmeter: OpenMeterSandbox) -> None:
    for subject, value in (("cus_1", 1), ("cus_2", 10), ("cus_3", 100)):
        openmeter.record("prompt", subject, TEN, value)

    total = openmeter.query("tokens")
    assert [(row.subject, row.value) for row in total.rows] == [(None, 111)]

    some = openmeter.query("tokens", subjects=["cus_1", "cus_3", "cus_none"])
    assert {row.subject: row.value for row in some.rows} == {"cus_1": 1, "cus_3": 100}

    everybody = openmeter.query("tokens", subjects=[])
    assert {row.subject: row.value for row in everybody.rows} == {
        "cus_1": 1,
        "cus_2": 10,
        "cus_3": 100,
    }


def test_rows_inside_a_window_have_no_order_to_rely_on(openmeter: OpenMeterSandbox) -> None:
    names = [f"cus_{n:02d}" for n in range(20)]
    for name in names:
        openmeter.record("prompt", name, TEN, 1)
    rows = openmeter.query("tokens", subjects=names, window_size="HOUR").rows
    assert sorted(str(row.subject) for row in rows) == names
    assert [row.subject for row in rows] != names


def test_dimensions_group_and_filter(openmeter: OpenMeterSandbox) -> None:
    openmeter.ingest(
        [
            cloud_event("1", data={"value": 1, "model": "a"}),
            cloud_event("2", data={"value": 10, "model": "b"}),
            cloud_event("3", data={"value": 100}),
        ]
    )
    grouped = openmeter.query("tokens", group_by=["model"], window_size="HOUR")
    assert {row.group_by["model"]: row.value for row in grouped.rows} == {"a": 1, "b": 10, "": 100}
    assert all(row.subject is None for row in grouped.rows)
    assert values(openmeter.query("tokens", filters={"model": ["a", "b"]})) == [11]
    assert values(openmeter.query("tokens", filters={"model": []})) == [111]


def test_no_usage_is_no_row_but_for_a_plain_count(openmeter: OpenMeterSandbox) -> None:
    assert openmeter.query("tokens", start=DAY, end=TEN).rows == []
    assert openmeter.query("calls", start=DAY, end=TEN, subjects=["cus_1"]).rows == []
    assert openmeter.query("calls", start=DAY, end=TEN, window_size="HOUR").rows == []
    assert openmeter.query("calls", start=DAY, end=TEN, subjects=[]).rows == []
    plain = openmeter.query("calls", start=DAY, end=TEN)
    assert [(row.value, row.window_start) for row in plain.rows] == [(0, "2027-01-01T00:00:00Z")]
    assert openmeter.query("calls").rows[0].window_start == "1970-01-01T00:00:00Z"


def test_event_from_cuts_values_but_not_bounds(openmeter: OpenMeterSandbox) -> None:
    openmeter.create_meter_from(
        {
            "slug": "recent",
            "eventType": "prompt",
            "aggregation": "SUM",
            "valueProperty": "$.value",
            "eventFrom": "2027-01-01T10:00:00Z",
        }
    )
    openmeter.record("prompt", "cus_1", TEN - 1, 1)
    openmeter.record("prompt", "cus_1", TEN, 10)
    result = openmeter.query("recent", start=DAY, end=DAY + 86_400)
    assert values(result) == [10]
    assert windows(result) == [("2027-01-01T00:00:00Z", "2027-01-02T00:00:00Z")]


@pytest.mark.parametrize(
    ("aggregation", "value"),
    [
        ("SUM", 9.5),
        ("COUNT", 9),
        # 1, 4.5, 3, abc, true, and one empty text for an object and a missing value.
        ("UNIQUE_COUNT", 6),
        ("AVG", 2.375),
        ("MIN", 1),
        ("MAX", 4.5),
        ("LATEST", 3),
    ],
)
def test_aggregations(openmeter: OpenMeterSandbox, aggregation: str, value: float) -> None:
    data: list[object] = [1, "4.5", 1.0, 3, None, "abc", True, {"a": 1}]
    openmeter.create_meter("m", "prompt", aggregation=aggregation)
    openmeter.ingest(
        [
            cloud_event(str(n), time=f"2027-01-01T10:00:{n:02d}Z", data={"value": item})
            for n, item in enumerate(data)
        ]
    )
    openmeter.ingest([cloud_event("none", time="2027-01-01T10:01:00Z", data=None)])
    assert values(openmeter.query("m", window_size="HOUR")) == [value]
    assert values(openmeter.query("m", start=TEN, end=TEN + 61)) == [value]


@pytest.mark.parametrize("value", ["abc", True, None, "NaN", "inf", "1e999", "", " 1", "1_0", []])
def test_values_that_are_no_number_give_no_row(openmeter: OpenMeterSandbox, value: object) -> None:
    openmeter.ingest([cloud_event(data={"value": value})])
    assert openmeter.query("tokens").rows == []
    assert values(openmeter.query("calls")) == [1]


def test_arithmetic_is_float64(openmeter: OpenMeterSandbox) -> None:
    openmeter.record("prompt", "cus_1", TEN, 0.1)
    openmeter.record("prompt", "cus_1", TEN, 0.2)
    assert '"value":0.30000000000000004,' in openmeter.query("tokens").json()


def test_large_integers_lose_digits(openmeter: OpenMeterSandbox) -> None:
    openmeter.ingest([cloud_event(data={"value": 9007199254740993})])
    assert '"value":9007199254740992,' in openmeter.query("tokens").json()


def test_negative_values_pass(openmeter: OpenMeterSandbox) -> None:
    openmeter.record("prompt", "cus_1", TEN, 1)
    openmeter.record("prompt", "cus_1", TEN, -3)
    assert values(openmeter.query("tokens")) == [-2]


def test_results_change_with_late_events(openmeter: OpenMeterSandbox) -> None:
    openmeter.record("prompt", "cus_1", TEN, 1)
    assert values(openmeter.query("tokens", window_size="HOUR")) == [1]
    openmeter.record("prompt", "cus_1", TEN + 5, 2)
    assert values(openmeter.query("tokens", window_size="HOUR")) == [3]


def test_any_bounds_agree_with_a_plain_sum(openmeter: OpenMeterSandbox) -> None:
    chance = random.Random(7)
    events = [(TEN + chance.randrange(40_000), chance.randrange(1, 100)) for _ in range(500)]
    for time, value in events:
        openmeter.record("prompt", "cus_1", time, value)
    for _ in range(50):
        start = TEN + chance.randrange(-10, 40_000)
        end = start + chance.randrange(1, 20_000)
        expected = sum(value for time, value in events if start <= time < end)
        size = chance.choice([None, "MINUTE", "HOUR", "DAY", "MONTH"])
        result = openmeter.query("tokens", start=start, end=end, window_size=size)
        assert math.fsum(values(result)) == expected
        assert openmeter.usage("tokens", "cus_1", start, end) == expected


def test_bounds_must_be_apart_and_in_order(openmeter: OpenMeterSandbox) -> None:
    with pytest.raises(Problem, match="validation error: from and to cannot be equal"):
        openmeter.query("tokens", start=TEN, end=TEN)
    with pytest.raises(Problem, match="validation error: from must be before to"):
        openmeter.query("tokens", start=TEN + 1, end=TEN)


def test_unknown_dimensions_and_zones_are_refused(openmeter: OpenMeterSandbox) -> None:
    with pytest.raises(Problem, match="validation error: invalid group by: color"):
        openmeter.query("tokens", group_by=["color"])
    with pytest.raises(Problem, match="validation error: invalid group by filter: color"):
        openmeter.query("tokens", filters={"color": ["red"]})
    with pytest.raises(Problem, match=r"validation error: invalid time zone: .*Mars"):
        openmeter.query("tokens", window_size="DAY", window_time_zone="Mars/Olympus")
    with pytest.raises(Problem, match="customer filter is required with customer_id group by"):
        openmeter.query("tokens", group_by=["customer_id"])


def test_events_show_after_the_ingestion_lag(clock: ManualClock) -> None:
    openmeter = OpenMeterSandbox(clock, OpenMeterSettings(ingestion_lag=30))
    openmeter.create_meter("tokens", "prompt")
    openmeter.record("prompt", "cus_1", TEN, 5)
    clock.advance(29)
    assert openmeter.query("tokens").rows == []
    assert openmeter.usage("tokens", "cus_1", DAY, DAY + 86_400) == 5
    clock.advance(1)
    assert values(openmeter.query("tokens")) == [5]


def test_a_month_loaded_at_once_appears_with_time(clock: ManualClock) -> None:
    openmeter = OpenMeterSandbox(clock, OpenMeterSettings(ingestion_lag=30, lag_from="event"))
    openmeter.create_meter("tokens", "prompt")
    now = clock()
    openmeter.record("prompt", "cus_1", now - 3600, 1)
    openmeter.record("prompt", "cus_1", now + 100, 10)
    clock.advance(129)
    assert values(openmeter.query("tokens")) == [1]
    clock.advance(1)
    assert values(openmeter.query("tokens")) == [11]


def test_chosen_events_are_held_until_released(openmeter: OpenMeterSandbox) -> None:
    openmeter.hold(subject="cus_2")
    openmeter.record("prompt", "cus_1", TEN, 1)
    openmeter.record("prompt", "cus_2", TEN, 10)
    openmeter.record("prompt", "cus_1", TEN, 100, hold=True)
    assert values(openmeter.query("tokens")) == [1]

    assert openmeter.release(subject="cus_2") == 1
    assert values(openmeter.query("tokens")) == [11]
    openmeter.record("prompt", "cus_2", TEN, 1000)
    assert values(openmeter.query("tokens")) == [1011]

    openmeter.hold(event_type="prompt")
    assert openmeter.release() == 1
    openmeter.record("prompt", "cus_2", TEN, 10_000)
    assert values(openmeter.query("tokens")) == [11_111]


def test_one_ingestion_may_lag_more_than_others(clock: ManualClock, openmeter: OpenMeterSandbox) -> None:
    openmeter.ingest([cloud_event("late")], lag=3600)
    clock.advance(3599)
    assert openmeter.query("tokens").rows == []
    clock.advance(1)
    assert values(openmeter.query("tokens")) == [1]


def test_duplicates_count_once_unless_deduplication_is_off(clock: ManualClock) -> None:
    for dedupe, total in ((True, 2), (False, 3)):
        openmeter = OpenMeterSandbox(clock, OpenMeterSettings(dedupe=dedupe))
        openmeter.create_meter("calls", "prompt", aggregation="COUNT")
        openmeter.ingest([cloud_event("1"), cloud_event("1", data={"value": 7})])
        openmeter.ingest([cloud_event("1", source="elsewhere")])
        assert values(openmeter.query("calls")) == [total]


def test_a_week_of_hours_for_a_hundred_subjects_is_quick(openmeter: OpenMeterSandbox) -> None:
    names = [f"cus_{n}" for n in range(100)]
    for name in names:
        openmeter.ingest(
            cloud_event(
                f"{name}-{hour}",
                subject=name,
                time=f"2027-01-{1 + hour // 24:02d}T{hour % 24:02d}:10:00Z",
            )
            for hour in range(168)
        )
    took = []
    for _ in range(3):
        begun = process_time()
        result = openmeter.query(
            "tokens", start=DAY, end=DAY + 7 * 86_400, subjects=names, window_size="HOUR"
        )
        text = result.json()
        took.append(process_time() - begun)
    assert values(result) == [1] * 16_800
    assert text.count('"value":1,') == 16_800
    assert min(took) < 1


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ({"start": TEN + 1, "end": TEN + 60}, "from must be rounded to MINUTE like YYYY-MM-DDTHH:mm:00"),
        ({"start": TEN, "end": TEN + 61}, "to must be rounded to MINUTE like YYYY-MM-DDTHH:mm:00"),
        (
            {"start": TEN + 60, "end": TEN + 3600, "window_size": "HOUR"},
            "from must be rounded to HOUR like YYYY-MM-DDTHH:00:00",
        ),
        (
            {"start": TEN, "end": TEN + 60, "window_size": "HOUR"},
            "to must be rounded to HOUR like YYYY-MM-DDTHH:00:00",
        ),
        (
            {"start": TEN, "end": DAY + 86_400, "window_size": "DAY"},
            "from must be rounded to DAY like YYYY-MM-DDT00:00:00",
        ),
    ],
)
def test_a_server_of_before_march_2025_refuses_bounds_that_are_no_full_windows(
    clock: ManualClock, query: dict[str, Any], problem: str
) -> None:
    old = OpenMeterSandbox(clock, OpenMeterSettings(rounded_bounds=True))
    old.create_meter("tokens", "prompt")
    with pytest.raises(Problem) as refused:
        old.query("tokens", **query)

    assert refused.value.status == 400
    assert refused.value.detail.endswith(problem)


@pytest.mark.parametrize("size", [None, "MINUTE", "HOUR", "DAY"])
def test_a_server_of_before_march_2025_takes_full_windows(clock: ManualClock, size: str | None) -> None:
    old = OpenMeterSandbox(clock, OpenMeterSettings(rounded_bounds=True))
    old.create_meter("tokens", "prompt")
    old.record("prompt", "cus_1", TEN + 17, 3)

    assert values(old.query("tokens", start=DAY, end=DAY + 86_400, window_size=size)) == [3]


def test_an_event_seen_at_once_does_not_overtake_one_that_was_due_before(
    clock: ManualClock, openmeter: OpenMeterSandbox
) -> None:
    """Of two values at one instant, LATEST shows the one that was stored first."""
    openmeter.create_meter("level", "prompt", aggregation="LATEST")
    openmeter.ingest([cloud_event("first", data={"value": 1})], lag=10)
    clock.advance(10)
    openmeter.ingest([cloud_event("second", data={"value": 2})])
    assert values(openmeter.query("level")) == [1]


@pytest.mark.parametrize("hours", [1, 6, 24, 48])
def test_a_span_has_what_its_hours_have_however_many_are_stored(
    openmeter: OpenMeterSandbox, hours: int
) -> None:
    for hour in range(48):
        openmeter.record("prompt", "cus_1", DAY - 24 * 3600 + hour * 3600, hour)
    openmeter.record("prompt", "cus_2", DAY, 5)
    query = {"start": DAY - hours * 1800, "end": DAY + hours * 1800, "window_size": "HOUR"}
    asked: dict[str, Any] = {**query, "subjects": ["cus_1", "cus_2"]}
    rows = openmeter.query("tokens", **asked).rows
    first = 24 - hours // 2
    assert sum(row.value for row in rows if row.subject == "cus_1") == sum(range(first, first + hours))
    assert [row.value for row in rows if row.subject == "cus_2"] == [5]
