"""The report in a browser: it draws, sorts, searches, filters and gives its numbers away, without a network."""

from __future__ import annotations

import csv
import os
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from myosotis.ledger import StudyRecord
from myosotis.report import configurations, write_report
from myosotis.report.pairs import paired
from tests.simulated import simulated

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
if CHROMIUM is None and "CI" not in os.environ:
    pytest.skip("there is no chromium", allow_module_level=True)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudyRecord:
    record = simulated(tmp_path_factory.mktemp("studies") / "study")
    write_report(record)
    return record


@pytest.fixture
def page(browser: Browser, study: StudyRecord) -> Iterator[Page]:
    with opened(browser, study.folder) as page:
        yield page


@contextmanager
def opened(browser: Browser, folder: Path, **options: Any) -> Iterator[Page]:
    """Open a study's page without a network; whatever it says on the console is a mistake."""
    said: list[str] = []
    with browser.new_context(offline=True, **options) as context:
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto((folder / "report.html").as_uri())
        page.evaluate("drawn.then(() => null)")
        yield page
        page.evaluate("Promise.all(charts.map((chart) => chart.view.runAsync())).then(() => null)")
    assert said == []


def names(page: Page) -> list[str]:
    """The configurations in the table that are to be seen, in order."""
    return [row.split("\n")[0] for row in page.locator(".sortable tbody tr:visible .name").all_inner_texts()]


def points(page: Page) -> Locator:
    """The numbers on the discs of the first picture."""
    return page.locator(".chart").first.locator("svg .mark-text.role-mark text")


def test_every_picture_is_drawn(page: Page) -> None:
    places = page.locator(".chart")
    assert places.count() > 20
    assert page.locator(".chart svg").count() == places.count()
    sections = page.locator("section").evaluate_all("all => all.map(each => each.className)")
    assert {"scatter", "retention", "curves", "scores", "sweep", "paths", "importance", "cost"} <= {*sections}
    assert page.evaluate("[...document.querySelectorAll('.chart svg')].every(each => each.clientWidth > 100)")


def test_a_heading_sorts(page: Page, study: StudyRecord) -> None:
    frame = configurations(study)
    page.get_by_role("button", name="learned", exact=True).click()
    most = frame.sort_values("learned", ascending=False)["label"]
    assert [name.startswith(label) for name, label in zip(names(page), most, strict=True)] == [True] * 12
    page.get_by_role("button", name="learned", exact=True).click()
    assert names(page)[0].startswith(most.iloc[-1])


def test_words_search_the_table_and_the_pictures(page: Page) -> None:
    expect(points(page)).to_have_count(12)
    page.get_by_role("searchbox").fill("lora rank=64")
    assert [name.startswith("lora · rank=64") for name in names(page)] == [True, True]
    expect(page.get_by_role("status")).to_have_text("2 of 12")
    expect(points(page)).to_have_text(["11", "12"])
    page.get_by_role("button", name="show all").click()
    assert len(names(page)) == 12
    expect(points(page)).to_have_count(12)


def test_a_click_on_a_point_shows_it_alone(page: Page) -> None:
    points(page).filter(has_text="5").click()
    [name] = names(page)
    assert name.startswith("full · rank=64")
    page.locator(".sortable tbody tr:visible").click()
    assert len(names(page)) == 12


def test_a_picture_and_its_numbers_are_downloaded(page: Page, study: StudyRecord, tmp_path: Path) -> None:
    files = {}
    for ending in ("SVG", "PNG", "CSV"):
        with page.expect_download() as download:
            page.locator("figure").first.get_by_role("button", name=ending).click()
        assert download.value.suggested_filename == f"study-learned-forgotten.{ending.lower()}"
        files[ending] = tmp_path / ending
        download.value.save_as(files[ending])
    drawing = ElementTree.parse(files["SVG"]).getroot()
    assert drawing.tag == "{http://www.w3.org/2000/svg}svg"
    assert len(list(drawing.iter("{http://www.w3.org/2000/svg}path"))) > 12
    assert files["PNG"].read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    with files["CSV"].open(newline="") as file:
        rows = list(csv.DictReader(file))
    frame = configurations(study)
    assert [float(row["learned"]) for row in rows] == pytest.approx(list(frame["learned"]))
    assert [float(row["forgotten_high"]) for row in rows] == pytest.approx(list(frame["forgotten_high"]))


