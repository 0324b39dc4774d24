"""The page in a real browser: clicks, keys, sorting, filtering; no error, no request, no script of strangers."""

import dataclasses
import json
import shutil
import time

import pytest

from CTGroundedVLMLib.export import write_result
from export_cases import REPORT, a_hostile_result, a_result

webdriver = pytest.importorskip(
    "selenium.webdriver", reason="no selenium: pip install selenium, apt-get install chromium chromium-driver"
)
By = pytest.importorskip("selenium.webdriver.common.by").By
Keys = pytest.importorskip("selenium.webdriver.common.keys").Keys

QUIET = ("disable-gpu", "disable-quic", "no-first-run", "disable-background-networking", "disable-component-update",
         "disable-sync", "no-sandbox", "headless=new")  # fmt: skip


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("no chromium or chromedriver: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in (*QUIET, f"user-data-dir={tmp_path_factory.mktemp('chromium')}", "window-size=1500,1000"):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield browser
    browser.quit()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    write_result(a_result(), folder / "plain", heatmap_files=False)
    write_result(a_hostile_result(), folder / "hostile", heatmap_files=False)
    result = a_result()
    named = {"finding": "intrahepatic bile duct dilatation"}
    findings = (result.findings[0], dataclasses.replace(result.findings[1], **named), *result.findings[2:])
    comparisons = (dataclasses.replace(result.comparisons[0], sentences=(1, 2, 3), **named), *result.comparisons[1:])
    result = dataclasses.replace(result, findings=findings, comparisons=comparisons)
    write_result(result, folder / "long", heatmap_files=False)
    return folder


@pytest.fixture
def page(browser, folder):
    browser.get((folder / "plain" / "index.html").as_uri())
    return browser


def shown_figures(browser) -> list[str]:
    return [f.get_attribute("id") for f in browser.find_elements(By.TAG_NAME, "figure") if f.is_displayed()]


def column(browser, number: int) -> list[str]:
    rows = browser.find_elements(By.CSS_SELECTOR, "#scores tbody tr")
    return [r.find_elements(By.CSS_SELECTOR, "td, th")[number].text for r in rows if r.is_displayed()]


def test_a_click_on_a_sentence_shows_its_segments_and_picture(page):
    page.find_element(By.ID, "s1").click()
    assert page.find_element(By.ID, "s1").get_attribute("aria-pressed") == "true"
    assert shown_figures(page) == [f"f{page.find_element(By.ID, 's1').get_attribute('data-figure')}"]
    assert "Right lung lower lobe" in page.find_element(By.ID, "detail-1").text
    assert not page.find_element(By.ID, "detail-0").is_displayed()
    assert page.execute_script("return document.querySelector('figure:not([hidden]) img').naturalWidth") == 1000


def test_the_mouse_previews_a_sentence_and_gives_back_the_clicked_one(page):
    page.find_element(By.ID, "s1").click()
    webdriver.ActionChains(page).move_to_element(page.find_element(By.ID, "s2")).perform()
    time.sleep(0.4)
    assert page.find_element(By.ID, "detail-2").is_displayed()
    webdriver.ActionChains(page).move_to_element(page.find_element(By.TAG_NAME, "h1")).perform()
    time.sleep(0.4)
    assert page.find_element(By.ID, "detail-1").is_displayed()
    assert not page.find_element(By.ID, "detail-2").is_displayed()


def test_a_sentence_shows_the_models_scores_of_its_organs_with_heat_maps(page):
    page.find_element(By.ID, "s1").click()
    related = page.find_element(By.ID, "related")
    lines = [item.text.split("\n") for item in related.find_elements(By.TAG_NAME, "li")]
    assert [line[0] for line in lines] == ["Lung: =1+1", "Lung: Lung nodule"]
    related.find_element(By.CSS_SELECTOR, "button").click()
    time.sleep(0.4)  # the mouse has left the report, which shows the clicked sentence again, but not over this picture
    assert shown_figures(page) == ["f1"]
    assert page.find_element(By.ID, "detail-1").is_displayed()


def test_keys_walk_through_the_sentences(page):
    page.find_element(By.ID, "s0").send_keys(Keys.ARROW_DOWN)
    assert page.switch_to.active_element.get_attribute("id") == "s1"
    page.switch_to.active_element.send_keys(Keys.TAB)
    active = page.switch_to.active_element
    assert active.get_attribute("id") == "s2"
    assert "Spleen" in page.find_element(By.ID, "detail-2").text  # focus previews
    active.send_keys(Keys.ENTER)
    assert active.get_attribute("aria-pressed") == "true"
    active.send_keys(Keys.END)
    assert page.switch_to.active_element.get_attribute("id") == "s3"
    page.switch_to.active_element.send_keys(Keys.HOME)
    assert page.switch_to.active_element.get_attribute("id") == "s0"
    assert active.get_attribute("aria-pressed") == "true"
    page.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert active.get_attribute("aria-pressed") == "false"


def test_the_focus_can_be_seen(page):
    page.find_element(By.ID, "s0").send_keys(Keys.TAB)
    focused = page.switch_to.active_element
    assert focused.value_of_css_property("outline-style") == "solid"
    assert focused.value_of_css_property("outline-width") == "2px"


def test_headers_sort_by_click_and_key_and_what_is_not_scored_stays_last(page):
    header = page.find_elements(By.CSS_SELECTOR, "#scores thead th")[3]
    header.find_element(By.TAG_NAME, "button").click()
    assert header.get_attribute("aria-sort") == "descending"
    assert [text[:4] for text in column(page, 3)] == ["0.81", "0.50", "0.25", "not ", "not "]
    header.find_element(By.TAG_NAME, "button").send_keys(Keys.ENTER)
    assert header.get_attribute("aria-sort") == "ascending"
    assert [text[:4] for text in column(page, 3)] == ["0.25", "0.50", "0.81", "not ", "not "]
    margin = page.find_elements(By.CSS_SELECTOR, "#scores thead th")[4].find_element(By.TAG_NAME, "button")
    margin.click()
    assert column(page, 1)[:3] == ["hepatic steatosis", "=1+1 your prompt", "Lung nodule"]
    finding = page.find_elements(By.CSS_SELECTOR, "#scores thead th")[1]
    finding.find_element(By.TAG_NAME, "button").send_keys(Keys.SPACE)
    assert header.get_attribute("aria-sort") == "none"
    assert column(page, 1)[1:] == ["Emphysema", "hepatic steatosis", "Hiatal hernia", "Lung nodule"]


def test_the_table_is_filtered_by_words_organ_and_score(page):
    page.find_element(By.ID, "filter").send_keys("nodule")
    assert column(page, 1) == ["Lung nodule"]
    assert page.find_element(By.ID, "count").text == "1 of 5"
    page.find_element(By.ID, "filter").clear()
    page.find_element(By.CSS_SELECTOR, "#filter-organ option[value=lung]").click()
    assert len(column(page, 1)) == 3
    page.find_element(By.ID, "filter-scored").click()
    assert "Emphysema" not in column(page, 1)
    assert len(column(page, 1)) == 2


def test_disagreements_with_the_report_stand_first_and_can_be_shown_alone(page):
    assert column(page, 2)[0] == "present ≠ image 2"
    assert column(page, 1)[0] == "Lung nodule"
    page.find_element(By.ID, "filter-disagree").click()
    assert column(page, 1) == ["Lung nodule"]
    page.find_element(By.ID, "filter-disagree").click()
    header = page.find_elements(By.CSS_SELECTOR, "#scores thead th")[2].find_element(By.TAG_NAME, "button")
    header.click()
    assert column(page, 1)[0] == "Lung nodule"


def test_a_sentence_number_in_the_table_leads_to_that_sentence(page):
    page.find_element(By.CSS_SELECTOR, "#scores a[data-go='1']").click()
    assert page.find_element(By.ID, "s1").get_attribute("aria-pressed") == "true"
    assert page.find_element(By.ID, "detail-1").is_displayed()


def test_a_heat_map_is_shown_by_its_button_and_by_the_list_of_pictures(page):
    page.find_element(By.CSS_SELECTOR, "#scores button.show").click()  # of the disagreement, which stands first
    assert shown_figures(page) == ["f1"]
    assert page.find_element(By.ID, "pick").get_attribute("value") == "1"
    page.find_element(By.CSS_SELECTOR, "#pick option[value='3']").click()
    assert shown_figures(page) == ["f3"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1500, 1000), (420, 900)])
