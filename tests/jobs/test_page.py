"""The page in a real Chromium: no network, no console errors, every control, a phone's width, hostile names."""

import json
import re
import shutil
from pathlib import Path

import pytest

from svdstory.jobs.cli.options import Asked
from svdstory.jobs.report import page as page_module
from svdstory.jobs.report.cells import read_study
from svdstory.jobs.report.reduce import reduce
from svdstory.jobs.study.command_line import command
from svdstory.jobs.study.scores import Shard, image_hashes, images_digest
from svdstory.jobs.study.store import Attempt, Store
from tests.jobs.synthetic import Stated, score, synthetic_run

ROUNDED_TWICE = 0.29252  # 0.293; by way of 0.2925, which a float is a little less than, 0.292

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed (pip install selenium)")


@pytest.fixture(scope="module")
def browser():
    """Debian's Chromium."""
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip("chromium or chromedriver not installed: tests/setup.sh does that")
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for option in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1300,1000"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    driver.set_page_load_timeout(60)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two sets, four methods, two seeds; one failed cell; a set whose names would break a careless page."""
    run = tmp_path_factory.mktemp("page") / "run"
    run.mkdir()
    hostile = run / "hostile.yaml"
    hostile.write_text(
        "name: '</script><script>window.broken=1</script>'\nstyle: A <b>photo</b> of\n"
        'subject: a fox & "hound"\nconcept: fox\nwhy: "<img src=x onerror=\'window.broken=1\'>"\n'
        "settings: [in <i>snow</i>, 'in ''sand''']\n"
    )
    plan = synthetic_run(
        run,
        sets=("blue-bus", "red-fox", str(hostile)),
        methods=("sdxl", "consistory", "svd-log", "svd-log2"),
        seeds=(0, 1),
    )
    score(run, plan, "clipscore:tiny", {"clipscore": 0.7})
    score(run, plan, "dreamsim", {"dreamsim_subject": 0.4})
    shard = Shard(run)
    for key in (c.key for c in plan.cells if c.method == "sdxl"):
        images = images_digest(image_hashes(Store(run).manifest(key)))
        shard.add(key, Stated("dreamsim"), images, {"dreamsim_subject": ROUNDED_TWICE})
    shard.publish()
    failed = next(c.key for c in plan.cells if (c.set, c.method, c.seed) == ("blue-bus", "svd-log", 1))
    shutil.rmtree(Store(run).folder(failed))
    Store(run).record_failure(failed, "out of memory", "trace", Attempt.here())
    reduce(run)
    return run


@pytest.fixture
def page(browser, run):
    """The page, freshly loaded; after the test nothing may have gone wrong."""
    browser.set_window_size(1300, 1000)
    load(browser, run / "report" / "index.html")
    yield browser
    assert errors(browser) == []
    assert not browser.execute_script("return window.broken")


def load(browser, path: Path) -> None:
    browser.get_log("performance"), browser.get_log("browser")
    browser.get(path.as_uri())
    wait(browser, "return document.querySelectorAll('#rows .row').length > 1")


def wait(browser, script: str) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 30).until(lambda driver: driver.execute_script(script), script)


def errors(browser) -> list[str]:
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]


def texts(browser, selector: str) -> list[str]:
    return [e.text for e in browser.find_elements("css selector", selector)]


def press(browser, key: str) -> None:
    from selenium.webdriver import ActionChains, Keys

    ActionChains(browser).send_keys(getattr(Keys, key)).perform()


