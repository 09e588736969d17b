"""The stage's OpenMeter serves the version of its API that the functions are to speak, and no other."""

from __future__ import annotations

import time
from decimal import Decimal

import httpx
import pytest

from sandbox.openmeter import create_app
from sandbox.openmeter.faults import ApiVersion
from sandbox.serve import serve
from sandbox.stage import OPENMETER_KEY, Stage
from sandbox.story import CALLS, DURATION, Usage


@pytest.mark.parametrize(("api", "other"), [("v1", "api/v3/openmeter"), ("v3", "api/v1")])
def test_an_application_and_the_functions_find_one_version(api: ApiVersion, other: str) -> None:
    stage = Stage(api)
    stage.customers["Ada"] = "cus_ada"
    now = int(time.time())
    events = [Usage("1", "Ada", DURATION, now, Decimal("2.5")), Usage("2", "Ada", CALLS, now, Decimal(1))]
    head = {"Authorization": f"Bearer {OPENMETER_KEY}"}
    with serve(create_app(stage.openmeter)) as stage.openmeter_url, httpx.Client(headers=head) as stage._http:
        stage.create_meters()
        assert stage.use(events) == 2
        assert stage._http.get(f"{stage.openmeter_url}/{other}/meters").status_code == 404

    used = {slug: stage.openmeter.usage(slug, "cus_ada", now, now + 1) for slug in (DURATION, CALLS)}
    assert used == {DURATION: 2.5, CALLS: 1}