def test_two_configurations_are_held_against_each_other(page: Page, study: StudyRecord) -> None:
    page.locator("#one").select_option(label="12  lora · rank=64 · learning_rate=0.001")
    page.locator("#other").select_option(label="1  full · rank=4 · learning_rate=0.0001")
    table = paired(study)
    rows = table[table["configuration"].str.startswith("full · rank=4 · learning_rate=0.0001")]
    rows = rows[rows["other"].str.startswith("lora · rank=64 · learning_rate=0.001")]
    shown = [row.split("\t") for row in page.locator("#pair tr").all_inner_texts()]
    assert [cells[0] for cells in shown] == list(rows["measure"])
    # Listed the other way round: the sign is turned.
    differences = [float(cells[1].replace("−", "-")) for cells in shown]
    assert differences == pytest.approx([-each for each in rows["difference"]], abs=6e-4)
    lows = [float(cells[2].split(" to ")[0].replace("−", "-")) for cells in shown]
    assert lows == pytest.approx([-each for each in rows["high"]], abs=6e-4)
    turned = {"higher": "lower", "lower": "higher"}
    assert [cells[5] for cells in shown] == [turned.get(each, each) for each in rows["verdict"]]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_nothing_is_wider_than_the_page(browser: Browser, study: StudyRecord, scheme: str) -> None:
    phone = {"viewport": {"width": 390, "height": 800}, "color_scheme": scheme}
    with opened(browser, study.folder, **phone) as page:
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        ink = page.evaluate("getComputedStyle(document.querySelector('.chart svg text')).fill")
        dark = "rgb(18, 22, 28)", "rgb(230, 234, 240)"
        assert ((paper, ink) == dark) == (scheme == "dark")


def test_printed_it_has_no_buttons(page: Page) -> None:
    page.emulate_media(media="print")
    seen = page.locator("button:visible, input:visible, select:visible")
    assert seen.count() == page.locator(".sortable th").count() == 10  # the headings alone


def test_two_hundred_trials_draw_and_filter(browser: Browser, tmp_path: Path) -> None:
    arms, ranks = ("full", "lora", "replay", "ewc", "l2"), (2, 4, 8, 16, 32)
    record = simulated(tmp_path / "large", arms, ranks, seeds=4)
    assert len(record.trials) == 200
    write_report(record)
    with opened(browser, record.folder) as page:
        page.get_by_role("searchbox").fill("replay rank=8")
        assert len(names(page)) == 2
        # Of a list of pictures, the one that is left is chosen.
        assert page.locator(".curves select").input_value() == "25  replay · rank=8 · learning_rate=0.0001"


def test_one_seed_has_no_interval(browser: Browser, tmp_path: Path) -> None:
    record = simulated(tmp_path / "one", seeds=1)
    write_report(record)
    with opened(browser, record.folder) as page:
        assert page.locator(".chart svg").count() == page.locator(".chart").count() > 10
        for one, other in ((0, 1), (1, 0)):  # a pair is listed once, and turned for the other way round
            page.locator("#one").select_option(index=one)
            page.locator("#other").select_option(index=other)
            cells = [row.split("\t") for row in page.locator("#pair tr").all_inner_texts()]
            assert {(cell[2], cell[4], cell[5]) for cell in cells} == {("—", "—", "too few seeds")}
        page.get_by_role("searchbox").fill("lora rank=64")
        assert len(names(page)) == 2
