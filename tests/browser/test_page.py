"""The page in a real browser (``make test-browser``): Debian's Chromium, driven by Playwright."""

from __future__ import annotations

import json
import re
import shutil
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.over_http import over_http

from crossknn import FunctionScorer, Index
from crossknn.server import ServerOptions, create_app

sync_api = pytest.importorskip("playwright.sync_api", reason="needs the extra 'browser'")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")]


@pytest.fixture(scope="module")
def world(make_world: Any) -> Any:
    return make_world(n_items=300)


@pytest.fixture(scope="module")
def index(world: Any) -> Index:
    def score(pairs: Any) -> list[float]:
        if any("bone" in query for query, _ in pairs):
            raise RuntimeError("a bone in the throat")
        return [world.score_of(query, item) for query, item in pairs]

    return Index.build(world.items, scorer=FunctionScorer(score, name="page"), first_stage=world.dense)


def _served(index: Index, options: ServerOptions | None, examples: list[str]) -> Iterator[str]:
    with over_http(create_app(index, options, examples=examples)) as address:
        yield address + "/"


@pytest.fixture(scope="module")
def address(index: Index, world: Any) -> Iterator[str]:
    yield from _served(index, None, world.queries[:3])


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1100, "height": 900})
    opened = context.new_page()
    errors: list[str] = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.on("request", lambda request: errors.append(request.url) if "127.0.0.1" not in request.url else None)
    yield opened
    assert not errors  # no script failed, and no other host was asked
    context.close()


def _done(page: Any) -> str:
    page.get_by_text("Done:").wait_for(timeout=10_000)
    said: str = page.inner_text("#status")
    return said


def test_a_search_shows_what_the_index_finds_beside_reranking(
    page: Any, address: str, index: Index, world: Any, tmp_path: Path
) -> None:
    harmless = [query for query in world.queries if "bone" not in query]
    results = index.search_batch(harmless, k=10, budget=50)
    result = next(result for result in results if any(hit.first_stage_rank > 50 for hit in result))
    page.goto(address + "?budget=50")
    page.get_by_text("300 items").wait_for()
    page.keyboard.type(result.query)  # the box has the focus
    page.keyboard.press("Enter")
    _done(page)
    rows = page.locator("#ours li").all_inner_texts()
    assert [row.split("\n")[0] for row in rows] == [hit.text for hit in result]
    for row, hit in zip(rows, result, strict=True):
        assert f"score {hit.score:.2f} · found in round {hit.round}, first-stage rank {hit.first_stage_rank}" in row
        assert ("would never have seen it" in row) == (hit.first_stage_rank > 50)
    assert page.locator("#theirs li").count() == 10
    assert page.locator("#bought svg polyline").count() == 2
    assert page.locator("#expected svg circle").count() == 45
    page.screenshot(path=tmp_path / "page.png", full_page=True)
    assert (tmp_path / "page.png").stat().st_size > 20_000


def test_filters_hold_for_both_sides_and_stand_in_the_link(page: Any, world: Any) -> None:
    fields = {str(n): {"part": ["upper", "lower"][n % 2], "code": n} for n in range(300)}
    index = Index.build(world.items, scorer=world.scorer, first_stage=world.dense, metadata=fields)
    for address in _served(index, None, []):
        page.goto(address)
        page.get_by_label("part").select_option("lower")
        assert page.get_by_label("code").count() == 0  # too many values to choose from
        page.get_by_role("searchbox").fill(world.queries[0])
        page.keyboard.press("Enter")
        _done(page)
        expected = index.search(world.queries[0], budget=100, filter={"part": "lower"})
        rows = page.locator("#ours li").all_inner_texts()
        assert [row.split("\n")[:2] for row in rows] == [[h.text, f"part: lower · code: {h.id}"] for h in expected]
        assert all("part: lower" in row for row in page.locator("#theirs li").all_inner_texts())
        page.goto(page.url)
        _done(page)
        assert page.get_by_label("part").input_value() == '"lower"'
        assert page.locator("#ours li").all_inner_texts() == rows


