"""The HTML report in a real browser: Debian's Chromium, without a screen."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Suite
from test_markdown import HOSTILE, TOTALS

from pytest_langasync.report.html import html_page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="there is no Chromium here: apt-get install chromium"
)
COUNTS = dict.fromkeys(("batched", "cached", "realtime", "failed", "deferred"), 1)
ATTACK = "</script><script>window.pwned = 1</script><img src=x onerror='window.pwned = 1'>"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """Start the browser once."""
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Page:
    """A report in the browser; what it fetched and what it complained of."""

    def __init__(self, chromium: Any, path: Path, scheme: str = "light") -> None:
        self.page = chromium.new_page(color_scheme=scheme, viewport={"width": 1200, "height": 900})
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda message: self.errors.append(message.text))
        self.page.goto(path.as_uri())

    def rows(self) -> list[str]:
        """Return the names of the cases shown."""
        found: list[str] = self.page.locator("#cases button.open").all_text_contents()
        return found


def a_case(number: int, text: str = "fine", **more: Any) -> dict[str, Any]:
    """Return a test's part of an account."""
    outcome = "failed" if number % 3 == 0 else "passed"
    call = {
        "served_model": "gpt", "model": "gpt", "source": "batch", "status": 200,
        "job_id": f"batch_{number}", "paid_usd": number / 1000, "age_seconds": 1.0,
        "usage": {"input_tokens": number, "output_tokens": 1},
        "request": {"messages": [{"role": "user", "content": f"asked {text} {number}"}]},
        "answer": {"choices": [{"message": {"content": f"answered {text}"}}]},
    }  # fmt: skip
    scores = {"quality": {"value": number % 10, "reason": f"because {text}"}}
    base = {"id": f"t.py::test[{number}]", "group": f"t.py::group{number % 2}", "deferred": []}
    return {**base, "outcome": outcome, "scores": scores, "calls": [call], **more}


