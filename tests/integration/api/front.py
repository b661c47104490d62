"""A stack with the API, as a test sees it, and requests to it."""

import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import httpx
from prometheus_client.parser import text_string_to_metric_families
from uuid_utils.compat import uuid7

from api.credentials import REMEMBERED_S, create_key
from api.streams import CHECK_S, EVENT_STREAM
from lab.chaos.arming import Arming
from producers.client import WithdrawalClient
from stack.supervisor import Stack
from tests.conftest import SECURE, WAIT_S, Settle, trace_requests, wait_until
from tests.integration.jaeger import FakeJaeger
from tracing.collector import SpanCollector

WITHDRAWALS = "/v1/withdrawals"

BUSY_S = 25.0
"""How much later than is promised something may be, on a machine that is busy."""

STREAM_ENDS_S = REMEMBERED_S + CHECK_S + BUSY_S
"""How long a stream may go on that its caller may not read any more."""


class Front(Settle):
    """A running stack with the API, which asks a Jaeger that has the stack's spans."""

    jaeger: FakeJaeger

    def key(self, caller: str = "shop", role: str = "client", *scopes: str, **options: Any) -> str:
        """A new API key."""
        return create_key(self.dsns["api"], caller, role, scopes, **options)

    def http(self, key: str | None = None, **options: Any) -> httpx.Client:
        """A client with a key's credentials."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        ca = self.stack.data / "secrets" / "ca.crt"
        verify = ssl.create_default_context(cafile=ca) if ca.exists() else any_authority()
        options = {"base_url": self.stack.state.api_url, "headers": headers, "timeout": WAIT_S, **options}
        return httpx.Client(verify=verify, **options)

    @property
    def place(self) -> tuple[str, int]:
        """Where the API listens."""
        place = urlsplit(self.stack.state.api_url)
        return str(place.hostname), int(place.port or 0)

    def measured(self, name: str, **labels: str) -> float:
        """A metric of the API; 0 where it has none with these labels."""
        url = f"http://127.0.0.1:{self.stack.state.http['api']}/metrics"

        def page() -> str | None:
            try:
                return httpx.get(url, verify=any_authority(), timeout=WAIT_S).text
            except httpx.TransportError:  # a process that stood still hangs up on who has waited for long
                return None

        families = text_string_to_metric_families(wait_until(page, "the API's metrics") or "")
        samples = (sample for family in families for sample in family.samples)
        return sum(one.value for one in samples if one.name == name and labels.items() <= one.labels.items())

    def answers(self) -> None:
        """Wait until the API answers."""

        def is_there() -> bool:
            try:
                with self.http() as client:
                    return client.get("/").status_code > 0
            except httpx.TransportError:
                return False

        wait_until(is_there, "the API answers")

    def restart(self, *places: str) -> None:
        """Start the API anew; it dies at each of these failpoints once."""
        self.stack.stop_service("api")
        self.arming.arm("api", *places)
        self.stack.start_service("api")
        self.answers()

    def stored(self, payment_id: UUID) -> int:
        """How many withdrawals the API has stored with a payment ID."""
        return self.query("api", "SELECT count(*) FROM withdrawals WHERE payment_id = %s", payment_id)[0][0]


@cache
def any_authority() -> ssl.SSLContext:
    """What clients verify a server by, made once: to read every known authority takes a client 30 ms."""
    return ssl.create_default_context()


def body(account: str, amount: str = "1.00", **more: Any) -> dict[str, Any]:
    return {"account_id": account, "amount": amount, "currency": "USD", **more}


def head(method: str, path: str, key: str, **more: str) -> bytes:
    """The head of a request as its bytes; of ``Content_Type`` the header ``Content-Type``."""
    fields = {"Host": "settle", "Authorization": f"Bearer {key}", **more}
    lines = (f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    return f"{method} {path} HTTP/1.1\r\n{''.join(lines)}\r\n".encode()


def ask(client: httpx.Client, account: str, amount: str = "1.00", *, key: str | None = None, **more: Any):
    """A request for a withdrawal; with a key of its own unless one is given."""
    return client.post(
        WITHDRAWALS, json=body(account, amount, **more), headers={"Idempotency-Key": key or new_key()}
    )


def requested(client: httpx.Client, account: str, amount: str = "1.00", **more: Any) -> UUID:
    """The payment ID of a withdrawal that has been accepted."""
    answer = ask(client, account, amount, **more)
    assert answer.status_code == 202, answer.text
    return UUID(answer.json()["payment_id"])


@contextmanager
def streams_that_end(
    front: Front, client: httpx.Client, sign_in: Callable[[], object] = lambda: None
) -> Iterator[None]:
    """Every kind of stream, open for a block in which an admin loses its right to them; then each has to end.

    Args:
        sign_in: what gives the client a right that does not last, right before they are opened.
    """
    front.stack.stop_service("relay")  # the withdrawal does not
    try:
        with ExitStack() as stack:
            with front.http(front.key()) as shop:
                payment_id = ask(shop, front.open_account()).json()["payment_id"]
            paths = ("/v1/events", f"{WITHDRAWALS}/{payment_id}/events", "/console/stream")
            opened = []
            sign_in()
            for path in paths:
                about = {"headers": {"Accept": EVENT_STREAM}, "timeout": STREAM_ENDS_S}
                answer = stack.enter_context(client.stream("GET", path, **about))
                assert answer.status_code == 200
                lines = answer.iter_lines()
                assert next(lines)
                opened.append(lines)
            yield
            give_up = time.monotonic() + STREAM_ENDS_S
            for path, lines in zip(paths, opened, strict=True):
                for _ in lines:
                    assert time.monotonic() < give_up, f"{path} does not end"
    finally:
        front.stack.start_service("relay")
    front.finished(UUID(payment_id))


def new_key() -> str:
    return str(uuid7())


@contextmanager
def running_with_api(data: Path, **variables: str) -> Iterator[Front]:
    """A stack with the API on a folder, with further variables."""
    with SpanCollector() as collector, FakeJaeger(collector) as jaeger:
        environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
            "SETTLE_JAEGER_URL": jaeger.url,
            **variables,
        }
        arming = Arming()
        with Stack(data, environment=environment, command=arming, secure=SECURE) as stack:
            trace_requests(collector)
            with (
                WithdrawalClient(stack.state.kafka_bootstrap, delivery_timeout_s=WAIT_S) as client,
                closing(Front(stack, arming, collector, client)) as front,
            ):
                front.jaeger = jaeger
                yield front
            stack.hurry()