def test_an_example_sliders_and_a_link_that_brings_the_view_back(page: Any, address: str, world: Any) -> None:
    page.goto(address)
    page.get_by_role("button", name=world.queries[1]).click()
    assert "100 calls each way" in _done(page)
    page.get_by_role("slider", name="Calls").fill("40")
    page.get_by_role("slider", name="Calls").dispatch_event("change")
    page.get_by_text("40 calls in 10 rounds").wait_for()
    page.get_by_role("slider", name="Rounds").fill("4")
    page.get_by_role("slider", name="Rounds").dispatch_event("change")
    page.get_by_text("40 calls in 4 rounds").wait_for()
    _done(page)
    link, seen = page.url, page.inner_text("#ours")
    assert "budget=40" in link
    page.goto("about:blank")
    page.goto(link)
    assert "40 calls each way" in _done(page)
    assert page.inner_text("#ours") == seen
    assert page.input_value("#query") == world.queries[1]


def test_errors_are_said_and_the_page_goes_on(page: Any, address: str, world: Any) -> None:
    page.goto(address)
    page.fill("#query", "   ")
    page.click("#go")
    page.get_by_text("Type a query").wait_for()
    page.fill("#query", next(query for query in world.queries if "bone" in query))
    page.click("#go")
    page.get_by_role("alert").get_by_text("the cross-encoder failed").wait_for()
    page.fill("#query", world.queries[0])
    page.click("#go")
    _done(page)
    assert not page.get_by_role("alert").is_visible()
    page.route("**/search/stream", lambda route: route.abort())
    page.click("#go")
    page.get_by_role("alert").get_by_text("cannot be reached").wait_for()


def test_a_slow_network_shows_that_it_works(page: Any, address: str, world: Any) -> None:
    shown: list[str] = []

    def before_it_is_sent(route: Any) -> None:
        shown.append(page.inner_text("#status"))
        route.continue_()

    page.goto(address)
    page.route("**/search/stream", before_it_is_sent)
    page.fill("#query", world.queries[2])
    page.click("#go")
    _done(page)
    assert shown[0] == "Searching…"


