"""The built site: without warnings, complete, and in real Chromium from a server and from files.

The browser's tests need Chromium, as Debian's package ``chromium`` has it, and are skipped where
there is none. About 60 s in the second tier.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote

import pytest
from browsing import in_chromium

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.ci


class Links(HTMLParser):
    """What a page loads, where its links lead, and the anchors that it has."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.linked: list[str] = []
        self.anchors: set[str] = set()
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.linked.append(given["href"])
        elif tag == "link" and given.get("rel") not in {"canonical", "next", "prev"}:
            self.loaded.append(given.get("href", ""))
        elif "src" in given:
            self.loaded.append(given["src"])


@pytest.fixture(scope="module")
def built(made_once) -> Path:
    """The folder of the site; not to be changed."""

    def make(folder: Path) -> None:
        words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder / "site"]
        environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
        ran = subprocess.run(
            words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        (folder / "code").write_text(str(ran.returncode))
        (folder / "log").write_text(ran.stdout + ran.stderr)

    return made_once("site of the documentation", make)


@pytest.fixture(scope="module")
def pages(built) -> dict[Path, Links]:
    return {file: Links(file) for file in (built / "site").rglob("*.html")}


def test_it_is_built_without_a_warning(built):
    log = (built / "log").read_text()
    assert (built / "code").read_text() == "0", log
    assert "WARNING" not in log
    assert "ERROR" not in log


def test_every_link_leads_to_a_page_and_an_anchor(pages):
    assert len(pages) > 50
    for file, links in pages.items():
        if file.name == "404.html":  # its links are absolute, as it is shown anywhere
            continue
        for target in links.linked + links.loaded:
            if "://" in target or target.startswith(("mailto:", "data:")):
                continue
            place, _, anchor = target.partition("#")
            aim = (file.parent / unquote(place)).resolve() if place else file
            aim = aim / "index.html" if aim.is_dir() else aim
            assert aim.exists(), (file.name, target)
            if anchor and not anchor.startswith("__"):
                assert unquote(anchor) in pages[aim].anchors, (file.name, target)


def test_no_page_loads_anything_from_elsewhere(built, pages):
    for file, links in pages.items():
        assert not [each for each in links.loaded if "//" in each], file.name
    for file in (built / "site" / "assets").rglob("*"):
        if file.suffix in {".css", ".svg"}:
            text = file.read_text(encoding="utf-8")
            assert "url(http" not in text.replace('"', "").replace("'", ""), file.name
            assert "@import" not in text, file.name


@pytest.fixture(params=["a server", "files"])
def place(request, built) -> Iterator[str]:
    """Where the site is: on a server of loopback, or in a folder."""
    folder = built / "site"
    if request.param == "files":
        yield folder.as_uri()
        return
    handler = partial(SimpleHTTPRequestHandler, directory=folder)
    handler.log_message = lambda *_: None
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def opened(browser, place) -> Iterator[Callable[..., object]]:
    """Open a page; in the end, nothing may have been asked of elsewhere, and nothing gone wrong."""
    contexts, wrong = [], []

    def asked(request: object) -> None:
        if not request.url.startswith((place, "data:", "blob:", "about:")):
            wrong.append(request.url)

    def open_page(name: str, **options: object) -> object:
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("request", asked)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda told: wrong.append(told.text) if told.type == "error" else None)
        page.goto(f"{place}/{name}")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not wrong, wrong


@in_chromium
def test_search_finds_pages(opened):
    page = opened("index.html")
    page.click("input.md-search__input")
    page.keyboard.type("fingerprint")
    found = page.locator("a.md-search-result__link")
    found.first.wait_for(timeout=30_000)
    links = [each.get_attribute("href") for each in found.all()]
    assert any("cache" in link or "concepts" in link or "layout" in link for link in links), links
    page.locator("a.md-search-result__link[href*='h=fingerprint']").first.click()
    page.wait_for_url(lambda url: "h=fingerprint" in url)


@in_chromium
def test_dark_mode_is_that_of_the_system_and_can_be_changed(opened):
    def brightness(page: object) -> float:
        shade = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(map(float, shade[shade.index("(") + 1 : -1].split(",")[:3])) / 3

    dark = opened("concepts.html", color_scheme="dark")
    light = opened("concepts.html", color_scheme="light")
    assert brightness(dark) < 60
    assert brightness(light) > 200
    dark.locator("label[title='Light mode']").click()
    dark.wait_for_function("document.body.dataset.mdColorScheme === 'default'")
    assert brightness(dark) > 200


@in_chromium
@pytest.mark.parametrize(
    "name", ["index.html", "concepts.html", "how/keras.html", "reference.html", "python.html"]
)
def test_a_narrow_screen_shows_all_without_scrolling_sideways(opened, name):
    page = opened(name, viewport={"width": 400, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    assert page.locator("h1").first.is_visible()
    sizes = page.evaluate("[...document.images].map(each => each.getBoundingClientRect().right)")
    assert all(right <= 400 for right in sizes)


@in_chromium
def test_every_picture_is_shown(opened):
    for name in ("index.html", "concepts.html", "how/serve.html", "performance.html"):
        page = opened(name)
        page.wait_for_load_state("load")
        assert page.evaluate("[...document.images].every(each => each.naturalWidth > 50)"), name
