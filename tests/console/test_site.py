"""The pages without a browser: what they say, whom they answer, and that nothing slips into them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from urllib.parse import urlsplit

import httpx
import pytest

from tests.console.conftest import EVIL
from tests.integration.test_legacy import legacy_subscription
from tests.integration.world import DAY, HOUR, NOON, World

VOID = {"meta", "link", "input", "br", "img", "hr"}


class Reader(HTMLParser):
    """The tags of a page, in balance, with the ids, labels, headings and addresses that they name."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.named: list[str] = []
        self.headings: list[int] = []
        self.addresses: list[str] = []
        self.tables = self.captions = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        self.ids += [told["id"] or ""] if "id" in told else []
        self.named += [told[name] or "" for name in ("for", "aria-labelledby") if name in told]
        self.addresses += [told[name] or "" for name in ("href", "src", "action") if name in told]
        self.headings += [int(tag[1])] if re.fullmatch("h[1-6]", tag) else []
        self.tables += tag == "table"
        self.captions += tag == "caption"
        assert "style" not in told
        assert not [name for name in told if name.startswith("on")]
        if tag == "th":
            assert told.get("scope") in {"row", "col"}
        if tag == "script":
            assert (told.get("src") or "").startswith("/static/")

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


def read(page: httpx.Response) -> Reader:
    reader = Reader()
    reader.feed(page.text)
    assert reader.open == []
    return reader


def token_of(page: httpx.Response) -> str:
    found = re.search(r'name="token" value="([^"]+)"', page.text)
    assert found is not None
    return found[1]


def rows_of(page: httpx.Response) -> list[str]:
    """The periods' rows as text."""
    body = page.text.partition('<div id="periods"')[2].partition("<tbody>")[2].partition("</tbody>")[0]
    rows = [re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", row)).strip() for row in body.split("<tr>")[1:]]
    return [row.replace("&lt;", "<").replace("&gt;", ">").replace("&#39;", "'") for row in rows]


def test_each_page_is_sound_html_and_names_no_other_host(sandbox_console: str, ada: str) -> None:
    for path in ("/", "/traffic", "/sandbox", "/nowhere", f"/customers/{ada}"):
        check(httpx.get(sandbox_console + path))


def check(page: httpx.Response) -> None:
    reader = read(page)

    assert len(reader.ids) == len(set(reader.ids))
    assert set(reader.named) <= set(reader.ids)
    assert reader.headings[0] == 1
    assert reader.headings.count(1) == 1
    assert all(
        after - before <= 1 for before, after in zip(reader.headings, reader.headings[1:], strict=False)
    )
    assert reader.tables == reader.captions
    elsewhere = {urlsplit(address).netloc for address in reader.addresses} - {""}
    assert elsewhere == set()
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "unsafe" not in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["cache-control"] == "no-store"


def test_a_name_of_a_customer_is_text(console: str, ada: str) -> None:
    page = httpx.get(console)

    assert EVIL not in page.text
    assert rows_of(page) == [
        f"{EVIL} {ada} m1 30 d 22 h 2026-07-15 12:00:00 to 2026-08-15 12:00:00 10 10 0 ✓ exact"
    ]


def test_what_is_searched_for_is_text_too(console: str, ada: str) -> None:
    page = httpx.get(console, params={"text": '"><script>alert(1)</script>'})

    assert "<script>alert" not in page.text
    assert "No period is as you asked for" in page.text


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1", "127.0.0.1:1", "localhost.evil.example:80", ""]
)
def test_another_hosts_name_gets_nothing(console: str, ada: str, host: str) -> None:
    answer = httpx.get(console, headers={"Host": host})

    assert answer.status_code == 421
    assert ada not in answer.text


def test_a_lever_takes_the_pages_own_forms_alone(sandbox_console: str, world: World, ada: str) -> None:
    token = token_of(httpx.get(sandbox_console))
    form = {"token": token, "of": f"{ada} m1", "units": "5", "ago": "an hour ago"}
    before = world.openmeter.usage("m1", ada, NOON, NOON + HOUR)

    def post(form: dict[str, str], **headers: str) -> int:
        return httpx.post(f"{sandbox_console}/sandbox/use", data=form, headers=headers).status_code

    assert post(form, Origin="https://evil.example") == 403
    assert post(form, Origin="null") == 403
    assert post(form, **{"Sec-Fetch-Site": "cross-site"}) == 403
    assert post({**form, "token": "guessed"}) == 403
    assert post({name: value for name, value in form.items() if name != "token"}) == 403
    assert post({**form, "units": "1" * 20_000}) == 413
    assert httpx.get(f"{sandbox_console}/sandbox/use").status_code == 405
    assert world.openmeter.usage("m1", ada, NOON, NOON + 2 * HOUR) == before
    assert post(form, Origin=sandbox_console) == 303
    assert world.openmeter.usage("m1", ada, NOON, NOON + 2 * HOUR) == before + 5


