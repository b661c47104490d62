"""Health pages answer everybody who asks, whatever other clients do, and whatever the rest of the process does."""

import asyncio
import http.client
import socket
import threading
import time
from contextlib import contextmanager

import pytest
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from contracts import health
from contracts.health import AddressError, HealthServer, Page, check_address
from outbox_relay.health import SourceMetrics, serve
from processors.runtime import readiness
from processors.runtime.readiness import Readiness
from tests.conftest import WAIT_S, wait_until

OPENMETRICS = "application/openmetrics-text"


@contextmanager
def serving(host="127.0.0.1", ready=lambda: Page(200, "ready\n"), metrics=None):
    server = HealthServer(host, 0, lambda: Page(200, "ok\n"), ready, metrics or CollectorRegistry())
    try:
        yield server
    finally:
        server.close()


def ask(port, path, method="GET", host="127.0.0.1", **headers):
    connection = http.client.HTTPConnection(host, port, timeout=WAIT_S)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), answer.headers
    finally:
        connection.close()


class LargePage:
    """A page that does not fit into a connection's buffers; ``asked`` once it is being answered."""

    def __init__(self):
        self.asked = threading.Event()

    def __call__(self):
        self.asked.set()
        return Page(200, "x" * 50_000_000)


def answering():
    return [thread for thread in threading.enumerate() if "process_request" in thread.name]


@pytest.mark.parametrize("host", ["::1", "127.0.0.1", "localhost"])
def test_they_answer_on_addresses_of_either_family(host):
    with serving(host) as server:
        assert ask(server.port, "/readyz", host=host)[:2] == (200, "ready\n")


def test_each_page_is_read_by_get_and_head_and_by_nothing_else():
    with serving() as server:
        assert ask(server.port, "/healthz")[:2] == (200, "ok\n")
        assert ask(server.port, "/readyz?verbose")[:2] == (200, "ready\n")
        status, text, headers = ask(server.port, "/readyz", "HEAD")
        assert (status, text, headers["Content-Length"]) == (200, "", "6")
        for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
            status, text, headers = ask(server.port, "/readyz", method)
            assert (status, headers["Allow"], text.count("\n")) == (405, "GET, HEAD", 1)
        for path in ("/", "/readyz/", "/metrics.json"):
            assert ask(server.port, path)[:2] == (404, "/healthz, /readyz and /metrics are here\n")


def test_what_head_is_answered_ends_with_its_headers():
    """A body would be taken for the next answer; a client's library hides it."""
    with serving() as server, socket.create_connection(("127.0.0.1", server.port), 10) as client:
        client.sendall(b"HEAD /readyz HTTP/1.0\r\n\r\n")
        answer = b"".join(iter(lambda: client.recv(4096), b""))
    assert b" 200 " in answer.splitlines()[0]
    assert answer.endswith(b"\r\n\r\n")
    assert answer.count(b"\r\n\r\n") == 1


def test_metrics_are_openmetrics_for_those_who_ask_for_it():
    registry = CollectorRegistry()
    Counter("settle_tries", "Tries", registry=registry).inc(exemplar={"trace_id": "ab"})
    with serving(metrics=registry) as server:
        status, text, headers = ask(
            server.port, "/metrics", Accept=f"{OPENMETRICS};version=1.0.0,text/plain;q=0.5"
        )
        assert (status, headers["Content-Type"].partition(";")[0]) == (200, OPENMETRICS)
        assert 'settle_tries_total 1.0 # {trace_id="ab"}' in text
        status, text, headers = ask(server.port, "/metrics")
        assert (status, headers["Content-Type"].partition(";")[0]) == (200, "text/plain")
        assert "settle_tries_total 1.0\n" in text


def test_a_relays_metrics_are_valid_openmetrics():
    registry = CollectorRegistry()
    registry.register(SourceMetrics(list))
    server = serve("127.0.0.1", 0, list)
    try:
        assert ask(server.port, "/healthz")[:2] == (200, "alive\n")
        assert ask(server.port, "/readyz")[:2] == (200, "ready\n")
        _, text, _ = ask(server.port, "/metrics", Accept=OPENMETRICS)
        names = {family.name for family in text_string_to_metric_families(text)}
        assert names == {family.name for family in registry.collect()}
    finally:
        server.close()


def test_a_page_that_fails_is_answered_and_logged(caplog):
    with serving(ready=lambda: 1 / 0) as server:
        assert ask(server.port, "/readyz")[:2] == (500, "this page fails; the log says why\n")
        assert ask(server.port, "/healthz")[0] == 200
    assert "ZeroDivisionError" in caplog.text


def test_silent_clients_hold_up_nobody_and_a_bounded_number_of_threads(monkeypatch):
    monkeypatch.setattr(health, "CONNECTION_S_MAX", 3_600.0)
    with serving() as server:
        silent = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(health.CONNECTIONS_MAX * 3)]
        for _ in range(5):
            began = time.monotonic()
            assert ask(server.port, "/readyz")[0] == 200
            assert time.monotonic() - began < WAIT_S
        wait_until(lambda: len(answering()) <= health.CONNECTIONS_MAX, "those that were silent longest gave way")
        for client in silent:
            client.close()
    wait_until(lambda: not answering(), "nobody is left")


