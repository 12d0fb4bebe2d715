"""The page in a real browser: clicks, keys, what stays after a restart, two tabs, small and large, and 100,000 rows."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from review_folders import reviewing, serving

from diffaug.data.manifest import MANIFEST, read_rows, write_rows
from diffaug.data.reviews import FILE
from diffaug.review.blind import FILE as BLIND
from diffaug.review.blind import Session, frames_of
from diffaug.review.server import blind_application

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from scale import write_rows_only

pytestmark = pytest.mark.browser
WAIT = 30_000  # ms; machines that run tests are busy


@pytest.fixture(scope="module")
def served(review_set, review_data, tmp_path_factory):
    folder = shutil.copytree(review_set, tmp_path_factory.mktemp("page") / "synthetic")
    rows = list(read_rows(folder / MANIFEST))
    hostile = "<img src=x onerror=\"document.title='run'\"><script>document.title='run'</script>"
    rows[1] = replace(rows[1], request=replace(rows[1].request, prompt=hostile), reason=hostile)
    write_rows(folder / MANIFEST, rows)
    with reviewing(folder, review_data) as found:
        yield found


def opened(browser, address, width=1280, height=800, scheme="light"):
    """Open the page in a browser of its own; what it asks of other servers, or says of errors, is kept."""
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    context.set_default_timeout(WAIT)
    page = context.new_page()
    page.said, page.asked = [], []
    page.on("console", lambda message: page.said.append(message.text))
    page.on("pageerror", lambda error: page.said.append(str(error)))
    page.on("request", lambda request: page.asked.append(request.url))
    page.goto(address)
    return page


def until(page, expression, value=True):
    """Wait until an expression has a value. Playwright's own waiting needs `eval`, which the page forbids."""
    for _ in range(WAIT // 50):
        if (found := page.evaluate(expression)) == value:
            return
        page.wait_for_timeout(50)
    pytest.fail(f"{expression} is {found!r}, not {value!r}")


def status(page, text):
    until(page, f"document.getElementById('status').textContent.includes({json.dumps(text)})")


def decisions(folder):
    path = folder / FILE
    return [(d["id"], d["decision"]) for d in map(json.loads, path.read_text().splitlines())] if path.exists() else []


def test_a_reader_decides_by_keys_and_clicks_and_another_tab_sees_it(served, browser):
    page = opened(browser, served.address)
    page.wait_for_selector("body[data-read=all]")
    other = page.context.new_page()
    other.goto(served.address)
    other.wait_for_selector("body[data-read=all]")
    page.bring_to_front()
    page.focus("#grid")
    page.keyboard.press("r")
    status(page, "synth-00000 is rejected. Now synth-00001")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert page.inner_text("#case-name") == "synth-00002" and not page.is_visible("#grid")
    page.keyboard.press("w")
    page.keyboard.type("a sharp rim")  # letters are no keys here
    page.keyboard.press("Enter")
    page.click("#reject")
    status(page, "synth-00002 is rejected")
    page.keyboard.press("a")
    status(page, "synth-00003 is accepted")
    page.keyboard.press("u")
    status(page, "The decision about synth-00003 is taken back")
    assert decisions(served.folder) == [
        ("synth-00000", "reject"), ("synth-00002", "reject"), ("synth-00003", "accept"), ("synth-00003", "undo"),
    ]  # fmt: skip
    assert json.loads((served.folder / FILE).read_text().splitlines()[1])["why"] == "a sharp rim"
    until(other, "document.getElementById('counts').textContent.includes('2 rejected')")
    other.reload()  # and after a restart of the page
    other.wait_for_selector("#card-2 .tag.reject")
    other.context.close()


def test_the_list_is_filtered_and_sorted_and_a_case_shows_its_pictures(served, browser):
    page = opened(browser, served.address)
    page.wait_for_selector("body[data-read=all]")
    page.select_option("#by-decision", "rejected")
    status(page, "1 of 11 cases")
    assert page.inner_text(".card b") == "synth-00009"
    page.select_option("#by-decision", "")
    page.select_option("#sort", "score")
    until(page, "document.querySelector('#card-0 b')?.textContent", "synth-00009")
    page.fill("#least", "0.5")
    status(page, "10 of 11 cases")
    page.fill("#least", "")
    page.select_option("#by-size", "medium")
    status(page, "4 of 11 cases")
    page.select_option("#by-size", "")
    page.select_option("#sort", "")
    page.click("#card-1")
    page.wait_for_selector("#pictures figure:nth-child(3) img")
    until(page, "[...document.querySelectorAll('#pictures img')].every(one => one.naturalWidth > 30)")
    assert "nearest real lesion" in page.inner_text("#pictures").lower()
    assert page.title() != "run" and "<img src=x" in page.inner_text("#facts")  # shown as text, and not run
    page.keyboard.press("o")
    page.wait_for_selector("#pictures img[src*='outline=false']")
    page.keyboard.press("z")
    assert page.get_attribute("#size", "aria-pressed") == "true"
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.id") == "grid"
    assert not page.said and all(url.startswith(served.address) for url in page.asked)
    page.context.close()


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 400])
def test_nothing_lies_beside_the_page_and_everything_has_a_name(served, browser, width):
    page = opened(browser, served.address, width, scheme="dark")
    page.wait_for_selector("#card-0 img")
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert sum(map(int, ground.removeprefix("rgb(").removesuffix(")").split(","))) < 150  # dark
    page.focus("#grid")
    page.keyboard.press("Enter")
    page.wait_for_selector("#pictures figure:nth-child(2)")
    for name in ("list", "case"):
        wide = page.evaluate(
            "[...document.querySelectorAll('body *')].filter(one => !one.closest('.hold, .card') && "
            "one.getBoundingClientRect().right > innerWidth + 1).map(one => one.outerHTML.slice(0, 80))"
        )
        assert not wide, name
        nameless = page.evaluate(
            "[...document.querySelectorAll('button, select, input, [role], figure img')].filter(one => !one.hidden && "
            "!['presentation', 'status'].includes(one.getAttribute('role')) && !(one.getAttribute('aria-label') || "
            "one.getAttribute('aria-labelledby') || one.textContent.trim() || one.alt || one.labels?.length))"
            ".map(one => one.outerHTML.slice(0, 80))"
        )
        assert not nameless, name
        page.keyboard.press("Escape")
    option = page.get_attribute("#grid", "aria-activedescendant")
    assert page.get_attribute(f"#{option}", "aria-posinset") == "1"
    assert page.get_attribute(f"#{option}", "aria-setsize") == "11"
    page.context.close()