def an_account(tests: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """Return an account with these tests."""
    return {
        "name": "run", "started_at": 1.0, "ended_at": 2.0, "exit_status": 0, "settings": {},
        "totals": COUNTS | TOTALS | {"list_price_usd": 1.0}, "models": [], "gates": [],
        "retries": [], "passed": [], "masked": 0, "changed": [], "comparison": None,
        "tests": tests, **more,
    }  # fmt: skip


def opened(chromium: Any, folder: Path, account: dict[str, Any], **options: Any) -> Page:
    """Write the account's page and open it."""
    path = folder / "run.html"
    path.write_text(html_page(account), "utf-8")
    return Page(chromium, path, **options)


def test_the_page_of_a_run(chromium: Any, suite: Suite) -> None:
    """Two real runs; the page stands alone and shows both."""
    suite.pytester.makeconftest(
        "import pytest\n"
        "@pytest.hookimpl(optionalhook=True)\n"
        f"def pytest_langasync_sandbox_reply(request): return {ATTACK!r}\n"
    )
    suite.write(
        "@pytest.mark.langasync\n"
        "@pytest.mark.parametrize('n', range(4))\n"
        "def test_it(langasync, n):\n"
        f"    langasync.score('quality', n, reason={ATTACK!r})\n"
        "    assert 'pwned' in ask(f'q {n}')\n"
    )
    suite.run().assert_outcomes(passed=4)
    suite.run("--langasync-report=run.html", "--langasync-baseline=last").assert_outcomes(passed=4)
    shown = Page(chromium, suite.path / "run.html")
    assert len(shown.rows()) == 4 and shown.page.locator("figure svg").count() == 3
    assert shown.page.locator("figure .key").all_text_contents()[:2] == ["paid", "saved"]
    shown.page.locator("#cases button.open").first.click()
    detail = shown.page.locator("tr.detail").inner_text()
    assert "q 0" in detail and detail.count(ATTACK) == 2 and "batch_" in detail
    assert shown.page.evaluate("window.pwned") is None and shown.page.locator("img").count() == 0
    assert shown.errors == [] and shown.requests == [(suite.path / "run.html").as_uri()]


def test_hostile_names(chromium: Any, tmp_path: Path) -> None:
    name = HOSTILE + ATTACK
    case = a_case(1, name, id=name, group=name)
    comparison = {
        "baseline": name, "paired": 1, "added": [], "removed": [], "newly_failing": [name],
        "newly_passing": [], "p_value": None, "scores": [], "moves": [], "regressions": [name],
    }  # fmt: skip
    shown = opened(chromium, tmp_path, an_account([case], comparison=comparison))
    assert shown.page.evaluate("window.pwned") is None
    assert shown.page.locator("img").count() == 0 and shown.page.locator("script").count() == 2
    assert shown.rows() == [name] and shown.errors == []


def test_search_filter_and_sort(chromium: Any, tmp_path: Path) -> None:
    cases = [a_case(n, "needle" if n == 7 else "hay") for n in range(12)]
    shown = opened(chromium, tmp_path, an_account(cases))
    page = shown.page
    page.fill("#search", "NEEDLE asked")
    assert shown.rows() == ["t.py::test[7]"]
    assert page.locator("#shown").inner_text() == "1 of 12 cases"
    page.fill("#search", "")
    page.select_option("#verdict", "failed")
    assert len(shown.rows()) == 4
    page.select_option("#group", "t.py::group0")
    assert shown.rows() == ["t.py::test[0]", "t.py::test[6]"]
    page.select_option("#verdict", "")
    page.select_option("#group", "")
    page.click("th[data-sort=cost] button")
    page.click("th[data-sort=cost] button")
    assert shown.rows()[:2] == ["t.py::test[11]", "t.py::test[10]"]
    assert page.locator("th[data-sort=cost]").get_attribute("aria-sort") == "descending"


def test_keyboard_alone(chromium: Any, tmp_path: Path) -> None:
    shown = opened(chromium, tmp_path, an_account([a_case(1), a_case(2)]))
    page = shown.page
    page.locator("#search").focus()
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.className") == "open":
            break
    page.keyboard.press("Enter")
    focused = page.locator(":focus")
    assert focused.get_attribute("aria-expanded") == "true"
    assert page.locator(f"#{focused.get_attribute('aria-controls')}").is_visible()
    page.keyboard.press("Space")
    assert page.locator("tr.detail").count() == 0


def test_what_a_screen_reader_hears(chromium: Any, tmp_path: Path) -> None:
    page = opened(chromium, tmp_path, an_account([a_case(1)])).page
    assert page.get_attribute("html", "lang") == "en" and page.title()
    assert page.locator("h1").count() == 1 and page.locator("main").count() == 1
    for name in ("Search", "Outcome", "Test"):
        assert page.get_by_label(name, exact=False).count() >= 1
    assert page.locator("th:not([scope])").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(chromium: Any, tmp_path: Path, scheme: str) -> None:
    """Text and background differ by the ratio that WCAG 2 AA asks for."""
    page = opened(chromium, tmp_path, an_account([a_case(0), a_case(1)]), scheme=scheme).page
    ratios = page.evaluate("""() => {
      const parse = (text) => text.match(/[\\d.]+/g).map(Number);
      const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
        .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
      const behind = (element) => {
        for (let e = element; e; e = e.parentElement) {
          const colour = parse(getComputedStyle(e).backgroundColor);
          if (colour.length < 4 || colour[3] === 1) return colour;
        }
        return [255, 255, 255];
      };
      return [...document.querySelectorAll("h1,h2,p,td,th,button.open,.tag,label")]
        .filter((e) => e.innerText && e.innerText.trim()).map((e) => {
          const pair = [light(parse(getComputedStyle(e).color)), light(behind(e))];
          const ratio = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
          return [e.tagName + " " + e.innerText.slice(0, 20), ratio];
        });
    }""")
    assert [pair for pair in ratios if pair[1] < 4.5] == []


def test_ten_thousand_cases(chromium: Any, tmp_path: Path) -> None:
    shown = opened(chromium, tmp_path, an_account([a_case(n) for n in range(10_000)]))
    assert len(shown.rows()) == 100, "no more is drawn than one can look at"
    shown.page.fill("#search", "asked fine 9999")
    assert shown.rows() == ["t.py::test[9999]"]
    shown.page.fill("#search", "")
    shown.page.click("#more")
    assert len(shown.rows()) == 200