def test_the_page_fits_every_window_and_text_is_legible(page, width, height, scheme):
    page.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        assert page.execute_script("return document.documentElement.scrollWidth") <= width
        for selector in ("#report .text", ".between", "#scores tbody td", ".show", "h1"):
            assert contrast(page, selector) >= 4.5, selector
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


@pytest.mark.parametrize("width", [420, 360])
def test_no_narrow_window_scrolls_sideways(browser, folder, width):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        browser.get((folder / "long" / "index.html").as_uri())
        assert browser.find_elements(By.CSS_SELECTOR, "#scores td.compared")
        box, page = browser.execute_script(
            """return [document.querySelector("#findings .scroll"), document.documentElement].map(
            (e) => [e.scrollWidth, e.clientWidth])"""
        )
        assert browser.find_element(By.CSS_SELECTOR, "#scores td.probability").is_displayed()
        assert not browser.find_element(By.CSS_SELECTOR, "#scores td.number").is_displayed()
        assert box[0] > box[1]  # the table is wider than the window: it scrolls in its own box
        assert page[0] <= page[1]
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_sentence_numbers_are_seen_and_are_not_copied_with_the_text(page):
    shown = page.execute_script("return getComputedStyle(document.getElementById('s1'), '::before').content")
    assert shown == '"2"'
    copied = page.execute_script(
        """getSelection().selectAllChildren(document.querySelector("#report .text")); return String(getSelection());"""
    )
    assert copied.strip() == REPORT.strip()


