"""The pictures docs/console-*.png, of a stack of its own with thousands of withdrawals: python docs/console.py."""

import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import httpx
from playwright.sync_api import Browser, sync_playwright

from api.access import OPERATOR
from api.credentials import SIGN_IN, create_key, offer_sign_in
from processors.account.accounts import open_accounts
from producers.client import WithdrawalClient
from producers.load import run_load
from producers.plan import LoadPlan, plan_load
from stack.supervisor import Stack

FOLDER = Path(__file__).parent
ARGUMENTS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking")
WIDTH, HEIGHT, SCALE = 1280, 800, 1.5
ACCOUNTS, BALANCE_MINOR = 400, 1_000_000
EARLIER, RATE = 8_000, 120.0
"""Withdrawals that are finished before, and how many a second are made while the pictures are taken."""

STEADY_S = 15.0
"""Rates are means of ten seconds."""

LIST = "/console/withdrawals"


def main() -> None:
    """Start everything, and take the pictures."""
    with tempfile.TemporaryDirectory(prefix="settle-pictures-") as folder, Stack(Path(folder)) as stack:
        names = [f"acc-{number}" for number in range(1, ACCOUNTS + 1)]
        open_accounts(stack.state.dsns["account"], names, BALANCE_MINOR, "USD")
        with WithdrawalClient(stack.state.kafka_bootstrap) as client, ThreadPoolExecutor(1) as thread:
            plan = LoadPlan(EARLIER, accounts=ACCOUNTS, declined=0.04, insufficient=0.02)
            run_load(client, plan_load(plan), rate=RATE * 10)
            _audit(stack)
            stop = Event()
            more = LoadPlan(10**6, accounts=ACCOUNTS, declined=0.04, insufficient=0.02, seed=2)
            thread.submit(run_load, client, plan_load(more), rate=RATE, stop=stop)
            try:
                time.sleep(STEADY_S)
                _take(stack)
            finally:
                stop.set()


def _audit(stack: Stack) -> None:
    """The verdict that each page has in its frame."""
    key = create_key(stack.state.dsns["api"], "alice", OPERATOR)
    headers = {"Authorization": f"Bearer {key}"}
    with httpx.Client(base_url=stack.state.api_url, headers=headers) as client:
        asked = client.post("/v1/audits", json={"reason": "after the load", "wait_s": 120}).raise_for_status()
        while client.get(asked.headers["location"]).json()["state"] == "running":
            time.sleep(1)


def _take(stack: Stack) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=ARGUMENTS)
        _pictures(stack, browser, "light", {"console-flow": "/console", "console-withdrawals": LIST})
        declined = f"{LIST}?state=compensated"
        _pictures(stack, browser, "light", {"console-withdrawal": declined}, "td.c-id a")
        _pictures(stack, browser, "dark", {"console-flow-dark": "/console"})
        browser.close()


def _pictures(stack: Stack, browser: Browser, theme: str, pages: dict[str, str], link: str = "") -> None:
    """Pages by the names of their pictures, or the first page that they link to so."""
    size = {"width": WIDTH, "height": HEIGHT}
    context = browser.new_context(viewport=size, device_scale_factor=SCALE, color_scheme=theme)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(f"{stack.state.api_url}{SIGN_IN}?token={offer_sign_in(stack.state.dsns['api'], 'alice', OPERATOR)}")
    for name, path in pages.items():
        page.goto(f"{stack.state.api_url}{path}")
        if link:
            page.locator(link).first.click()
            page.wait_for_url(f"**{LIST}/*")
        page.wait_for_timeout(3_000)  # its stream has filled in what took longer than the page
        page.screenshot(path=FOLDER / f"{name}.png")
    context.close()


if __name__ == "__main__":
    main()