@pytest.mark.slow
def test_a_blind_reader_is_scored_and_never_told_before(own_set, review_data, browser):
    session = Session(frames_of(review_data, own_set, 2, 0), own_set, "Anna", 0)
    assert len(session.frames) == 4
    with serving(blind_application(session), own_set) as found:
        page = opened(browser, found.address, 400)
        until(page, "document.getElementById('case-name').textContent", "Frame 1 of 4")
        until(page, "document.querySelector('#pictures img').naturalWidth > 30")
        painted = {n for n, one in enumerate(session.frames, start=1) if one.kind == "painted"}
        for number in (1, 2, 3):
            page.keyboard.press("p" if number in painted else "r")
            status(page, f"Now frame {number + 1}")
        assert not page.is_visible("#result") and not any(name in page.content() for name in ("synth-", "train-"))
    again = Session(frames_of(review_data, own_set, 2, 0), own_set, "Anna", 0)
    assert again.answers == session.answers and len(again.answers) == 3  # a restart continues
    with serving(blind_application(again), own_set) as found:
        page.goto(found.address)
        until(page, "document.getElementById('case-name').textContent", "Frame 4 of 4")
        page.click("#cannot-tell")
        status(page, "All frames are answered")
        assert "right answers: 3 of 3 (95 % interval 0.29 to 1.00)" in page.inner_text("#result")
        assert page.is_disabled("#real")
    page.context.close()
    lines = [json.loads(line) for line in (own_set / BLIND).read_text().splitlines()]
    assert [line["answer"] for line in lines][-1] == "cannot tell" and {line["who"] for line in lines} == {"Anna"}


@pytest.mark.slow
def test_a_hundred_thousand_rows_are_listed_to_the_end(tmp_path, browser):
    write_rows_only(tmp_path / "set", 100_000)
    with reviewing(tmp_path / "set") as found:
        page = opened(browser, found.address)
        page.wait_for_selector("#card-0")
        page.wait_for_selector("body[data-read=all]", timeout=600_000)
        page.focus("#grid")
        page.keyboard.press("End")
        until(page, "document.querySelector('[aria-selected=true] b')?.textContent", "synth-099999")
        assert page.evaluate("document.querySelectorAll('.card').length") < 100
        page.keyboard.press("r")
        status(page, "synth-099999 is rejected")
        page.context.close()
