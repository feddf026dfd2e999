"""Tests of report.html in a headless Chromium: make test-report.

They skip, and say why, where the package selenium or the programs chromium and chromedriver are
missing.
"""

import json
import shutil
import time

import numpy as np
import pytest

from tests.reports import RECORDED, draw_images, f1_of, write_report

selenium = pytest.importorskip("selenium", reason="needs selenium: make test-report installs it")
from selenium import webdriver  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER),
    reason="needs Chromium and its driver: apt install chromium chromium-driver",
)
# Without them Chromium asks its maker's servers for this and that.
QUIET = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update --window-size=1200,900 "
    "--force-prefers-reduced-motion"
).split()
SECONDS = 20
NUM_IMAGES = 3


def open_browser(folder, has_scripts=True):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for word in (*QUIET, f"--user-data-dir={folder}"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    if not has_scripts:
        setting = {"profile.managed_default_content_settings.javascript": 2}
        options.add_experimental_option("prefs", setting)
    return webdriver.Chrome(options, webdriver.ChromeService(DRIVER))


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The address of a report."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_report(path, draw_images(NUM_IMAGES), sort_by="F1")
    return path.as_uri()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    driver = open_browser(tmp_path_factory.mktemp("profile"))
    yield driver
    driver.quit()


@pytest.fixture
def shown(browser, page):
    """The browser with the report opened anew."""
    browser.get(page)
    return browser


def move_to(browser, place):
    browser.execute_script(
        "const s = document.getElementById('threshold'); s.value = arguments[0];"
        "s.dispatchEvent(new Event('input'))",
        place,
    )


def scores_of(browser):
    names = ("F1", "sensitivity", "specificity", "precision")
    find = "document.querySelector(`#live-all [data-score='${n}']`).textContent"
    return browser.execute_script(f"return arguments[0].map(n => {find})", names)


def wait_for(browser, script, *arguments):
    latest = time.monotonic() + SECONDS
    while not (answer := browser.execute_script(script, *arguments)):
        assert time.monotonic() < latest, script
        time.sleep(0.05)
    return answer


def test_nothing_is_logged_and_nothing_leaves_the_file(browser, page):
    for kind in ("browser", "performance"):
        browser.get_log(kind)  # of before: the browser's own first page
    browser.get(page)
    move_to(browser, 200)
    assert browser.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requests = [m["params"]["request"]["url"] for m in messages if "request" in m["params"]]
    assert page in requests
    inside = ("data:", "chrome:")  # the browser's own pages may still load their pictures
    assert [url for url in requests if url != page and not url.startswith(inside)] == []


@pytest.mark.parametrize("threshold", [RECORDED, 0.2, 0.8])
def test_the_slider_gives_the_scores_of_its_threshold(shown, threshold):
    grid = shown.execute_script("return JSON.parse(data.textContent).thresholds")
    if threshold != RECORDED:
        move_to(shown, int(np.argmin(np.abs(np.array(grid) - threshold))))
    value = shown.find_element(By.ID, "threshold-value").text
    assert float(value) == pytest.approx(threshold, abs=5e-4)
    assert float(scores_of(shown)[0]) == pytest.approx(f1_of(draw_images(), threshold), abs=1e-3)
    shown.find_element(By.ID, "recorded").click()
    assert float(scores_of(shown)[0]) == pytest.approx(f1_of(draw_images(), RECORDED), abs=1e-3)


def test_the_slider_draws_the_picture_anew(shown):
    name, images = "eye1", list(draw_images())
    image = next(image for image in images if image.id == name)
    section = f"document.querySelector('[aria-label=\"Image {name}\"]')"
    shown.execute_script(f"{section}.scrollIntoView()")
    read = (
        f"const c = {section}.querySelector('.prediction canvas'); if (!c) return null;"
        f"if ({section}.drawn !== arguments[0]) return null;"
        "const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
        "return [...d].filter((_, i) => i % 4 === 0)"
    )
    for place, threshold in ((51, 0.2), (204, 0.8)):
        move_to(shown, place)
        pixels = np.reshape(wait_for(shown, read, place), image.truth.shape)
        expected = (image.prediction >= np.float32(threshold)) & image.inside
        assert ((pixels > 0) == expected).all()


def test_keys_choose_the_layer_and_the_image(shown):
    body = shown.find_element(By.TAG_NAME, "body")
    body.send_keys("2")
    assert shown.find_element(By.ID, "view-truth").is_selected()
    visible = "return getComputedStyle(document.querySelector('.stack .truth')).visibility"
    assert shown.execute_script(visible) == "visible"
    body.send_keys("1")
    assert shown.execute_script(visible) == "hidden"
    body.send_keys("]")
    value = int(shown.find_element(By.ID, "threshold").get_attribute("value"))
    assert value == shown.execute_script("return JSON.parse(data.textContent).place") + 1
    body.send_keys("j")
    assert shown.execute_script("return document.activeElement.className") == "image"


def test_all_that_acts_is_reached_by_tab(shown):
    reached = set()
    for _ in range(40):
        shown.switch_to.active_element.send_keys("\ue004")  # Tab
        reached.add(shown.execute_script("return document.activeElement.id"))
    assert {"view-errors", "blend", "threshold", "recorded"} <= reached


@pytest.mark.parametrize("width", [320, 390, 1200])
def test_nothing_is_wider_than_the_window(shown, width):
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    shown.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        widths = "return [document.documentElement.scrollWidth, innerWidth]"
        page_width, window_width = shown.execute_script(widths)
        assert page_width <= window_width == width
    finally:
        shown.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_dark_paper_is_dark(shown):
    colour = "return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
    brightness = {}
    for scheme in ("light", "dark"):
        feature = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        shown.execute_cdp_cmd("Emulation.setEmulatedMedia", feature)
        brightness[scheme] = sum(shown.execute_script(colour)[:3])
    assert brightness["dark"] < 150 < 600 < brightness["light"]


def test_a_print_shows_all_layers(shown):
    shown.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        seen = "getComputedStyle(f).visibility === 'visible' && f.getBoundingClientRect().width > 0"
        layers = "document.querySelector('.stack').querySelectorAll('figure:not(.inside)')"
        assert shown.execute_script(f"return [...{layers}].map(f => {seen})") == [True] * 5
        bar = "return getComputedStyle(document.querySelector('.bar')).display"
        assert shown.execute_script(bar) == "none"
    finally:
        shown.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_it_works_without_javascript(page, tmp_path):
    driver = open_browser(tmp_path, has_scripts=False)
    try:
        driver.get(page)
        assert driver.find_element(By.CSS_SELECTOR, "p.needs-script").is_displayed() is False
        text = driver.find_element(By.TAG_NAME, "main").text
        for image in draw_images(NUM_IMAGES):
            assert f"{f1_of([image], RECORDED):.4f}" in text
        errors = driver.find_element(By.CSS_SELECTOR, ".stack .errors")
        truth = driver.find_element(By.CSS_SELECTOR, ".stack .truth")
        assert errors.is_displayed() and not truth.is_displayed()
        driver.find_element(By.ID, "view-truth").click()  # style alone switches the layers
        assert truth.is_displayed() and not errors.is_displayed()
    finally:
        driver.quit()