def test_a_form_with_numbers_that_are_none_is_refused_in_words(sandbox_console: str, ada: str) -> None:
    token = token_of(httpx.get(sandbox_console))
    used = {"of": f"{ada} m1", "units": "1"}
    for act, form, said in (
        ("replay", {"number": "9" * 5_000}, "a delivery has a number"),
        ("use", {**used, "from": "-" + "9" * 25, "to": "-" + "9" * 24}, "a period is from an instant to"),
        ("use", {**used, "from": "9" * 5_000, "to": "5"}, "a period is from an instant to"),
    ):
        answer = httpx.post(f"{sandbox_console}/sandbox/{act}", data={"token": token, **form})

        assert answer.status_code == 303
        assert f"Not done: {said}" in httpx.get(sandbox_console).text


def test_a_form_is_as_long_as_it_is_whatever_it_says(sandbox_console: str, ada: str) -> None:
    token = token_of(httpx.get(sandbox_console))

    def parts(length: int) -> Iterator[bytes]:
        yield f"token={token}&units=".encode() + b"1" * length

    def post(length: int) -> int:
        return httpx.post(f"{sandbox_console}/sandbox/be-well", content=parts(length)).status_code

    assert post(5) == 303
    assert post(20_000) == 413
    assert httpx.post(f"{sandbox_console}/sandbox/be-well").status_code == 403


def test_a_method_that_a_page_does_not_take_is_told_those_that_it_does(console: str, ada: str) -> None:
    for method in ("OPTIONS", "PUT", "DELETE", "POST"):
        answer = httpx.request(method, console)

        assert (answer.status_code, set(answer.headers["allow"].split(", "))) == (405, {"GET", "HEAD"})
        assert "access-control-allow-origin" not in answer.headers


def test_nobody_is_sent_elsewhere(sandbox_console: str, ada: str) -> None:
    token = token_of(httpx.get(sandbox_console))
    for back in ("https://evil.example/", "//evil.example", "/\\evil.example"):
        answer = httpx.post(f"{sandbox_console}/sandbox/be-well", data={"token": token, "back": back})

        assert (answer.status_code, answer.headers["location"]) == (303, "/")


def test_over_a_real_stack_there_are_no_levers(console: str, ada: str) -> None:
    page = httpx.get(console)

    assert "<form" in page.text  # the search
    assert 'method="post"' not in page.text
    assert "andbox" not in page.text
    for path in ("/sandbox", "/sandbox/use", "/sandbox/tick"):
        assert httpx.get(console + path).status_code == 404
        assert httpx.post(console + path, data={"token": ""}).status_code == 404


def test_a_draft_is_more_urgent_than_a_period_that_is_exact(console: str, world: World, ada: str) -> None:
    price, _ = world.metered_price("requests")
    other = world.customer(name="Bell")
    world.subscription(price, other)
    [subscription] = [row.id for row in world.stripe.account.subscriptions if row.customer == other]
    world.use(other, world.clock() + 5, 3)
    world.stripe.end_periods(subscription, world.clock() + 30)
    world.travel(world.clock() + 60)

    first, *rest = rows_of(httpx.get(console))

    assert re.search(r"Bell .* m1 59 min 30 s draft final at 2026-07-15 15:00:30", first)
    assert first.endswith("3 0 3 → 3 to send")
    assert len(rest) == 2
    assert all(row.endswith("✓ exact") for row in rest)


def test_a_problem_says_why_and_can_be_asked_for(console: str, world: World, ada: str) -> None:
    other = world.customer(name="Bell")
    price, _ = world.metered_price("requests")
    world.subscription(price, other, om_meter_id="no_such_meter")

    page = httpx.get(console)

    assert re.search(r"In all 1 exact,\s+1 refused", page.text)
    assert "refused: OpenMeter has no meter 'no_such_meter'" in rows_of(page)[0]
    assert len(rows_of(httpx.get(console, params={"condition": "refused"}))) == 1
    assert len(rows_of(httpx.get(console, params={"text": "BELL"}))) == 1
    assert len(rows_of(httpx.get(console, params={"text": ada}))) == 1


