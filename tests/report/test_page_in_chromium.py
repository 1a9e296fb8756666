"""The report page in a real browser: wide and on a phone, light and dark."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.report.runs import make_comparison, make_run

from svdistill.report import page

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(BROWSER is None or DRIVER is None, reason="no Chromium with its driver here")

# Texts of one figure that lie on each other, as pairs; boxes of letters are a little larger than what is seen of them.
OVERLAPS = """
const found = [];
for (const svg of document.querySelectorAll("figure svg")) {
  if (!svg.getClientRects().length) continue;
  const boxes = [...svg.querySelectorAll("text")].map(t => [t.textContent.trim(), t.getBoundingClientRect()]);
  for (let i = 0; i < boxes.length; i++) for (let j = i + 1; j < boxes.length; j++) {
    const [a, b] = [boxes[i][1], boxes[j][1]];
    const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
    const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
    if (wide > 2 && high > 3) found.push([svg.getAttribute("aria-label"), boxes[i][0], boxes[j][0]]);
  }
}
return found;
"""
# Whatever sticks out of the window to the right; what scrolls inside a box of its own may.
WIDER = """
return [...document.querySelectorAll("body *")].filter(e => {
  const box = e.getBoundingClientRect();
  return box.width && box.right > innerWidth + 1 && !e.closest("pre");
}).map(e => e.tagName + " " + e.textContent.slice(0, 40));
"""
# Letters of figures smaller than 8 pixels.
SMALL = """
return [...document.querySelectorAll("figure svg text")].filter(t => t.getClientRects().length).map(t => {
  const svg = t.closest("svg");
  const size = parseFloat(getComputedStyle(t).fontSize) * svg.clientWidth / svg.viewBox.baseVal.width;
  return [svg.getAttribute("aria-label"), t.textContent, size];
}).filter(found => found[2] < 8);
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with everything on it."""
    folder = tmp_path_factory.mktemp("report")
    make_comparison(folder / "runs", seeds=3)
    for seed in range(2):
        for method in ("alone", "svd", "svd-k2"):
            make_run(folder / "runs", method, seed, size=5000)
    return page.write([folder / "runs"], folder / "report.html").path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A Chromium without a window and without the network."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
    yield driver
    driver.quit()


def show(browser: Any, report: Path, *, width: int, scheme: str) -> None:
    """Open the page as a device of this width shows it."""
    phone = width < 600
    size = {"width": width, "height": 844, "deviceScaleFactor": 2 if phone else 1, "mobile": phone}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    browser.get(report.as_uri())


def colour(browser: Any, selector: str, name: str) -> list[float]:
    """Return a computed colour of an element, red, green, blue."""
    text = browser.execute_script(
        "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]", selector, name
    )
    return [float(part) for part in text[text.index("(") + 1 : text.index(")")].split(",")[:3]]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 768, 390])
def test_fits_and_is_legible(browser: Any, report: Path, width: int, scheme: str) -> None:
    """Nothing is wider than the window, no text lies on another, and text and paper are far apart."""
    show(browser, report, width=width, scheme=scheme)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert browser.execute_script(WIDER) == []
    assert browser.execute_script(OVERLAPS) == []
    paper, ink = colour(browser, "body", "backgroundColor"), colour(browser, "h1", "color")
    assert (sum(paper) > sum(ink)) == (scheme == "light")
    assert abs(sum(paper) - sum(ink)) > 500
    sizes = browser.execute_script(
        "return [...document.querySelectorAll('figure svg')].filter(s => s.getClientRects().length)"
        ".map(s => [s.clientWidth, s.clientHeight])"
    )
    assert len(sizes) > 15
    assert all(wide > 250 and high > 60 for wide, high in sizes)
    letters = browser.execute_script(SMALL)
    assert letters == []


def test_methods_have_their_colour_everywhere(browser: Any, report: Path) -> None:
    """Each legend and each figure takes a method's colour from the page's one variable, resolved in both schemes."""
    seen = []
    for scheme in ("light", "dark"):
        show(browser, report, width=1280, scheme=scheme)
        strokes = browser.execute_script(
            "return [...document.querySelectorAll('.legend line, figure svg path')].map(e => getComputedStyle(e))"
            ".flatMap(s => [s.stroke, s.fill]).filter(c => c !== 'none')"
        )
        assert not [text for text in strokes if "var" in text]
        lines = browser.execute_script(
            "return [...document.querySelectorAll('.legend line')].map(e => getComputedStyle(e).stroke)"
        )
        seen.append(lines)
    assert len(seen[0]) == len(seen[1]) > 5
    assert all(light != dark for light, dark in zip(*seen, strict=True))


def test_asks_nothing_of_the_network(browser: Any, report: Path) -> None:
    """The page is one file, and the browser has nothing to complain about."""
    browser.get_log("performance")
    browser.get_log("browser")
    show(browser, report, width=1280, scheme="light")
    events = [entry["message"] for entry in browser.get_log("performance")]
    requests = [text for text in events if '"Network.requestWillBeSent"' in text]
    assert not [text for text in requests if '"url":"http' in text]
    assert browser.get_log("browser") == []


def test_links_and_details_work(browser: Any, report: Path) -> None:
    """The contents lead to their sections, and the runs unfold without breaking the page's width."""
    show(browser, report, width=390, scheme="light")
    links = browser.execute_script("return [...document.querySelectorAll('nav a')].map(a => a.getAttribute('href'))")
    assert len(links) == 13
    assert browser.execute_script("return arguments[0].every(l => document.querySelector('main ' + l))", links)
    browser.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    assert browser.execute_script(WIDER) == []


def test_prints_light(browser: Any, report: Path) -> None:
    """Paper is white also for those who like the dark, and wide enough for the wide figures."""
    show(browser, report, width=720, scheme="dark")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert colour(browser, "body", "backgroundColor") == [255, 255, 255]
    assert colour(browser, "h1", "color") == [0, 0, 0]
    assert browser.execute_script("return getComputedStyle(document.querySelector('nav')).display") == "none"
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 720
    assert browser.execute_script("return document.querySelector('#training figure svg').clientWidth") > 600
