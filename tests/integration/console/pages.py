"""Pages as a person gets them: their text, links and streams."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from typing import Any, Self
from uuid import UUID

from api.credentials import offer_sign_in
from tests.conftest import WAIT_S, wait_until
from tests.integration.api.front import Front

HTML = {"Accept": "text/html"}
SAME = {"Sec-Fetch-Site": "same-origin"}
VOID = ("meta", "link", "input", "br", "hr", "img")


class Page(HTMLParser):
    """What a page says, its links, and the elements that it has, each as (tag, attributes)."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self._said: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.text = " ".join("".join(self._said).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag in ("td", "th", "tr", "p", "dt", "dd", "li", "div", "a", "b", "h1", "h2"):
            self._said.append(" ")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open, (tag, self.html)
        assert self._open.pop() == tag, f"{tag} closes another element: {self.html}"

    def handle_data(self, data: str) -> None:
        if not self._open or self._open[-1] not in ("script", "style"):
            self._said.append(data)

    @property
    def is_whole(self) -> bool:
        """Whether every element is closed."""
        return not self._open

    @property
    def links(self) -> list[str]:
        return [about["href"] or "" for tag, about in self.elements if tag == "a" and "href" in about]

    @property
    def buttons(self) -> list[str]:
        """The dialogs that buttons open."""
        return [about["data-opens"] or "" for _, about in self.elements if "data-opens" in about]

    @property
    def stream(self) -> str:
        """The path of its stream."""
        (found,) = [about["sse-connect"] for _, about in self.elements if "sse-connect" in about]
        assert found is not None
        return found

    @property
    def places(self) -> set[str]:
        """The names of the fragments that have a place on it."""
        return {about["sse-swap"] or "" for _, about in self.elements if "sse-swap" in about}


class Pages:
    """Somebody who looks at pages.

    Args:
        front: the stack.
        role: of this person.
        by_session: with a session, as browsers have it, instead of a key.
    """

    def __init__(self, front: Front, role: str, by_session: bool = False) -> None:
        self.front = front
        self.client = front.http(None if by_session else front.key(f"of-{role}", role))
        self.client.headers.update(HTML)
        if by_session:
            token = offer_sign_in(front.dsns["api"], f"of-{role}", role)
            assert self.client.get("/v1/sign-in", params={"token": token, "sure": True}).status_code == 303

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def get(self, path: str, status: int = 200, **options: Any) -> Page:
        answer = self.client.get(path, **options)
        assert answer.status_code == status, answer.text
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        page = Page(answer.text)
        assert page.is_whole
        return page

    def json(self, path: str, **options: Any) -> Any:
        answer = self.client.get(path, headers={"Accept": "application/json"}, **options)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def status(self, path: str) -> int:
        """Of an answer that may be a stream, which does not end."""
        with self.client.stream("GET", path) as answer:
            return answer.status_code

    @contextmanager
    def stream(self, path: str) -> Iterator[Iterator[tuple[str, str]]]:
        """The fragments of a stream, by name, as they come."""
        with self.client.stream("GET", path, headers={"Accept": "text/event-stream"}) as answer:
            assert (answer.status_code, answer.headers["content-type"]) == (
                200,
                "text/event-stream; charset=utf-8",
            )
            yield fragments(answer.iter_lines())


def fragments(lines: Iterator[str]) -> Iterator[tuple[str, str]]:
    """The fragments by name, waited for a bounded time in all: a stream says now and then that it is there."""
    name, data, give_up = "", list[str](), time.monotonic() + WAIT_S
    for line in lines:
        assert time.monotonic() < give_up, "what is waited for does not come"
        field, _, value = line.partition(": ")
        if field == "event":
            name = value
        elif line.startswith("data:"):
            data.append(line.removeprefix("data:").removeprefix(" "))
        elif not line and name:
            if name != "beat":
                given_at = time.monotonic()
                yield name, "\n".join(data)
                give_up += time.monotonic() - given_at
            name, data = "", []


@contextmanager
def without(front: Front, service: str) -> Iterator[Callable[[], None]]:
    """A part of the stack is stopped until the end of the block, or until it is called for."""
    front.stack.stop_service(service)
    left = [service]

    def start() -> None:
        while left:
            front.stack.start_service(left.pop())

    try:
        yield start
    finally:
        start()


def deducted(front: Front, payment_id: UUID) -> None:
    wait_until(lambda: (found := front.status(payment_id)) and found.state == "deducted", "it is deducted")