def test_a_total_and_a_legacy_price_have_rows_of_their_own_kind(console: str, world: World) -> None:
    last, _ = world.metered_price("requests", "last")
    customer = world.customer(name="Last")
    world.subscription(last, customer)
    world.use(customer, NOON + 60, 4)
    _, _, legacy = legacy_subscription(world)
    world.use(legacy, NOON + 60, 7)
    world.travel(NOON + 3 * HOUR)

    before = rows_of(httpx.get(console))
    world.tick()
    world.use(customer, NOON + HOUR, "2.5")
    world.travel(NOON + 4 * HOUR)
    after = rows_of(httpx.get(console))

    assert sorted(row.partition(" 2026-08-15 12:00:00 ")[2] for row in before) == [
        "4 0 4 → a total of 4 to send",
        "7 - - → a total of 7 to send",
    ]
    assert sorted(row.partition(" 2026-08-15 12:00:00 ")[2] for row in after) == [
        "6.5 4 2.5 → a total of 6.5 to send",
        "7 - - ✓ exact",
    ]


def test_a_stack_in_shadow_mode_is_said(console: str, ada: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Shadow mode:" not in httpx.get(console).text

    monkeypatch.setattr("cli.desk.desk.Desk.is_shadow", True)

    assert "Shadow mode:</strong> the stack sends nothing" in httpx.get(console).text


def test_while_openmeter_is_down_the_page_says_so_and_stands(console: str, world: World, ada: str) -> None:
    world.openmeter.faults.down = True

    page = httpx.get(console)

    assert page.status_code == 200
    assert "unknown: OpenMeter could not be reached" in rows_of(page)[0]


def test_while_stripe_is_down_the_page_shows_what_it_knew(console: str, world: World, ada: str) -> None:
    httpx.get(console)
    world.stripe.faults.add("status", status=503, times=None)

    page = httpx.get(console)

    assert "Periods could not be read:" in page.text
    assert "Stripe answered 503" in page.text
    assert "What is shown is from 2026-07-15 14:00:00" in page.text
    assert len(rows_of(page)) == 1


def test_no_key_is_on_any_page(sandbox_console: str, world: World, ada: str) -> None:
    for path in ("/", "/traffic", "/sandbox"):
        text = httpx.get(sandbox_console + path).text
        assert "sk_test" not in text
        assert "whsec_" not in text


def test_two_hundred_customers_are_two_pages(console: str, world: World) -> None:
    price, _ = world.metered_price()
    for number in range(200):
        customer = world.customer(name=f"Customer {number:03d}")
        world.subscription(price, customer)
    world.travel(NOON + 2 * HOUR)

    first = httpx.get(console, timeout=60)
    second = httpx.get(console, params={"page": "2"}, timeout=60)
    beyond = httpx.get(console, params={"page": "3"}, timeout=60)

    assert "200 periods, page 1 of 2" in first.text
    assert len(rows_of(first)) == len(rows_of(second)) == 100
    assert not {row.split(" cus_")[0] for row in rows_of(first)} & {
        row.split(" cus_")[0] for row in rows_of(second)
    }
    assert rows_of(beyond) == []


def test_what_is_beyond_the_most_urgent_is_read_when_it_is_looked_at(
    console: str, world: World, ada: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cli.desk.period_reader.MOST_REPORTED", 0)
    world.use(ada, NOON + HOUR, 5)

    [row] = rows_of(httpx.get(console))

    assert row.endswith("15 10 5 → 5 to send")


def test_an_odd_page_number_is_the_first(console: str, ada: str) -> None:
    for page in ("0", "-1", "x", "9" * 40, "²"):
        assert len(rows_of(httpx.get(console, params={"page": page}))) == 1


def test_sends_refusals_and_usage_by_day(console: str, world: World, ada: str) -> None:
    page = httpx.get(console + "/traffic")

    assert "Of 1 of 1 customer meters" in page.text
    assert re.search(r'<th scope="row">2026-07-15 14:00:00</th><td class="number">1</td>', page.text)
    assert re.search(r'2026-07-15</th><td class="number">10</td><td class="number">10</td>', page.text)


def test_a_customers_numbers_are_explained(console: str, ada: str) -> None:
    page = httpx.get(f"{console}/customers/{ada}")

    assert "The running period" in page.text
    assert "every line ends in the billed quantity" in page.text
    assert EVIL not in page.text
    assert re.search(r"meant at 2026-07-15 14:00:00", page.text)
    assert "data:image/svg+xml;base64," not in page.text  # one day of usage is no chart


def test_an_invoice_is_explained_to_the_billed_quantity(console: str, world: World, ada: str) -> None:
    [subscription] = [row.id for row in world.stripe.account.subscriptions]
    world.travel(world.clock() + 2 * DAY)
    world.use(ada, world.clock() - DAY, 4)
    world.stripe.end_periods(subscription, world.clock() + 30)
    world.travel(world.clock() + 60)
    world.tick("closing")
    world.travel(world.clock() + 2 * HOUR)
    [invoice] = [row.id for row in world.stripe.account.invoices if row.status == "open"]

    page = httpx.get(f"{console}/invoices/{invoice}")

    assert "every line ends in the billed quantity" in page.text
    assert re.search(
        r'<td class="number">14</td><td class="number">14</td><td class="number">0</td>', page.text
    )
    assert "EXACT" in page.text
    assert 'alt="Bars: m1, metered beside billed' in page.text


def test_what_stripe_does_not_know_is_said(console: str, ada: str) -> None:
    page = httpx.get(f"{console}/customers/cus_nobody")

    assert "Stripe knows no cus_nobody" in page.text
    for path in ("customers/in_1", "invoices/cus_1", "customers/cus_..%2F..", "customers/<script>"):
        answer = httpx.get(f"{console}/{path}")
        assert answer.status_code == 404
        assert "<script>" not in answer.text.replace('<script src="/static/console.js" defer></script>', "")


def test_the_levers_say_what_cannot_be_done(sandbox_console: str, world: World, ada: str) -> None:
    token = token_of(httpx.get(sandbox_console))
    for act, form, said in (
        ("use", {"of": f"{ada} m1", "units": "much"}, "the units are a number"),
        ("use", {"of": f"{ada} nothing", "units": "1"}, "OpenMeter has no meter 'nothing'"),
        ("use", {"of": f"{ada} m1", "units": "-1"}, "usage needs a customer"),
        ("use", {"of": f"{ada} m1", "units": "1", "from": "1"}, "a period is from an instant"),
        ("use", {"of": f"{ada} m1", "units": "1", "from": "9999999999", "to": "1"}, "usage needs a customer"),
        ("end-period", {"subscription": "sub_x"}, "No such subscription"),
        ("finalize", {"invoice": "in_x"}, "No such invoice"),
        ("fault", {"kind": "x"}, "there is no fault"),
        ("replay", {"number": "999"}, "there is no delivery"),
        ("tick", {"scope": "x"}, "there is no tick"),
    ):
        data = {"token": token, "back": "/sandbox", **form}
        page = httpx.post(f"{sandbox_console}/sandbox/{act}", data=data, follow_redirects=True)
        assert f"Not done: {said}" in page.text.replace("&#39;", "'")
    assert httpx.post(f"{sandbox_console}/sandbox/x", data={"token": token}).status_code == 404


def test_usage_that_is_not_read_yet_is_said_to_be(sandbox_console: str, world: World, ada: str) -> None:
    token = token_of(httpx.get(sandbox_console))
    world.travel(NOON + 3 * HOUR + 300)

    def use(when: str) -> str:
        form = {"token": token, "of": f"{ada} m1", "units": "1", "ago": when}
        return httpx.post(f"{sandbox_console}/sandbox/use", data=form, follow_redirects=True).text

    assert "ten minutes old" not in use("an hour ago")
    assert "a report reads it when the hour is ten minutes old" in use("now")


def test_each_fault_waits_and_all_are_mended(sandbox_console: str, world: World, ada: str) -> None:
    page = httpx.get(f"{sandbox_console}/sandbox")
    token = token_of(page)
    kinds = re.findall(r'<option value="((?:stripe|openmeter|webhook)_\w+)"', page.text)
    assert len(kinds) == 14
    for kind in kinds:
        data = {"token": token, "back": "/sandbox", "kind": kind}
        httpx.post(f"{sandbox_console}/sandbox/fault", data=data)
        if kind != "stripe_refuses_later":
            assert "Waiting to happen" in httpx.get(f"{sandbox_console}/sandbox").text, kind
        httpx.post(f"{sandbox_console}/sandbox/be-well", data={"token": token})
        assert "Nothing is broken" in httpx.get(f"{sandbox_console}/sandbox").text, kind


def test_a_webhook_is_delivered_again(sandbox_console: str, world: World, ada: str) -> None:
    world.listen()
    [subscription] = [row.id for row in world.stripe.account.subscriptions]
    world.stripe.end_periods(subscription, world.clock() + 30)
    world.travel(world.clock() + 60)
    received = len(world.inbox)
    page = httpx.get(f"{sandbox_console}/sandbox")
    assert "customer.subscription.updated" in page.text

    data = {"token": token_of(page), "back": "/sandbox", "number": "0"}
    said = httpx.post(f"{sandbox_console}/sandbox/replay", data=data, follow_redirects=True)

    assert "was delivered again; the answer was 200" in said.text
    assert len(world.inbox) == received + 1