@pytest.mark.parametrize("sent", [b"", b"GET /readyz HTTP/1.1\r\n", b"G"])
def test_a_client_that_takes_its_time_is_cut_off(monkeypatch, sent):
    monkeypatch.setattr(health, "CONNECTION_S_MAX", 0.3)
    with serving() as server, socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(sent)
        until = time.monotonic() + WAIT_S
        with pytest.raises(OSError):
            while time.monotonic() < until:  # a byte now and then renews nothing
                client.sendall(b"a")
                time.sleep(0.02)
        wait_until(lambda: not answering(), "its thread has ended")


def test_a_client_that_does_not_read_is_cut_off(monkeypatch):
    monkeypatch.setattr(health, "CONNECTION_S_MAX", 0.3)
    page = LargePage()
    with serving(ready=page) as server, socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(b"GET /readyz HTTP/1.0\r\n\r\n")
        assert page.asked.wait(WAIT_S)
        wait_until(lambda: not answering(), "its thread has ended")


def test_a_client_that_goes_away_is_no_news(capfd, caplog):
    page = LargePage()
    with serving(ready=page) as server:
        client = socket.create_connection(("127.0.0.1", server.port))
        client.sendall(b"GET /readyz HTTP/1.0\r\n\r\n")
        assert page.asked.wait(WAIT_S)
        client.close()
        wait_until(lambda: not answering(), "its thread has ended")
    assert (capfd.readouterr(), caplog.text) == (("", ""), "")


def test_once_closed_the_port_is_free_and_no_thread_is_left(monkeypatch):
    monkeypatch.setattr(health, "CONNECTION_S_MAX", 3_600.0)
    before = {*threading.enumerate()}
    with serving() as server:
        port = server.port
        client = socket.create_connection(("127.0.0.1", port))
        wait_until(answering, "it has a thread")
    wait_until(lambda: {*threading.enumerate()} <= before, "no thread is left")
    assert client.recv(1) == b""
    client.close()
    HealthServer("127.0.0.1", port, list, list, CollectorRegistry()).close()


def test_an_address_that_cannot_be_had_is_told_in_one_line(monkeypatch):
    with serving() as server:
        for host, port, reason in (
            ("127.0.0.1", server.port, "Address already in use"),
            ("192.0.2.1", 0, "Cannot assign requested address"),
            ("a..b", 0, "label empty or too long"),
        ):
            for listen in (check_address, lambda *where: HealthServer(*where, list, list, CollectorRegistry())):
                with pytest.raises(AddressError) as refused:
                    listen(host, port)
                where = f"SETTLE_HTTP_HOST={host}, SETTLE_HTTP_PORT={port}"
                assert str(refused.value).startswith(f"nothing can listen on {where}: ")
                assert reason in str(refused.value)
                assert "\n" not in str(refused.value)


def test_no_name_service_is_asked_for_an_address(monkeypatch):
    def hangs(*_):
        pytest.fail("it was asked")

    monkeypatch.setattr(socket, "getfqdn", hangs)
    monkeypatch.setattr(socket, "gethostbyaddr", hangs)
    with serving() as server:
        assert ask(server.port, "/readyz")[0] == 200


async def silent():
    await asyncio.Event().wait()


def test_an_event_loop_that_hangs_is_seen_from_outside_and_forgotten_once_it_goes_on(monkeypatch):
    monkeypatch.setattr(readiness, "BEAT_S", 0.01)
    monkeypatch.setattr(readiness, "HANGS_S", 0.3)
    monkeypatch.setattr(readiness, "KAFKA_S", 0.1)
    looked, hang, go_on, done = (threading.Event() for _ in range(4))
    found: list[Readiness] = []

    async def service():
        found.append(Readiness("postgresql://nobody@127.0.0.1:1/none", "test"))
        found[0].beat()
        await found[0].look(silent)
        looked.set()
        await asyncio.to_thread(hang.wait)
        go_on.wait()
        await asyncio.to_thread(done.wait)
        await found[0].close()

    def said(count):
        """Asks for what it waits for, once that is so many texts."""
        return lambda: next((texts for texts in [found[0].waits_for] if len(texts) == count), None)

    thread = threading.Thread(target=asyncio.run, args=(service(),))
    thread.start()
    try:
        assert looked.wait(WAIT_S)
        # If the whole test stood still, that is said as well until the next beat.
        database, kafka = wait_until(said(2), "it beats")
        assert database.startswith("the database does not answer: ")
        assert kafka == "Kafka's client does not answer within 0.1 s"
        hang.set()
        hangs, *others = wait_until(said(3), "it is seen")
        assert hangs.startswith("its event loop has stood for ")
        assert others == [database, kafka]
        go_on.set()
        wait_until(lambda: found[0].hangs is None, "it is forgotten")
    finally:
        for event in (hang, go_on, done):
            event.set()
        thread.join()
