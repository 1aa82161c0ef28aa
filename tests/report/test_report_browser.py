"""The report in a real headless Chromium.

Nothing is fetched, tables sort, a phone and a keyboard are enough.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from suite.report.__main__ import main

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--disable-quic",
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium")
PAGES = ("index.html", "tasks/mlp.html", "tasks/cnn.html")
SORTED = """table => [...table.tBodies[0].rows].map(row => row.cells[%d].textContent)"""

Record = Callable[..., Path]


@pytest.fixture(scope="module")
def report(write: Record, training: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of two problems with finished, diverged and unsupported runs."""
    folder = tmp_path_factory.mktemp("results")
    record = partial(write, folder / "runs")
    search = {"search": {"lr": {"low": 0.1, "high": 1.0, "log": True}}}
    for seed in range(3):
        record(
            "mlp",
            "sgd",
            seed,
            training(final=0.90 + 0.01 * seed, target_step=12 + seed),
            hyper=search,
        )
        record(
            "mlp", "adamw", seed, training(final=0.95 + 0.01 * seed, target_step=4), hyper=search
        )
        record(
            "mlp",
            "kfac",
            seed,
            training(status="diverged", cut=7, message="loss is not finite at step 7"),
        )
        record("cnn", "sgd", seed, training(final=0.5 + 0.1 * seed))
    record(
        "cnn",
        "kfac",
        0,
        training(status="unsupported", message="needs a layer that " + "is wide " * 12),
    )
    assert main(["--runs", str(folder / "runs"), "--out", str(folder / "report")]) == 0
    return folder / "report"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A Chromium without a window or a profile."""
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        yield chromium
        chromium.close()


@pytest.fixture
def tab(browser: Any) -> Iterator[Any]:
    """A page of a desktop's width that keeps what it fetched and complained about."""
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.complaints, page.fetched = [], []
    page.on("console", lambda message: page.complaints.append(message.text))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("request", lambda request: page.fetched.append(request.url))
    yield page
    page.close()


def address(report: Path, name: str) -> str:
    return (report / name).as_uri()


@pytest.mark.parametrize("name", PAGES)
def test_a_page_fetches_itself_alone_and_complains_of_nothing(
    report: Path, tab: Any, name: str
) -> None:
    tab.goto(address(report, name))
    assert tab.complaints == []
    assert [url for url in tab.fetched if not url.startswith("data:")] == [address(report, name)]
    assert tab.evaluate("[...document.images].length") > 0
    assert tab.evaluate(
        "[...document.images].every(image => image.complete && image.naturalWidth > 100)"
    )


@pytest.mark.parametrize("name", PAGES)
def test_structure_for_a_screen_reader(report: Path, tab: Any, name: str) -> None:
    tab.goto(address(report, name))
    assert tab.evaluate("document.documentElement.lang") == "en"
    assert tab.evaluate("document.querySelectorAll('h1, main, header').length") == 3
    levels = tab.evaluate(
        "[...document.querySelectorAll('h1,h2,h3,h4,h5,h6')].map(head => +head.tagName[1])"
    )
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    ids = tab.evaluate("[...document.querySelectorAll('[id]')].map(element => element.id)")
    assert len(ids) == len(set(ids))
    assert tab.evaluate("[...document.images].every(image => image.alt.length > 20)")
    assert tab.evaluate(
        "[...document.querySelectorAll('thead th')].every(head => head.scope === 'col')"
    )
    assert tab.evaluate(
        "[...document.querySelectorAll('tbody th')].every(head => head.scope === 'row')"
    )
    named = tab.evaluate("""[...document.querySelectorAll('[aria-describedby], [aria-labelledby]')]
        .map(one => one.getAttribute('aria-describedby') ?? one.getAttribute('aria-labelledby'))""")
    assert set(named) <= set(ids)
    tables = tab.evaluate(
        "[...document.querySelectorAll('table')].map(table => table.getAttribute('aria-label'))"
    )
    assert all(tables)
    assert len(tables) == len([one for one in named if one.startswith("caption-")])


@pytest.mark.parametrize("name", PAGES)
def test_every_link_leads_somewhere(report: Path, tab: Any, name: str) -> None:
    tab.goto(address(report, name))
    wanted: dict[str, set[str]] = {}
    for link in tab.evaluate("[...document.links].map(link => link.href)"):
        page, _, anchor = link.partition("#")
        wanted.setdefault(page, set()).add(anchor)
    assert len(wanted) >= 2  # itself and another page
    for page, anchors in wanted.items():
        tab.goto(page)
        assert [
            one
            for one in anchors
            if one and not tab.evaluate("id => !!document.getElementById(id)", one)
        ] == []


def test_a_click_sorts_by_value_and_a_second_one_the_other_way(report: Path, tab: Any) -> None:
    tab.goto(address(report, "tasks/mlp.html"))
    table = tab.locator("#table-results")
    heads = table.locator("thead th")
    names = heads.all_inner_texts()
    column = next(place for place, name in enumerate(names) if name.startswith("final"))
    before = table.evaluate(SORTED % 0)
    heads.nth(column).locator("button").click()
    assert heads.nth(column).get_attribute("aria-sort") == "ascending"
    # what has no number stays at the end
    assert table.evaluate(SORTED % 0) == ["sgd", "adamw", "kfac"] != before
    heads.nth(column).locator("button").click()
    assert heads.nth(column).get_attribute("aria-sort") == "descending"
    assert table.evaluate(SORTED % 0) == ["adamw", "sgd", "kfac"]
    heads.nth(0).locator("button").click()
    assert heads.nth(column).get_attribute("aria-sort") is None
    assert table.evaluate(SORTED % 0) == ["adamw", "kfac", "sgd"]


