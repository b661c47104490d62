"""A client shared by threads reports on each request, also while one of them replaces the producer."""

import threading
from typing import Any

from confluent_kafka import Producer

from broker import security
from producers.client import WithdrawalClient
from producers.errors import NotDeliveredError
from producers.requests import new_request

NOBODY = "127.0.0.1:9"
WAIT_S = 10.0


def renew(client: WithdrawalClient) -> None:
    """Replace its producer, as after credentials have changed on disk."""
    client._spent = True
    client._renew()


class Overtaken(WithdrawalClient):
    """Each request is overtaken by other threads, which replace its producer and find the old one to be empty."""

    def _produce(self, producer: Producer, *message: Any) -> None:
        def others() -> None:
            renew(self)
            self.poll()
            assert self._retired == []

        other = threading.Thread(target=others)
        other.start()
        other.join()
        super()._produce(producer, *message)


def test_a_request_through_a_producer_that_was_dropped_meanwhile_is_reported_on() -> None:
    reports: list[Any] = []
    client = Overtaken(NOBODY, delivery_timeout_s=0.5)
    client.send(new_request("acc-1", "1.00"), reports.append)
    client.flush()
    assert [type(report) for report in reports] == [NotDeliveredError]
    assert client._retired == []


class Busy:
    """A producer that always has a request under way: others send through it."""

    def __init__(self) -> None:
        self.is_purged = False

    def __len__(self) -> int:
        return not self.is_purged

    def flush(self, _timeout_s: float) -> int:
        return len(self)

    poll = flush

    def purge(self) -> None:
        self.is_purged = True


def test_what_others_send_meanwhile_is_neither_waited_for_nor_given_up() -> None:
    client = WithdrawalClient(NOBODY, delivery_timeout_s=0.1)
    client._producer = busy = Busy()  # type: ignore[assignment]
    client.flush()
    assert not busy.is_purged


class Watched:
    """A lock that says when somebody has to wait for it."""

    def __init__(self, waits: threading.Event) -> None:
        self._lock = threading.Lock()
        self._waits = waits

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            self._waits.set()
            self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class Emptied:
    """A producer that a request is sent through right after it was found to be empty."""

    def __init__(self, producer: Producer, send: threading.Thread, sent: threading.Event) -> None:
        self._producer = producer
        self._send = send
        self._sent = sent

    def __len__(self) -> int:
        length = len(self._producer)
        if self._send.ident is None:
            self._send.start()
            assert self._sent.wait(WAIT_S)  # all of it, or as far as it gets
        return length

    def __getattr__(self, name: str) -> Any:
        return getattr(self._producer, name)


def test_a_producer_is_not_dropped_while_a_request_is_sent_through_it() -> None:
    reports: list[Any] = []
    sent = threading.Event()
    client = WithdrawalClient(NOBODY, delivery_timeout_s=0.5)
    client._renewing = Watched(sent)  # type: ignore[assignment]

    def produce(old: Any) -> None:
        """What `send` does once it has seen the producer."""
        client._under_way[0] = None
        client._produce(old, "acc-1", b"{}", [], report)
        sent.set()

    def report(error: Any, _message: Any) -> None:
        client._under_way.pop(0)
        reports.append(NotDeliveredError(str(error)))

    thread = threading.Thread(target=lambda: produce(old))
    old: Any = Emptied(client._producer, thread, sent)
    client._producer = old
    renew(client)
    client.poll()
    thread.join()
    client.flush()
    assert [type(report) for report in reports] == [NotDeliveredError]
    assert client._retired == []


def test_a_producer_stays_while_files_of_the_identity_are_wrong_and_the_report_names_them(tmp_path) -> None:
    properties, reports = tmp_path / "client.properties", list[Any]()
    properties.write_text("client.rack=a\n")
    security.assume(NOBODY, {"SETTLE_KAFKA_CONFIG": str(properties)})
    try:
        client = WithdrawalClient(NOBODY, delivery_timeout_s=0.1)
        before = client._producer
        properties.write_text("half writ")
        client._spent = True
        client.send(new_request("acc-1", "1.00"), reports.append)
        client.flush()
        assert "SETTLE_KAFKA_CONFIG is wrong: line 1 is not name=value" in str(reports[0])
        assert (client._producer, client._retired) == (before, [])
        properties.write_text("client.rack=b\n")
        client.send(new_request("acc-1", "1.00"), reports.append)
        assert client._producer is not before
        client.flush()
    finally:
        security.assume(NOBODY, None)
