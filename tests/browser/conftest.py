"""A real browser before one stack: skipped where there is no Chromium."""

import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, sync_playwright

from api.access import VIEWER
from tests.browser.person import Person
from tests.integration.api.conftest import RATE
from tests.integration.api.front import Front, running_with_api

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
STUCK_S = 1.0
WIDE, NARROW = 1440, 390
HEIGHT = 900


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if CHROMIUM is None:
        reason = "no chromium on the path (Debian: apt-get install chromium), and CHROMIUM names none"
        for item in items:
            if item.path.is_relative_to(os.path.dirname(__file__)):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="package")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    variables = {"SETTLE_API_RATE": str(RATE), "SETTLE_STUCK_S": str(STUCK_S), "SETTLE_RETRY_BACKOFF_S": "[3600]"}
    with running_with_api(tmp_path_factory.mktemp("browser"), **variables) as front:
        yield front


@pytest.fixture(scope="package")
def chromium() -> Iterator[Browser]:
    """Gone with the last test of this folder: meanwhile this thread can run no loop of asyncio's own."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def shop(front: Front) -> Iterator[httpx.Client]:
    with front.http(front.key("shop")) as client:
        yield client


@pytest.fixture
def person(front: Front, chromium: Browser) -> Iterator[Callable[..., Person]]:
    """Brings a person of a role, with options of the browser's context; None has not signed in.

    Whatever a browser complains of, and a test did not expect, fails it.
    """
    people: list[Person] = []

    def come(role: str | None = VIEWER, width: int = WIDE, **options: Any) -> Person:
        size = {"width": width, "height": HEIGHT}
        one = Person(front, chromium.new_context(viewport=size, locale="en-GB", **options))
        people.append(one)
        if role is not None:
            one.signs_in(role)
        return one

    yield come
    for one in people:
        one.leaves()
    assert [complaint for one in people for complaint in one.complaints] == []