def test_the_keyboard_skips_sorts_and_shows_where_it_is(report: Path, tab: Any) -> None:
    tab.goto(address(report, "tasks/mlp.html"))
    tab.keyboard.press("Tab")
    skip = tab.evaluate("document.activeElement.className")
    assert skip == "skip"
    # seen once it has the focus
    assert tab.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
    tab.keyboard.press("Enter")
    assert tab.evaluate("document.activeElement.id") == "content"
    tab.keyboard.press("Tab")  # the table's scrolling region
    tab.keyboard.press("Tab")  # the first head
    assert tab.evaluate("document.activeElement.closest('th').cellIndex") == 0
    assert (
        float(tab.evaluate("parseFloat(getComputedStyle(document.activeElement).outlineWidth)"))
        >= 2
    )
    tab.keyboard.press("Enter")
    assert tab.locator("#table-results thead th").first.get_attribute("aria-sort") == "ascending"
    tab.keyboard.press("Space")
    assert tab.locator("#table-results").evaluate(SORTED % 0) == ["sgd", "kfac", "adamw"]


def test_a_number_leads_to_its_runs_and_marks_them(report: Path, tab: Any) -> None:
    tab.goto(address(report, "index.html"))
    cell = tab.locator("#table-main tbody tr", has_text="adamw").get_by_role(
        "link", name="0.9600 ± 0.0100 (3)"
    )
    cell.click()
    assert tab.url == address(report, "tasks/mlp.html") + "#runs-adamw"
    marked = tab.locator("#table-runs tr.marked")
    assert marked.count() == 3
    assert {text.split()[0] for text in marked.all_inner_texts()} == {"adamw"}
    commands = [text.split("\t")[-1] for text in marked.all_inner_texts()]
    assert commands == [
        f"python -m suite optimizer=adamw task=mlp seed={seed}" for seed in range(3)
    ]
    tab.get_by_role("navigation", name="Breadcrumb").get_by_role("link").click()
    assert tab.url == address(report, "index.html")


@pytest.mark.parametrize("name", PAGES)
def test_a_phone_scrolls_tables_and_not_the_page(report: Path, tab: Any, name: str) -> None:
    tab.set_viewport_size({"width": 360, "height": 740})
    tab.goto(address(report, name))
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360
    wide = tab.evaluate("""[...document.querySelectorAll('.scroll, .wide')]
        .filter(one => one.scrollWidth > one.clientWidth)
        .map(one => getComputedStyle(one).overflowX)""")
    assert wide
    assert set(wide) <= {"auto", "scroll"}
    widths = tab.evaluate("[...document.querySelectorAll('tbody th')].map(one => one.offsetWidth)")
    assert min(width for width in widths if width) >= 55  # names are not broken letter by letter
    sizes = tab.evaluate("""[...document.querySelectorAll('td, th, p, figcaption')]
        .map(one => parseFloat(getComputedStyle(one).fontSize))""")
    assert min(sizes) >= 14


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_what_is_behind_it(report: Path, browser: Any, scheme: str) -> None:
    tab = browser.new_page(color_scheme=scheme)
    tab.goto(address(report, "tasks/mlp.html") + "#runs-sgd")
    pairs = {
        "body": ("body", "body"),
        "link": (".crumbs a", "body"),
        "section": (".sections a", ".sections"),
        "caption": (".caption", "body"),
        "head": ("thead button", "thead th"),
        "marked": ("tr.marked td", "tr.marked td"),
    }
    for name, (text, ground) in pairs.items():
        colours = tab.evaluate(
            "([text, ground]) => [getComputedStyle(document.querySelector(text)).color, "
            "getComputedStyle(document.querySelector(ground)).backgroundColor]",
            [text, ground],
        )
        assert contrast(*colours) >= 4.5, (name, colours)
    tab.close()


def contrast(one: str, other: str) -> float:
    """The ratio of WCAG 2.2, success criterion 1.4.3, of two colours as `rgb(r, g, b)`."""
    lights = sorted(map(luminance, (one, other)))
    return (lights[1] + 0.05) / (lights[0] + 0.05)


def luminance(colour: str) -> float:
    """Relative luminance by WCAG's definition for sRGB."""
    parts = [int(part) / 255 for part in colour.removeprefix("rgb(").rstrip(")").split(",")]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_a_printed_page_shows_whole_tables(report: Path, tab: Any) -> None:
    tab.goto(address(report, "tasks/mlp.html"))
    tab.emulate_media(media="print")
    shown = tab.evaluate(
        "[...document.querySelectorAll('.scroll')].map(one => getComputedStyle(one).overflowY)"
    )
    assert set(shown) == {"visible"}
    assert not tab.locator("nav.sections").is_visible()


@pytest.mark.skipif(
    "AXE_CORE" not in os.environ, reason="npm pack axe-core; AXE_CORE=package/axe.min.js"
)
@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("width", [360, 1200])
def test_axe_finds_no_violation(report: Path, browser: Any, name: str, width: int) -> None:
    tab = browser.new_page(viewport={"width": width, "height": 900}, bypass_csp=True)
    tab.goto(address(report, name))
    tab.evaluate(Path(os.environ["AXE_CORE"]).read_text(encoding="utf-8"))
    violations = tab.evaluate("axe.run()")["violations"]
    assert [(one["id"], one["nodes"][0]["html"]) for one in violations] == []
    tab.close()
