"""A browser without a network, and pages that fail the test when they complain."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-sync",
    "--no-first-run",
]


# Not for the session: Playwright's event loop runs in this thread for as long as it is open.
@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Debian's Chromium, headless, with a fresh profile."""
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium") or shutil.which("chromium-browser")
    assert program is not None, "Chromium is missing; install it with: apt-get install chromium"
    with sync_playwright() as playwright:
        context = playwright.chromium.launch(executable_path=program, headless=True, args=FLAGS)
        yield context
        context.close()


@pytest.fixture
def open_page(browser: Browser, tmp_path: Path) -> Iterator[Callable[[Path], Page]]:
    """Open a file; at the end of the test nothing may have complained or asked for the network.

    With ``QUANTFLOW_TEST_SCREENSHOTS`` set to a directory, each page is photographed there.
    """
    complaints: list[str] = []
    context = browser.new_context(viewport={"width": 1280, "height": 900}, offline=True)

    def start(path: Path) -> Page:
        page = context.new_page()
        page.on(
            "console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None
        )
        page.on("pageerror", lambda error: complaints.append(f"page error: {error}"))
        page.on("requestfailed", lambda request: complaints.append(f"failed: {request.url[:200]}"))
        page.on("request", lambda request: _note_request(request.url, complaints))
        page.goto(path.as_uri(), wait_until="load")
        if directory := os.environ.get("QUANTFLOW_TEST_SCREENSHOTS"):
            page.screenshot(path=Path(directory) / f"{path.stem}.png", full_page=True)
        return page

    yield start
    context.close()
    assert complaints == []


def _note_request(url: str, complaints: list[str]) -> None:
    if not url.startswith(("file:", "data:", "blob:")):
        complaints.append(f"asked for {url[:200]}")