def _contrast(colours: list[str]) -> float:
    """WCAG's ratio of two colours as browsers write them."""
    lights = []
    for colour in colours:
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        red, green, blue = (p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        lights.append(0.2126 * red + 0.7152 * green + 0.0722 * blue)
    return (max(lights) + 0.05) / (min(lights) + 0.05)


def test_dark_and_light_and_narrow(browser: Any, address: str) -> None:
    colours = {}
    for scheme in ("light", "dark"):
        page = browser.new_context(color_scheme=scheme, viewport={"width": 320, "height": 700}).new_page()
        page.goto(address)
        page.get_by_text("300 items").wait_for()
        handle = page.locator("body")
        colours[scheme] = handle.evaluate("body => getComputedStyle(body).backgroundColor")
        assert handle.evaluate("body => body.scrollWidth") <= 320
        assert (
            _contrast(handle.evaluate("body => [getComputedStyle(body).color, getComputedStyle(body).backgroundColor]"))
            > 7
        )
        soft = page.locator("#about").evaluate("e => getComputedStyle(e).color")
        assert _contrast([soft, colours[scheme]]) > 4.5
        page.context.close()
    assert colours["light"] != colours["dark"]


@pytest.mark.parametrize("token", ["sesame", "pässword"])
def test_a_token_is_asked_for_and_a_link_survives_it(page: Any, index: Index, world: Any, token: str) -> None:
    for address in _served(index, ServerOptions(token=token), []):
        page.goto(address + "?" + urllib.parse.urlencode({"q": world.queries[0], "budget": 30}))
        page.get_by_role("alert").get_by_text("asks for a token").wait_for()
        page.get_by_label("Token").fill(token)
        page.keyboard.press("Enter")
        assert "30 calls each way" in _done(page)
        assert page.input_value("#query") == world.queries[0]


def test_a_stream_that_breaks_off_is_no_answer(page: Any, address: str, world: Any) -> None:
    page.goto(address)
    page.get_by_text("300 items").wait_for()
    whole = page.request.post(address + "search/stream", data={"query": world.queries[0], "budget": 50}).text()
    assert whole.count("event: round") == 10
    cut = "\n\n".join(whole.split("\n\n")[:3]) + "\n\n"
    page.route("**/search/stream", lambda route: route.fulfill(content_type="text/event-stream", body=cut))
    page.fill("#query", world.queries[0])
    page.click("#go")
    page.get_by_role("alert").get_by_text("broke off").wait_for()
    assert "Done" not in page.inner_text("#status")


def test_nothing_of_an_earlier_search_stays_after_an_error(page: Any, address: str, world: Any) -> None:
    page.goto(address)
    page.fill("#query", world.queries[0])
    page.click("#go")
    _done(page)
    page.fill("#query", next(query for query in world.queries if "bone" in query))
    page.click("#go")
    page.get_by_role("alert").get_by_text("the cross-encoder failed").wait_for()
    assert not page.locator("#answer").is_visible()
    assert page.locator("#ours li").count() == 0


def test_a_search_that_another_one_replaces_leaves_nothing(page: Any, address: str, world: Any) -> None:
    page.goto(address)
    page.get_by_text("300 items").wait_for()
    slow, fast = world.queries[0], world.queries[1]

    def route(route: Any) -> None:
        if slow in (route.request.post_data or ""):
            time.sleep(0.5)
        route.continue_()

    page.route("**/search/stream", route)
    page.fill("#query", slow)
    page.click("#go")
    page.fill("#query", fast)
    page.click("#go")
    _done(page)
    page.wait_for_timeout(800)
    expected = [row["text"] for row in _hits(page, address, fast)]
    assert [row.split("\n")[0] for row in page.locator("#ours li").all_inner_texts()] == expected


def _hits(page: Any, address: str, query: str) -> list[dict[str, Any]]:
    found = page.request.post(address + "search", data={"query": query, "budget": 100, "method": "axn-r10"}).json()
    hits: list[dict[str, Any]] = found["results"][0]["hits"]
    return hits


@pytest.mark.parametrize("given", ["5", "[1]", "{", '{"part": 1}'])
def test_a_filter_in_the_address_that_does_not_fit_is_said(page: Any, address: str, world: Any, given: str) -> None:
    page.goto(address + "?" + urllib.parse.urlencode({"q": world.queries[0], "filter": given}))
    said = "no item has the field 'part'" if "part" in given else "cannot be read"
    page.get_by_role("alert").get_by_text(said).wait_for()
    assert "Done" not in page.inner_text("#status")


def test_the_pictures_are_of_the_search(page: Any, address: str, world: Any) -> None:
    """Across what was expected, up what it was; and a mean of the best so far that never falls."""
    page.goto(address + "?" + urllib.parse.urlencode({"q": world.queries[0], "budget": 50}))
    _done(page)
    stream = page.request.post(
        address + "search/stream", data={"query": world.queries[0], "budget": 50, "method": "axn-r10"}
    ).text()
    rounds = [
        json.loads(part.split("data: ", 1)[1]) for part in stream.split("\n\n") if part.startswith("event: round")
    ]
    known = [s for told in rounds for s in told["scored"] if s["predicted"] is not None]
    dots = page.locator("#expected svg circle").evaluate_all(
        "all => all.map(c => [Number(c.getAttribute('cx')), Number(c.getAttribute('cy'))])"
    )
    assert len(dots) == len(known)
    for axis, name, sign in ((0, "predicted", 1), (1, "score", -1)):
        values, places = [s[name] for s in known], [dot[axis] for dot in dots]
        assert np.corrcoef(values, places)[0, 1] == pytest.approx(sign)
    lines = page.locator("#bought svg polyline").evaluate_all("all => all.map(line => line.getAttribute('points'))")
    for line in lines:
        heights = [float(point.split(",")[1]) for point in line.split()]
        assert heights == sorted(heights, reverse=True)


def test_keyboard_and_screen_reader(page: Any, address: str, world: Any) -> None:
    page.goto(address)
    page.get_by_text("300 items").wait_for()
    assert page.evaluate("document.activeElement.id") == "query"
    met = []
    for _ in range(7):
        page.keyboard.press("Tab")
        met.append(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineWidth")
        assert float(outline.removesuffix("px")) >= 2, met[-1]
    assert met == ["go", *world.queries[:3], "budget", "rounds", "share"]
    page.fill("#query", world.queries[0])
    page.keyboard.press("Enter")
    _done(page)
    unnamed = page.evaluate(
        "[...document.querySelectorAll('input, button, select, svg')].filter(e => !(e.labels?.length || "
        "e.textContent.trim() && e.tagName === 'BUTTON' || e.getAttribute('aria-label'))).map(e => e.outerHTML)"
    )
    assert unnamed == []
    assert page.locator("[role=status]").get_attribute("aria-live") == "polite"
    assert page.get_by_role("img").count() == 2
