"""The console in a real browser: by mouse, by keyboard, in the dark, without a script."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Locator, Page, expect

from tests.console.browser import Visitor
from tests.console.conftest import EVIL
from tests.integration.world import HOUR, MINUTE, NOON, World


def row_of(page: Page, text: str) -> Locator:
    return page.locator("#periods tbody tr").filter(has_text=text)


def test_usage_goes_through_from_a_button_to_an_exact_verdict(
    visitor: Visitor, sandbox_console: str, world: World, ada: str
) -> None:
    async def steps(page: Page) -> None:
        row = row_of(page, ada)
        await expect(row.locator(".state")).to_contain_text("exact")

        await row.get_by_role("button", name="Use 5 units").click()
        await expect(page.get_by_role("status").first).to_contain_text("5 units of m1 were used")
        await expect(row.locator(".state")).to_contain_text("5 to send")
        await expect(row.locator("td").nth(3)).to_have_text("15")

        await row.get_by_role("button", name="End period").click()
        await expect(page.get_by_role("status").first).to_contain_text("ends in 3 s")
        await asyncio.to_thread(world.travel, world.clock() + 60)
        await page.reload()
        await expect(page.locator("#periods tbody tr")).to_have_count(2)
        draft = row_of(page, "draft")
        await expect(draft.locator(".state")).to_contain_text("5 to send")
        await expect(page.locator("#periods tbody tr").first).to_contain_text("draft")

        await page.get_by_role("button", name="Run the closing tick").click()
        await expect(draft.locator(".state")).to_contain_text("exact")
        await expect(draft.locator("td").nth(4)).to_have_text("15")

        await draft.get_by_role("button", name="Finalize").click()
        await expect(page.get_by_role("status").first).to_contain_text("becomes final in 3 s")
        await asyncio.to_thread(world.travel, world.clock() + 60)
        await page.get_by_role("button", name="Run the closing tick").click()
        await expect(page.locator("#periods tbody tr")).to_have_count(1)

        await page.get_by_role("link", name="Usage and sends").click()
        verdicts = page.get_by_role("table", name="1 EXACT")
        await expect(verdicts).to_contain_text("15")
        await verdicts.get_by_role("link").click()
        await expect(page.get_by_text("every line ends in the billed quantity")).to_be_visible()

    visitor.visit(sandbox_console, steps)


def test_the_keyboard_reaches_everything(
    visitor: Visitor, sandbox_console: str, world: World, ada: str
) -> None:
    async def focused(page: Page) -> str:
        return str(await page.evaluate("document.activeElement.textContent.trim()"))

    async def steps(page: Page) -> None:
        await page.keyboard.press("Tab")
        assert await focused(page) == "Skip to the content"
        await expect(page.get_by_role("link", name="Skip to the content")).to_be_in_viewport()
        await page.keyboard.press("Enter")
        assert await page.evaluate("document.activeElement.id") == "main"
        passed = []
        for _ in range(30):
            await page.keyboard.press("Tab")
            passed.append(await focused(page))
            outline = await page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert outline != "none", passed
            if passed[-1].startswith("Use 5 units"):
                break
        assert EVIL in passed
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("status").first).to_contain_text("5 units of m1 were used")

    visitor.visit(sandbox_console, steps)


def test_every_page_is_accessible_in_both_colour_schemes(
    visitor: Visitor, sandbox_console: str, world: World, ada: str
) -> None:
    async def steps(page: Page) -> None:
        for path in ("", "traffic", "sandbox", f"customers/{ada}"):
            await page.goto(f"{sandbox_console}/{path}")
            for summary in await page.locator("summary").all():
                await summary.click()
            for drawing in await page.locator("img").all():
                assert await drawing.evaluate("image => image.complete && image.naturalWidth > 0")
            found = await Axe().run(page, options={"resultTypes": ["violations"]})
            assert found.violations_count == 0, f"{path}: {found.generate_report()}"

    for scheme in ("light", "dark"):
        visitor.visit(sandbox_console, steps, color_scheme=scheme)


def test_the_dark_is_dark(visitor: Visitor, console: str, ada: str) -> None:
    grounds = {}

    async def look(page: Page) -> None:
        scheme = (
            "dark" if await page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches") else "light"
        )
        grounds[scheme] = await page.evaluate("getComputedStyle(document.body).backgroundColor")

    visitor.visit(console, look, color_scheme="light")
    visitor.visit(console, look, color_scheme="dark")

    assert grounds == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 28)"}


def test_a_change_shows_by_itself_and_waits_while_it_is_paused(
    visitor: Visitor, console: str, world: World, ada: str
) -> None:
    async def steps(page: Page) -> None:
        await expect(row_of(page, ada).locator(".state")).to_contain_text("exact")
        world.use(ada, NOON + HOUR, 7)
        await expect(row_of(page, ada).locator(".state")).to_contain_text("7 to send")
        await page.get_by_role("button", name="Pause updates").click()
        await expect(page.get_by_role("button", name="Updates are paused")).to_have_attribute(
            "aria-pressed", "true"
        )

    visitor.visit(console, steps)

    assert any(request.endswith("console.js") for request in visitor.requests)


def test_without_a_script_the_levers_work_all_the_same(
    visitor: Visitor, sandbox_console: str, world: World, ada: str
) -> None:
    async def steps(page: Page) -> None:
        await expect(page.get_by_role("button", name="Pause updates")).to_be_hidden()
        await row_of(page, ada).get_by_role("button", name="Use 5 units").click()
        await expect(row_of(page, ada).locator(".state")).to_contain_text("5 to send")

    visitor.visit(sandbox_console, steps, has_script=False)


def test_two_hundred_customers_are_paged_through(visitor: Visitor, console: str, world: World) -> None:
    price, _ = world.metered_price()
    for number in range(200):
        world.subscription(price, world.customer(name=f"Customer {number:03d}"))
    world.travel(NOON + 2 * HOUR)

    async def steps(page: Page) -> None:
        rows = page.locator("#periods tbody tr")
        await expect(page.get_by_text("200 periods, page 1 of 2")).to_be_visible()
        await expect(rows).to_have_count(100)
        await page.get_by_role("link", name="Next 100").click()
        await expect(page.get_by_text("200 periods, page 2 of 2")).to_be_visible()
        await expect(rows).to_have_count(100)
        await page.get_by_role("searchbox").fill("customer 123")
        await page.keyboard.press("Enter")
        await expect(rows).to_have_count(1)
        await expect(rows.first).to_contain_text("Customer 123")

    visitor.visit(console, steps)


def test_the_picture_of_the_readme(
    visitor: Visitor, sandbox_console: str, world: World, tmp_path: Path
) -> None:
    """PICTURE=docs/console.png writes it where the README shows it."""
    make_a_scene(world)
    path = Path(os.environ.get("PICTURE") or tmp_path / "console.png")

    async def steps(page: Page) -> None:
        await page.set_viewport_size({"width": 1280, "height": 740})
        for words in ("to send", "held: ", "refused: ", "exact"):
            await expect(page.locator(".state", has_text=words).first).to_be_visible()
        await page.screenshot(path=path)

    visitor.visit(sandbox_console, steps)

    assert 10_000 < path.stat().st_size < 150_000


def make_a_scene(world: World) -> None:
    """Six customers: exact, held, refused, and with something to send, one of them on a draft."""
    price, _ = world.metered_price()
    other, _ = world.metered_price("requests")
    world.openmeter.create_meter("api_calls", "called", aggregation="COUNT")
    people = {name: world.customer(name=name) for name in ("Ada", "Bell", "Curie", "Dirac", "Euler", "Fermi")}
    subscriptions = {
        name: world.subscription(other if name == "Dirac" else price, customer)
        for name, customer in people.items()
        if name != "Fermi"
    }
    world.subscription(other, people["Fermi"], om_meter_id="api_cals")
    for number, customer in enumerate(people.values()):
        for hour in range(30):
            world.use(customer, NOON + hour * HOUR + 61 * number, f"{(hour * 7 + number * 11) % 90}.25")
    world.travel(NOON + 40 * HOUR)
    world.tick()
    world.use(people["Curie"], NOON + 3 * HOUR, "-8")
    world.use(people["Bell"], NOON + 36 * HOUR, "118.75")
    world.stripe.end_periods(subscriptions["Bell"].id, world.clock() + 30)
    world.use(people["Euler"], NOON + 39 * HOUR, 42)
    world.travel(world.clock() + 5 * MINUTE)
