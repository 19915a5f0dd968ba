"""The HTML report in a real browser: Debian's Chromium, without a screen."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.reports import HOSTILE, TOTALS
from support.suite import Suite

from pytest_langasync.reporting.html import html_page
from pytest_langasync.reporting.model import read_report

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
    path.write_text(html_page(read_report(account)), "utf-8")
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


def a_score(value: Any) -> dict[str, Any]:
    """Return a score without a reason."""
    return {"value": value, "reason": None}


def test_sorting_by_any_score(chromium: Any, tmp_path: Path) -> None:
    values: list[Any] = ["so-so", "bad", 10, "good", 9, None, True]
    cases = [
        a_case(n, scores={"zeal": a_score(n), **({"tone": a_score(v)} if v is not None else {})})
        for n, v in enumerate(values)
    ]
    shown = opened(chromium, tmp_path, an_account(cases))
    page = shown.page

    def order() -> list[int]:
        return [int(name[11:-1]) for name in shown.rows()]

    page.click("th[data-sort=score] button")
    assert order() == [6, 4, 2, 1, 3, 0, 5], "numbers, then labels; what has none is last"
    page.click("th[data-sort=score] button")
    assert order() == [0, 3, 1, 2, 4, 6, 5]
    page.get_by_label("Score to sort by").select_option("zeal")
    assert order() == [6, 5, 4, 3, 2, 1, 0], "the direction stays"
    one = opened(chromium, tmp_path, an_account([a_case(1)]))
    assert not one.page.locator("#score").is_visible(), "one score leaves nothing to choose"


def test_scores_that_json_does_not_know(chromium: Any, tmp_path: Path) -> None:
    scores = {"s": {"value": float("nan"), "reason": 42}, "t": a_score(float("inf"))}
    shown = opened(chromium, tmp_path, an_account([a_case(1, scores=scores)]))
    shown.page.click("#cases button.open")
    assert shown.page.locator("tr.detail pre").first.inner_text() == "42"
    assert shown.page.locator("#cases td .score").all_inner_texts() == ["s nan", "t inf"]


CHAIN = {"input": {"question": "chain input"}, "output": ["chain output"], "expected": False}
ANTHROPIC = {
    "system": [{"type": "text", "text": "the system"}],
    "messages": [
        {"role": "user", "content": "the question"},
        {"role": "assistant", "content": [{"type": "tool_use", "name": "look", "input": {"a": 1}}]},
        {"role": "user", "content": [{"type": "tool_result", "content": "the result"}]},
    ],
}
RESPONSES = {
    "instructions": "the instructions",
    "input": [{"role": "user", "content": [{"type": "input_text", "text": "the text"}]},
              {"type": "function_call_output", "output": "the output"}, "bare"],
}  # fmt: skip


def a_chain(number: int = 1) -> dict[str, Any]:
    """Return a case that has everything a case can have."""
    case = a_case(number, case=CHAIN, failure="E   assert 'this' == 'that'")
    requests: list[Any] = [ANTHROPIC, RESPONSES, {"input": "only a text"}, {"input": [[1], [2]]}]
    return case | {"calls": [case["calls"][0] | {"request": body} for body in requests]}


def test_a_case_opens_to_all_that_is_known_of_it(chromium: Any, tmp_path: Path) -> None:
    shown = opened(chromium, tmp_path, an_account([a_chain()]))
    shown.page.click("#cases button.open")
    detail = shown.page.locator("tr.detail")
    found = detail.evaluate("""(row) => [...row.querySelectorAll("pre")].map((text) =>
      [text.previousElementSibling.innerText, text.innerText])""")
    assert found == [
        ["Failure", "E   assert 'this' == 'that'"],
        ["quality: 1", "because fine"],
        ["Input", '{\n "question": "chain input"\n}'],
        ["Expected", "false"],
        ["Output", '[\n "chain output"\n]'],
        ["Asked: system", "the system"],
        ["Asked: user", "the question"],
        ["Asked: assistant", "look({'a': 1})"],
        ["Asked: user", "the result"],
        ["Answered", "answered fine"],
        ["Asked: instructions", "the instructions"],
        ["Asked: user", "the text"],
        ["Asked: function_call_output", "the output"],
        ["Asked: input", "bare"],
        *(["Answered", "answered fine"], ["Asked: user", "only a text"]),
        *(["Answered", "answered fine"], ["Asked: input", "2 inputs"]),
        ["Answered", "answered fine"],
    ]
    assert detail.locator("h3").all_inner_texts()[-4:] == [f"Call {n}" for n in range(1, 5)]


@pytest.mark.parametrize(
    "words",
    ["chain input", "CHAIN OUTPUT", "false", "assert this", "the system", "instructions result",
     "answered fine", "because", "batch_1", "quality 1", "t.py::test[1]", "lukewarm"],
)  # fmt: skip
def test_search_finds_every_text(chromium: Any, tmp_path: Path, words: str) -> None:
    case = a_chain()
    case["scores"]["tone"] = a_score("lukewarm")
    other = a_case(2, "x", calls=[], scores={})
    shown = opened(chromium, tmp_path, an_account([case, other]))
    shown.page.fill("#search", words)
    assert shown.rows() == ["t.py::test[1]"]


def test_what_has_nothing_to_show_is_hidden(chromium: Any, tmp_path: Path) -> None:
    page = opened(chromium, tmp_path, an_account([a_case(1)])).page
    assert not page.get_by_label("Change").is_visible()
    assert not page.locator("th[data-sort=change]").is_visible()
    name = "t.py::test[1]"
    move = {"id": name, "name": "quality", "before": 0.5, "after": 1}
    comparison = {
        "baseline": "last", "paired": 1, "added": [], "removed": [], "newly_failing": [],
        "newly_passing": [name], "p_value": None, "scores": [], "moves": [move], "regressions": [],
    }  # fmt: skip
    account = an_account([a_case(1), a_case(2)], comparison=comparison)
    shown = opened(chromium, tmp_path, account)
    shown.page.get_by_label("Change").select_option("moved")
    assert shown.rows() == [name]
    assert shown.page.locator("td.change").inner_text() == "newly passing quality 0.5 → 1"


def test_text_from_right_to_left_stays_where_it_is(chromium: Any, tmp_path: Path) -> None:
    turned = "a\u202eb\u2066c\u200f"
    scores = {turned: {"value": turned, "reason": turned}, "אב": a_score(7)}
    gate = {"gate": turned, "group": turned, "required": 1, "reached": 0, "n": 1, "passed": False}
    case = a_case(1, id=turned, group=turned, scores=scores, failure=turned)
    shown = opened(chromium, tmp_path, an_account([case], gates=[gate]))
    page = shown.page
    page.click("#cases button.open")
    texts = page.evaluate(
        "[...document.querySelectorAll('header,td,th,option')].map((e) => e.textContent)"
    )
    assert not set("\u202e\u2066\u200f") & set("".join(texts))
    assert shown.rows() == ["a\\u202eb\\u2066c\\u200f"]
    name, value = page.locator("#cases td .score").nth(1).locator("bdi").all()
    assert name.bounding_box()["x"] < value.bounding_box()["x"], "7 would go left of the letters"
    name, value = page.locator("td .score").first.locator("bdi, b").all()
    assert name.bounding_box()["x"] < value.bounding_box()["x"]


def test_a_long_text_is_cut_and_embedded_once(chromium: Any, tmp_path: Path) -> None:
    cases = []
    for number in range(11):
        text = f"{number}" * 300_000
        case = a_case(number, case={"input": [text], "output": text, "expected": None})
        case["calls"][0]["answer"] = text
        case["scores"]["quality"]["reason"] = text
        cases.append(case | {"failure": text})
    shown = opened(chromium, tmp_path, an_account(cases))
    assert (tmp_path / "run.html").stat().st_size < 11 * 2 * 20_000 + 60_000
    shown.page.click("#cases button.open")
    detail = shown.page.locator("tr.detail").inner_text()
    assert detail.count("Cut: 280,000 characters from the middle are left out") == 4
    first = shown.page.locator("tr.detail pre").first
    first.focus()
    assert first.evaluate("(e) => e === document.activeElement"), "it scrolls without a mouse"


def test_ten_thousand_labels_are_not_all_listed(chromium: Any, tmp_path: Path) -> None:
    labels = ["good"] * 3 + [f"{n} " + "long" * 200 for n in range(10_000)]
    cases = [a_case(1, id=f"t[{n}]", scores={"s": a_score(v)}) for n, v in enumerate(labels)]
    page = opened(chromium, tmp_path, an_account(cases)).page
    told = page.locator("td .score").first.inner_text()
    assert told.startswith("s good ×3, 0 long") and told.endswith(", 9,989 other labels")
    assert len(told) < 4000


def test_a_failed_gate_is_told_first(chromium: Any, tmp_path: Path) -> None:
    gate = {"gate": "min_score s", "group": "", "required": 0.8, "reached": 0.5, "n": 2}
    gates = [gate | {"passed": True, "gate": "other"}, gate | {"passed": False}]
    page = opened(chromium, tmp_path, an_account([a_case(1)], gates=gates)).page
    told = page.locator("header .note").all_inner_texts()
    assert told == ["Gate failed: min_score s 0.5, required 0.8"]


def test_opening_a_case_moves_no_column(chromium: Any, tmp_path: Path) -> None:
    case = a_case(1, case={"input": "wide " * 5000, "output": "x" * 5000, "expected": None})
    page = opened(chromium, tmp_path, an_account([case])).page
    for width in (1200, 390):
        page.set_viewport_size({"width": width, "height": 900})
        heads = page.locator("#cases thead th:visible")
        before = [head.bounding_box() for head in heads.all()]
        page.click("#cases button.open")
        assert [head.bounding_box() for head in heads.all()] == before
        texts = [text.bounding_box() for text in page.locator("tr.detail pre").all()]
        assert texts and all(box["x"] + box["width"] <= width for box in texts)
        page.click("#cases button.open")


def test_what_is_kept_of_a_run_has_no_failure_text() -> None:
    kept = read_report(an_account([a_chain()])).kept()["tests"][0]
    assert kept.keys() == {"id", "group", "outcome", "scores"}


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
    for rows in (200, 400, 800):
        shown.page.click("#more")
        assert len(shown.rows()) == rows, "as many again as there were"
    shown.page.focus("#rest")
    shown.page.keyboard.press("Enter")
    assert len(shown.rows()) == 10_000 and not shown.page.locator("#more").is_visible()
    assert shown.page.locator(":focus").inner_text() == "t.py::test[800]"
    for _ in range(2):
        shown.page.click("th[data-sort=id] button")
    assert shown.rows()[:2] == ["t.py::test[9999]", "t.py::test[9998]"], "numbers, not digits"
