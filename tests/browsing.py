"""Chromium, Debian's package of that name, for the tests of pages; they are skipped without it."""

import os
import shutil
from collections.abc import Iterator

import pytest

_CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
in_chromium = pytest.mark.skipif(
    _CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    """Chromium, as Playwright's browser."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    with sync_api.sync_playwright() as started:
        root = ["--no-sandbox"] * (os.geteuid() == 0)
        chromium = started.chromium.launch(executable_path=_CHROMIUM, args=root)
        yield chromium
        chromium.close()
