"""Do the pages work in a browser: everything loads, the keyboard moves them, axe finds nothing serious?"""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import CHROMIUM, TEST_SECONDS, Page, browser_page
from recorded_runs import record_run

from dbrun.store.store import Store
from dbrun.ui.report.compare_page import render_comparison
from dbrun.ui.report.record import RunReader
from dbrun.ui.report.run_page import render_run

AXE = Path(os.environ.get("DBRUN_AXE", "/nowhere"))
"""axe-core's axe.min.js, from npm."""
RIGHT, LEFT = ("ArrowRight", 39), ("ArrowLeft", 37)
SERIOUS = ("axe.run().then(found => found.violations.filter(one => ['serious', 'critical'].includes(one.impact))"
           ".map(one => one.id + ' ' + one.nodes.map(node => node.html.slice(0, 120)).join(' | ')))")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (apt-get install chromium)")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Name of a page → its address."""
    folder = tmp_path_factory.mktemp("pages")
    store = Store(folder / "store")
    store.prepare()
    runs = [record_run(store, f"dog-{i}", number=i, rate=1e-3 * (i + 1)) for i in range(6)]
    failed = {"event": "run_failed", "message": "out of memory", "fix": "lower `train.batch_size`", "exit_code": 1}
    reader = RunReader(store)
    words = '<img src=x onerror="document.title=1">'
    texts = {"run": render_run(reader, runs[0]), "sweep": render_comparison(store, runs),
             "failed": render_run(reader, record_run(store, number=7, end=failed, exported=False)),
             "live": render_run(reader, runs[0], state="running", live=1, written=1),
             "words": render_run(reader, record_run(store, number=8, caption=words, file=words, prompts=(words, "b")))}
    for name, text in texts.items():
        (folder / f"{name}.html").write_text(text)
    return {name: (folder / f"{name}.html").as_uri() for name in texts}


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with browser_page() as page:
        yield page


def look_at(page: Page, address: str) -> None:
    """Open a page, and check that nothing is missing and nothing complains."""
    page.complaints.clear()
    page.open(address)
    assert page.run("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert page.run("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out at the right"
    assert page.complaints == []


@pytest.mark.slow
def test_pages_load_on_every_screen(page: Page, pages: dict[str, str]) -> None:
    # 320 pixels: what WCAG 2.1 (1.4.10, reflow) asks for
    for width in (1280, 360, 320):
        page.call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False)
        for name in ("run", "sweep", "failed", "words"):
            look_at(page, pages[name])
    page.call("Emulation.clearDeviceMetricsOverride")


@pytest.mark.slow
def test_the_keyboard_moves_the_sliders(page: Page, pages: dict[str, str]) -> None:
    look_at(page, pages["run"])
    first = "document.querySelector('#previews figure img')"
    page.run("document.getElementById('preview-step').focus()")
    before = page.run(f"{first}.src")
    page.press(*LEFT)
    assert page.run(f"{first}.alt") == "After step 15: a photo of sks dog" and page.run(f"{first}.src") != before
    page.press(*RIGHT)
    assert page.run(f"{first}.src") == before
    page.run("document.getElementById('loss-step').focus()")
    page.press(*LEFT)
    assert page.run("document.querySelector('#losses output').textContent").startswith("step 19: instance 0.")
    page.run("document.querySelector('#previews button').focus()")
    page.press("Enter", 13)
    page.run("document.querySelector('#previews button').click()")
    assert page.run("document.querySelectorAll('#all-previews img').length") == 8
    assert page.complaints == []


@pytest.mark.slow
def test_a_live_page_keeps_its_place(page: Page, pages: dict[str, str]) -> None:
    """The slider, an open fold and the place on the page; and the words of users do nothing."""
    page.open(pages["live"])
    page.run("window.before = 1; document.getElementById('preview-step').value = 1;"
             "document.getElementById('resolved').open = true; scrollTo(0, 700)")
    ready = "window.before === undefined && document.readyState === 'complete'"
    until = time.monotonic() + TEST_SECONDS
    while not page.run(ready):
        assert time.monotonic() < until, "it has not read itself again"
        time.sleep(0.1)
    assert page.run("document.getElementById('preview-step').value") == "1"
    assert page.run("document.getElementById('resolved').open") and page.run("scrollY") == 700
    look_at(page, pages["words"])
    assert page.run("document.title").startswith("dog")


@pytest.mark.slow
@pytest.mark.skipif(not AXE.is_file(), reason="axe-core is not there (npm pack axe-core; DBRUN_AXE=…/axe.min.js)")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(page: Page, pages: dict[str, str], scheme: str) -> None:
    page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    for name in ("run", "sweep", "failed"):
        page.open(pages[name])
        page.run(AXE.read_text() + "; 1")
        assert page.run(SERIOUS) == [], name
