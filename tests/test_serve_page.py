"""The server's pages in real Chromium: images that are dropped, a token, contrast, narrow screens.

All need Chromium, as for ``test_report_page.py``. About 20 s in the second tier.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from conftest import crops
from served import Running
from test_report_page import CONTRAST, FILES, pytestmark  # noqa: F401 - for all tests

from bottleneck import Head

TOKEN = "0123456789abcdef"
EXPECTED = re.compile(r"status of 4\d\d|net::ERR_CONNECTION_REFUSED")
"""What Chromium's console says of images that are refused, and of a server that has ended."""


@pytest.fixture
def opened(browser) -> Iterator[Callable[..., object]]:
    """Open a page of a server; nothing may be asked of others, and nothing go wrong."""
    contexts, wrong = [], []

    def open_page(server: Running, path: str = "/", **options: object) -> object:
        options = {"viewport": {"width": 1200, "height": 900}} | options
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        own = f"http://127.0.0.1:{server.port}/"
        page.on(
            "console",
            lambda told: None if EXPECTED.search(told.text) else wrong.append(told.text),
        )
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "request",
            lambda asked: None if asked.url.startswith((own, "data:")) else wrong.append(asked.url),
        )
        page.goto(own + path.removeprefix("/"))
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not wrong, wrong


@pytest.fixture
def files(tmp_path) -> list[str]:
    """Images with hostile names, and one that is none."""
    found = []
    for name, image in zip(FILES[:4], crops(4), strict=True):
        image.save(tmp_path / name)
        found.append(str(tmp_path / name))
    (tmp_path / "broken.png").write_bytes(b"no image")
    return [*found, str(tmp_path / "broken.png")]


def choose(page, files: list[str]) -> list[str]:
    """Choose images one after another; return what is told of each, the first one first."""
    page.locator("#files").set_input_files(files)
    page.locator(".result").filter(has=page.locator(".answer, .bad")).nth(len(files) - 1).wait_for()
    return page.locator(".result").all_inner_texts()[::-1]


def test_images_are_answered_with_bars(serving, opened, files):
    page = opened(serving("h"))
    told = choose(page, files)
    assert "This image cannot be used: not an image in a known format" in told[-1]
    assert "<script>" in told[0]
    assert page.evaluate("() => window.hacked") is None
    for text in told[:-1]:
        assert "cat" in text
        assert "dog" in text
        assert "Novelty" in text
    result = page.locator(".result").last
    shares = [float(each.rstrip("%")) for each in result.locator("dd").all_inner_texts()]
    assert sum(shares) == pytest.approx(100, abs=0.2)
    assert shares == sorted(shares, reverse=True)
    widths = result.locator(".bar i").evaluate_all(
        "found => found.map((each) => each.offsetWidth / each.parentElement.offsetWidth)"
    )
    assert widths == pytest.approx([share / 100 for share in shares], abs=0.02)
    assert result.locator("img").evaluate("each => each.naturalWidth") == 48
    assert result.locator(".answer").inner_text() == result.locator("dt").first.inner_text()


def test_classes_that_are_numbers_are_in_the_order_of_their_probabilities(
    serving, served_heads, opened, files, tmp_path
):
    head = replace(Head.load(served_heads / "h"), classes=("1", "2"))
    head.save(tmp_path / "up")
    exchanged = {name: each[::-1].copy() for name, each in head.model.arrays.items()}
    replace(head, model=replace(head.model, **exchanged)).save(tmp_path / "down")
    page = opened(serving(tmp_path / "up", tmp_path / "down"))
    choose(page, files[:1])
    first = page.locator(".bars").evaluate_all(
        "found => found.map((each) => each.querySelector('dt').textContent)"
    )
    assert first == page.locator(".answer").all_inner_texts()
    assert set(first) == {"1", "2"}


def test_images_are_dropped(serving, opened):
    page = opened(serving("h", "early"))
    dropped = page.evaluate_handle(
        """async () => {
          const canvas = new OffscreenCanvas(64, 64);
          canvas.getContext('2d').fillRect(8, 8, 20, 20);
          const data = new DataTransfer();
          const drawn = await canvas.convertToBlob();
          data.items.add(new File([drawn], 'drawn.png', {type: 'image/png'}));
          return data;
        }"""
    )
    page.dispatch_event("#drop", "dragover", {"dataTransfer": dropped})
    assert page.locator("#drop.over").count() == 1
    page.dispatch_event("#drop", "drop", {"dataTransfer": dropped})
    page.locator(".answer").nth(1).wait_for()
    text = page.locator(".result").inner_text()
    assert "drawn.png" in text
    assert "Head h" in text
    assert "Head early" in text
    assert page.locator("#drop.over").count() == 0


def test_the_page_asks_for_a_token(serving, opened, files):
    page = opened(serving("h", "--token", TOKEN))
    page.locator("#files").set_input_files(files[:1])
    page.locator("#secret").fill("wrong, but long enough")
    page.keyboard.press("Enter")
    page.get_by_text("This server asks for a token.").wait_for()
    page.locator("#secret").fill(TOKEN)
    page.get_by_role("button", name="Use this token").click()
    page.locator(".answer").wait_for()
    assert not page.locator("#token").is_visible()
    assert page.locator(".result").count() == 1


def test_a_server_that_has_ended_is_told(serving, opened, files):
    server = serving("h")
    page = opened(server)
    server.process.terminate()
    server.process.join()
    page.locator("#files").set_input_files(files[:1])
    page.get_by_text("The server does not answer.").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_keyboard_and_narrow_screens(serving, opened, files, scheme):
    server = serving("h")
    for width in (400, 1200):
        shown = {"color_scheme": scheme, "viewport": {"width": width, "height": 800}}
        page = opened(server, **shown)
        choose(page, files)
        assert page.evaluate(CONTRAST) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.locator("img:not([alt]), img[alt='']").count() == 0
        page.locator("#files").focus()
        assert page.evaluate("() => getComputedStyle(drop).outlineStyle") == "solid"
        docs = opened(
            server, "/docs", color_scheme=scheme, viewport={"width": width, "height": 800}
        )
        for each in docs.locator("summary").all():
            each.click()
        assert docs.evaluate(CONTRAST) == []
        assert docs.evaluate("document.documentElement.scrollWidth") <= width


def test_the_description_has_all_addresses(serving, opened):
    server = serving("h")
    page = opened(server, "/docs")
    text = page.locator("main").inner_text()
    described = server.ask("/openapi.json").content
    assert described["openapi"] == "3.1.0"
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            assert f"{method.upper()} {path}" in text
            assert all(code in text for code in operation["responses"])
    page.get_by_role("link", name="Drop an image").click()
    assert page.locator("#drop").is_visible()
