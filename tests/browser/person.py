"""A person with a browser: opens pages, acts by their dialogs, and keeps what the browser complained of."""

import re
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import BrowserContext, ConsoleMessage, Dialog, Locator, Request, Response, expect

from api.credentials import SIGN_IN, offer_sign_in
from tests.conftest import WAIT_S
from tests.integration.api.front import Front

HOME = "/console"
LIST = f"{HOME}/withdrawals"
HERE = "127.0.0.1"
AXE = Path(__file__).parent / "axe" / "axe.min.js"
expect.set_options(timeout=WAIT_S * 1_000)


class Person:
    """Somebody who looks at pages in a window.

    Args:
        front: the stack.
        context: what the browser knows of this person: cookies, theme, size of the window.

    Attributes:
        page: the window.
        complaints: errors and warnings of the browser (also of a broken Content-Security-Policy), questions that a
            script of a page asked, and requests that went elsewhere.
    """

    def __init__(self, front: Front, context: BrowserContext) -> None:
        self.front = front
        self.context = context
        self.complaints: list[str] = []
        self.loads = 0
        context.set_default_timeout(WAIT_S * 1_000)
        context.on("console", self._said)
        context.on("weberror", lambda found: self.complaints.append(str(found.error)))
        context.on("request", self._asked)
        context.on("dialog", self._was_questioned)
        self.page = context.new_page()

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def _asked(self, request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in ("data", "about") and parts.hostname != HERE:
            self.complaints.append(f"a request to {request.url}")
        self.loads += request.is_navigation_request()

    def _was_questioned(self, dialog: Dialog) -> None:
        self.complaints.append(f"a script says {dialog.message}")
        dialog.dismiss()

    def allows(self, *patterns: str) -> None:
        """Complaints that a test means to cause; without one of them it has not caused it."""
        for pattern in patterns:
            left = [one for one in self.complaints if not re.search(pattern, one)]
            assert left != self.complaints, f"nothing is like {pattern}: {self.complaints}"
            self.complaints = left

    def signs_in(self, role: str, name: str = "alice") -> None:
        """With a link of one's own."""
        self.open(f"{SIGN_IN}?token={offer_sign_in(self.front.dsns['api'], name, role)}")

    def open(self, path: str, status: int = 200) -> Response:
        """Go to a page, by its path or the whole link."""
        url = path if "://" in path else f"{self.front.stack.state.api_url}{path}"
        answer = self.page.goto(url)
        assert answer is not None
        assert answer.status == status, answer.text()
        return answer

    @property
    def path(self) -> str:
        """What the address bar shows, behind the host."""
        parts = urlsplit(self.page.url)
        return f"{parts.path}?{parts.query}" if parts.query else parts.path

    @property
    def main(self) -> Locator:
        return self.page.locator("main")

    @property
    def state(self) -> Locator:
        """The state of the withdrawal whose page is open."""
        return self.page.locator(".standing .state")

    def sees(self, text: str) -> None:
        """Wait until the page says something."""
        expect(self.main).to_contain_text(text)

    def offers(self) -> set[str]:
        """The dialogs that buttons of the page open."""
        return {str(one.get_attribute("data-opens")) for one in self.page.locator("[data-opens]").all()}

    def acts(self, name: str, **fields: str) -> str:
        """Fill in a dialog and confirm it; the answer in words."""
        self.page.locator(f"[data-opens={name}]:enabled").first.click()
        dialog = self.page.locator(f"dialog#{name}")
        for field, text in fields.items():
            dialog.locator(f"[name={field}]").fill(text)
        dialog.locator("[data-confirms]").click()
        cause = dialog.locator(".answer .cause")
        answer = cause.inner_text()
        # What was done is seen on the page: it is loaded anew once the dialog closes.
        is_done = dialog.locator("form[data-acts][data-done=yes]").count() > 0
        is_again = dialog.get_attribute("data-then-again") is not None and "t-ok" in (
            cause.get_attribute("class") or ""
        )
        with self.page.expect_navigation() if is_done or is_again else nullcontext():
            dialog.locator("[data-closes]").click()
        return answer

    def calls(self, path: str, body: dict[str, Any]) -> int:
        """The status of a POST by a script of the open page, with its cookie."""
        script = """([path, body]) => fetch(path, {method: "POST", body: JSON.stringify(body),
            headers: {"Content-Type": "application/json"}}).then(answer => answer.status)"""
        return int(self.page.evaluate(script, [path, body]))

    def barriers(self) -> list[str]:
        """What keeps people out of the open page, as axe-core finds it: serious and critical findings."""
        found = self.page.evaluate(
            f"() => {{ {AXE.read_text()}; return axe.run({{resultTypes: ['violations']}}); }}"
        )
        return [
            f"{one['id']} at {node['target']}: {node['failureSummary']}"
            for one in found["violations"]
            if one["impact"] in ("serious", "critical")
            for node in one["nodes"]
        ]

    def leaves(self) -> None:
        """Close the window."""
        self.context.close()