def contrast(browser, selector: str) -> float:
    """WCAG 2's contrast ratio of an element's text against the first opaque background below it."""
    colours = browser.execute_script(
        """let e = document.querySelector(arguments[0]), ink = getComputedStyle(e).color, ground;
        do { ground = getComputedStyle(e).backgroundColor; e = e.parentElement; }
        while (e && ground === "rgba(0, 0, 0, 0)");
        return [ink, ground].map((c) => c.match(/[0-9.]+/g).slice(0, 3).map(Number));""",
        selector,
    )
    channels = [[c / 255 for c in colour] for colour in colours]
    linear = [[c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour] for colour in channels]
    light, dark = sorted((0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in linear), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("name", ["plain", "hostile"])
def test_no_error_no_request_and_no_strangers_script(browser, folder, name):
    for kind in ("browser", "performance"):
        browser.get_log(kind)  # what earlier pages logged
    browser.get((folder / name / "index.html").as_uri())
    for sentence in browser.find_elements(By.CSS_SELECTOR, ".linked"):
        sentence.click()
    browser.find_element(By.CSS_SELECTOR, "#scores thead button").click()
    assert browser.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert any(url.startswith("file:") for url in urls)  # the log does record
    assert [u for u in urls if not u.startswith(("data:", (folder / name / "index.html").as_uri()))] == []
    assert len(browser.find_elements(By.TAG_NAME, "script")) == 1
    assert browser.execute_script("return [...document.images].every((i) => i.src.startsWith('data:'))")


def test_the_browser_would_stop_a_script_or_request_that_slipped_in(page):
    page.execute_script(
        """window.ran = false; const s = document.createElement("script"); s.textContent = "window.ran = true";
        document.body.append(s); const i = new Image(); i.src = "https://example.org/x.png"; document.body.append(i);"""
    )
    assert page.execute_script("return window.ran") is False
    refused = [entry["message"] for entry in page.get_log("browser")]
    assert any("script-src" in message for message in refused)
    assert any("img-src" in message for message in refused)