def test_nothing_is_asked_of_the_network(page):
    messages = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    asked = {m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"}
    assert asked and all(url.startswith(("file:", "data:")) for url in asked)


def test_rows_are_methods_and_both_seeds_stand_side_by_side(page):
    labels = [text.split("\n")[0] for text in texts(page, "#rows .label")]
    assert labels == ["SDXL", "ConsiStory", "SVD log", "SVD log²"]
    assert len(page.find_elements("css selector", "#rows .cell img")) == 7 * 3  # one of 8 cells is a hole
    assert page.execute_script("return [...document.querySelectorAll('#rows img')].every(i => i.naturalWidth > 0)")


def test_a_hole_says_its_cause(page):
    assert texts(page, "#rows .hole") == ["failed: out of memory"]


def test_sets_change_by_choice_button_and_key(page):
    from selenium.webdriver.support.ui import Select

    Select(page.find_element("id", "set")).select_by_visible_text("red-fox")
    wait(page, "return document.querySelector('#about-set b').textContent.includes('fox')")
    page.find_element("id", "previous").click()
    wait(page, "return document.querySelector('#about-set b').textContent.includes('bus')")
    press(page, "ARROW_RIGHT")
    wait(page, "return document.querySelector('#about-set b').textContent.includes('fox')")


def test_methods_and_seeds_can_be_chosen(page):
    page.find_element("css selector", "#method-box summary").click()
    page.find_element("xpath", "//div[@id='methods']//button[text()='svd']").click()
    wait(page, "return document.querySelectorAll('#rows .label').length === 2")
    assert texts(page, "#method-count") == ["2 of 4 methods"]
    page.find_element("xpath", "//span[@id='seeds']//input").click()
    wait(page, "return document.querySelectorAll('#rows .row:not(.heads) .strip').length === 2")


def test_hovering_tells_the_numbers(page):
    from selenium.webdriver import ActionChains

    ActionChains(page).move_to_element(page.find_element("css selector", "#rows .cell")).perform()
    tip = page.find_element("id", "tip").text
    assert "A photo of a blue bus driving down the street" in tip and "seed 0" in tip
    assert "CLIPScore, tiny: 0.7" in tip and "DreamSim distance (subject): 0.293" in tip


def test_a_click_enlarges_with_the_command_that_makes_it_again(page):
    page.find_element("css selector", "#rows .cell").click()
    wait(page, "return document.getElementById('large-image').naturalWidth === 128")
    assert "/units/" in page.find_element("id", "large-image").get_attribute("src")
    command = page.find_element("css selector", "#large code").text
    assert command.startswith(
        "svdstory run synthetic.yaml --model tiny --steps 12 --size 128x128 --dtype float32 "
        "--set guidance=5 --set scheduler=ddim --sets blue-bus --methods sdxl --seeds 0 --out again-"
    )
    press(page, "ARROW_RIGHT")
    assert "in the desert" in page.find_element("id", "large-text").text
    press(page, "ESCAPE")
    assert not page.find_element("id", "large").is_displayed()


def test_the_table_can_be_sorted_and_shows_groups(page):
    assert texts(page, "#table .tabs button") == ["all sets", "bad sets", "good sets", "run sets"]
    first = texts(page, "#table tbody tr td:first-child")
    page.find_element("css selector", "#table thead th:nth-child(2) button").click()
    page.find_element("css selector", "#table thead th:nth-child(2) button").click()
    assert texts(page, "#table tbody tr td:first-child") == first[::-1]  # consistency worsens with the method


def test_the_table_says_what_the_report_says(page, run):
    table = (run / "report" / "report.md").read_text().partition("| method |")[2].partition("\n\n")[0].splitlines()[2:]
    reported, shown = (
        [re.findall(r"[\d.]+ \[[\d., ]*\]", row) for row in rows] for rows in (table, texts(page, "#table tbody tr"))
    )
    assert reported[0][0].startswith("0.293 [") and shown == reported
    row = page.execute_script("return numberCell([0.6, 0.5, 0.7, -0.0004, -0.0006, 0.2, null], 1).outerHTML")
    assert ">+0.000<" in row and "[−0.001, +0.200]" in row


def test_names_of_users_are_text_not_markup(page):
    page.find_element("id", "previous").click()
    wait(page, "return document.querySelector('#about-set b').textContent.includes('<b>photo</b>')")
    assert "<img src=x" in page.find_element("id", "about-set").text
    assert page.execute_script("return document.querySelectorAll('#about-set img, #rows b, #rows i').length") == 0


@pytest.mark.parametrize("width, height", [(1440, 900), (390, 844)])
def test_the_first_screen_shows_one_grid_and_then_tells_without_a_word_of_statistics(page, width, height):
    screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    try:
        rows = page.find_elements("css selector", "#opening .line")
        assert [row.find_element("css selector", ".label").text for row in rows[1:]] == [
            "plain SDXL",
            "ConsiStory",
            "SVD log",
            "SVD log²",
        ]
        assert rows[-1].location["y"] + rows[-1].size["height"] < height
        assert page.find_element("css selector", ".told h2").location["y"] < height
        assert page.execute_script(
            "return [...document.querySelectorAll('#opening img')].every(i => i.naturalWidth > 0)"
        )
        words = page.find_element("id", "opening").text
        assert not any(w in words for w in ("Holm", "p =", "Wilcoxon", "bootstrap")) and "is better" not in words
        assert "too few to rule out chance" in words and "how different the subject looks" in words
        assert page.execute_script("return document.documentElement.scrollWidth") <= width
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_openings_pictures_grow_by_a_click_and_its_numbers_tell_the_test_behind_them(page):
    page.find_element("css selector", "#opening .cell").click()
    wait(page, "return document.getElementById('large-image').naturalWidth === 128")
    assert "SDXL (sdxl), seed " in page.find_element("id", "large-text").text
    press(page, "ESCAPE")
    told = page.find_element("css selector", ".told small").get_attribute("title")
    assert told.startswith("plain SDXL − ConsiStory: ") and "Holm-corrected p = " in told


def test_without_scripts_the_opening_is_all_there(run):
    page = (run / "report" / "index.html").read_text().partition('<section id="numbers">')[0]
    assert page.count("data:image/webp;base64,") == 4 * 4 and "ConsiStory" in page


def test_the_command_can_be_pasted_in_any_folder(run, tmp_path):
    study = read_study(run)
    own = study.plan.model_copy(update={"file": "/home/me/my exp; rm -rf.yaml"})
    assert command(own).startswith("svdstory run '/home/me/my exp; rm -rf.yaml' --model tiny ")
    mine = tmp_path / "my exp.yaml"
    mine.write_text("sets: [red-fox]\nmethods: [sdxl]\nmodel: tiny\n")
    assert Asked(experiment=str(mine)).plan()[0].file == str(mine.resolve())
    assert Asked(experiment="demo").plan()[0].file == ""


def test_a_phones_width_is_enough(page):
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    )
    try:
        assert page.execute_script("return document.documentElement.scrollWidth") <= 390
        assert page.find_element("css selector", "#rows .cell img").size["width"] > 90
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_dark_is_dark(page):
    try:
        page.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
        )
        assert page.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(23, 22, 21)"
    finally:
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_the_page_alone_still_shows_its_thumbnails(browser, run, tmp_path):
    shutil.copy(run / "report" / "index.html", tmp_path / "mailed.html")
    load(browser, tmp_path / "mailed.html")
    browser.find_element("css selector", "#rows .cell").click()
    wait(
        browser,
        "return document.getElementById('large-image').src.startsWith('data:') && "
        "document.getElementById('large-image').naturalWidth > 0",
    )


def test_a_large_run_loads_a_sets_thumbnails_when_it_is_chosen(browser, run, tmp_path, monkeypatch):
    shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "report")
    monkeypatch.setattr(page_module, "INLINE", 0)
    reduce(tmp_path / "run", figures=["comparison"])
    path = tmp_path / "run" / "report" / "index.html"
    assert b'id="thumbs-0"' not in path.read_bytes()
    load(browser, path)
    wait(browser, "return [...document.querySelectorAll('#rows img')].some(i => i.naturalWidth > 0)")
    assert errors(browser) == []
