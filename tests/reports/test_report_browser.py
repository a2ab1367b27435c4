"""The report in a real browser: quick, silent, usable by keyboard, and inert. Skipped where there is no Chromium."""

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from report_runs import SHOWN, hostile_run, plain_run
from workshop import record

from curate.reports import write_report
from curate.reports.text import visible

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Dialog, Page

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = next((path for name in NAMES if (path := shutil.which(name))), None)
pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("playwright") is None, reason="needs playwright: pip install playwright"),
    pytest.mark.skipif(CHROMIUM is None, reason=f"needs a browser: none of {', '.join(NAMES)} is installed"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """10,400 rows with texts of the length of real ones."""
    filler = "and so on with more words that make the answer as long as a real one is " * 8
    rows = [record(f"Question {at // 4}? {filler[:250]}", f"Answer {at}: {filler}", source=f"s{at % 5}", value=float(at * 37 % 101))
            for at in range(10_400)]  # fmt: skip
    return write_report(plain_run(tmp_path_factory.mktemp("large"), rows=rows))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(plain_run(tmp_path_factory.mktemp("small"), 120))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(hostile_run(tmp_path_factory.mktemp("hostile")))


class Visit:
    """An open report, and everything that it did that it should not do."""

    def __init__(self, browser: "Browser", path: Path, **settings: Any) -> None:
        self.page: Page = browser.new_page(**({"viewport": {"width": 1280, "height": 900}} | settings))
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", self._dismiss)
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("html[data-ready]", timeout=30_000)

    def _dismiss(self, dialog: "Dialog") -> None:
        self.complaints.append(dialog.message)
        dialog.dismiss()

    def __enter__(self) -> "Page":
        return self.page

    def __exit__(self, *_: object) -> None:
        url = self.page.url.partition("#")[0]
        self.page.close()
        assert self.complaints == []
        assert [
            request for request in self.requests if request.partition("#")[0] != url and not request.startswith("data:")
        ] == []


def count(page: "Page") -> int:
    """Rows that the list says it shows."""
    return int((page.locator("#count").text_content() or "").split()[0].rstrip(".").replace(",", ""))


def wait_for_count(page: "Page", text: str) -> None:
    """Wait until the list has taken up what was typed. The policy forbids `wait_for_function`, which evaluates text."""
    from playwright.sync_api import expect

    expect(page.locator("#count")).to_contain_text(text)


def selected(page: "Page") -> str:
    return (page.locator("#lines [aria-selected=true] .c-row").text_content() or "").strip()


def test_ten_thousand_rows_are_there_at_once(browser: "Browser", large: Path) -> None:
    assert large.stat().st_size < 10_000_000
    with Visit(browser, large) as page:
        assert page.evaluate("performance.getEntriesByName('ready')[0].startTime") < 4_000
        assert count(page) == 10_000
        assert page.locator("#lines .line").count() < 40, "only what is seen is in the page"


def test_scrolling_searching_and_sorting_ten_thousand_rows_does_not_lag(browser: "Browser", large: Path) -> None:
    with Visit(browser, large) as page:
        took = page.evaluate(
            """() => { const begin = performance.now();
            for (const at of [0.2, 0.9, 0.4]) { const v = document.getElementById('viewport'); v.scrollTop = at * v.scrollHeight;
              v.dispatchEvent(new Event('scroll')); }
            document.querySelector('[data-sort=score]').click();
            const search = document.getElementById('search'); search.value = 'answer 99';
            document.getElementById('filters').dispatchEvent(new Event('change'));
            return performance.now() - begin; }"""
        )
        assert took < 1_500
        assert 0 < count(page) < 300


def test_filters_search_and_sort(browser: "Browser", small: Path) -> None:
    with Visit(browser, small) as page:
        assert count(page) == 120
        page.select_option("#by-decision", "kept")
        kept = count(page)
        page.select_option("#by-decision", "rejected")
        assert kept + count(page) == 120
        page.select_option("#by-rule", label="drop given.value above 90")
        rule = count(page)
        assert 0 < rule < 120 - kept
        page.click("#filters button[type=reset]")
        wait_for_count(page, "120 rows.")
        page.select_option("#by-source", label="human")
        assert count(page) == 60
        page.fill("#search", "what is 7 + 1")
        wait_for_count(page, "2 of ")
        assert page.locator("#detail-body mark").count() >= 1
        page.fill("#search", "no such text anywhere")
        wait_for_count(page, "0 of ")
        assert "No row is like that" in page.inner_text("#lines")
        page.click("#filters button[type=reset]")
        wait_for_count(page, "120 rows.")
        page.click("[data-sort=score]")
        values = [float(text) for text in page.locator("#lines .c-score").all_inner_texts()]
        assert values == sorted(values)
        page.click("[data-sort=score]")
        values = [float(text) for text in page.locator("#lines .c-score").all_inner_texts()]
        assert values == sorted(values, reverse=True)
        assert page.get_attribute(".c-score[role=columnheader]", "aria-sort") == "descending"
        page.click("[data-sort=margin]")
        first = page.locator("#lines .c-margin").first.inner_text()
        assert first in ("0", "0.5", "1", "−1", "−0.5")


def test_the_list_is_used_by_keyboard(browser: "Browser", small: Path) -> None:
    with Visit(browser, small) as page:
        page.focus("#grid")
        assert selected(page) == "0"
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowDown")
        assert selected(page) == "2"
        assert page.inner_text("#detail-body b") == "Row 2"
        page.keyboard.press("End")
        assert selected(page) == "119"
        active = page.get_attribute("#grid", "aria-activedescendant")
        assert page.locator(f"#{active}").is_visible()
        page.keyboard.press("Home")
        page.keyboard.press("PageDown")
        assert int(selected(page)) > 5
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "detail-body"
        page.keyboard.press("Escape")
        assert page.evaluate("document.activeElement.id") == "grid"
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_every_control_is_reached_by_tab_and_has_a_name(browser: "Browser", small: Path) -> None:
    with Visit(browser, small) as page:
        reached = []
        for _ in range(40):
            page.keyboard.press("Tab")
            reached.append(page.evaluate("document.activeElement.id || 'by ' + document.activeElement.dataset.sort"))
        wanted = ["theme", "score", "by-source", "by-decision", "by-rule", "by-score", "search", "grid", "by row", "by margin"]
        assert [name for name in reached if name in wanted][: len(wanted)] == wanted, "after the last control it begins anew"
        unnamed = page.evaluate(
            """() => [...document.querySelectorAll('select, input, button, [tabindex="0"]')].filter((control) =>
            !(control.labels && control.labels.length) && !control.getAttribute('aria-label') && !control.textContent.trim()).length"""
        )
        assert unnamed == 0


def test_charts_are_drawn_named_and_change_with_the_score(browser: "Browser", small: Path) -> None:
    with Visit(browser, small) as page:
        assert "rows kept" in (page.locator("#histogram-all svg title").text_content() or "")
        assert page.locator("#histogram-sources svg").count() == 2
        assert page.locator("#score-table tbody tr").count() == 6
        assert page.evaluate("[...document.querySelectorAll('svg[role=img]')].every((one) => one.querySelector('title'))")


def test_dark_and_light(browser: "Browser", small: Path) -> None:
    def shade(page: "Page") -> int:
        return int(page.evaluate("getComputedStyle(document.body).backgroundColor").split("(")[1].split(",")[0])

    with Visit(browser, small, color_scheme="dark") as page:
        assert shade(page) < 60
        page.click("#theme")
        assert shade(page) > 200
    with Visit(browser, small, color_scheme="light") as page:
        assert shade(page) > 200
        page.click("#theme")
        assert shade(page) < 60


@pytest.mark.parametrize("width", [390, 1280])
def test_no_page_scrolls_sideways(browser: "Browser", small: Path, hostile: Path, width: int) -> None:
    for path in (small, hostile):
        with Visit(browser, path, viewport={"width": width, "height": 800}) as page:
            assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_on_a_narrow_screen_a_row_opens_over_the_list(browser: "Browser", small: Path) -> None:
    with Visit(browser, small, viewport={"width": 390, "height": 800}) as page:
        assert not page.locator("#detail").is_visible()
        page.locator("#lines .line").nth(2).click()
        assert page.locator("#detail").is_visible()
        assert page.inner_text("#detail-body b") == "Row 2"
        page.keyboard.press("Escape")
        assert not page.locator("#detail").is_visible()
        assert page.evaluate("document.activeElement.id") == "grid"


def test_it_prints(browser: "Browser", small: Path, tmp_path: Path) -> None:
    with Visit(browser, small, color_scheme="dark") as page:
        page.pdf(path=tmp_path / "report.pdf")
        page.emulate_media(media="print")
        assert not page.locator("header.top").is_visible()
        assert page.locator("#lines .line").first.is_visible()
    pages = (tmp_path / "report.pdf").read_bytes()
    assert pages.startswith(b"%PDF")
    assert 2 <= pages.count(b"/Type /Page\n") + pages.count(b"/Type /Page ") + pages.count(b"/Type/Page\n") < 40


def test_hostile_strings_do_nothing_and_are_shown(browser: "Browser", hostile: Path) -> None:
    with Visit(browser, hostile) as page:
        before = page.evaluate("Object.keys(window).length")
        page.focus("#grid")
        seen = []
        for _ in range(len(SHOWN) * 2):
            seen.append(page.locator("#detail-body .quoted .text").text_content() or "")
            page.keyboard.press("ArrowDown")
        for text in SHOWN:
            if len(text) < 400:
                assert visible(f"{text} 0") in seen
        assert page.evaluate("Object.keys(window).length") == before
        assert page.locator("img, iframe, object, embed, base").count() == 0
        assert page.locator("script").count() == 2
        assert page.locator("style").count() == 1
        page.fill("#search", "<script>alert(1)</script> 1")
        wait_for_count(page, "1 of ")


def test_an_injected_script_or_style_is_blocked_by_the_policy(browser: "Browser", small: Path) -> None:
    visit = Visit(browser, small)
    page = visit.page
    page.evaluate("""() => { const made = document.createElement('script'); made.textContent = 'window.hit = 1'; document.body.append(made);
        const box = document.createElement('div'); box.setAttribute('onclick', 'window.hit = 2'); document.body.append(box); box.click();
        const picture = document.createElement('img'); picture.src = 'https://evil.example/x.png'; document.body.append(picture); }""")
    assert page.evaluate("window.hit") is None
    assert any("Content Security Policy" in complaint for complaint in visit.complaints)
    page.close()
