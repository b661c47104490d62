"""A reader that polls both sides' tables for money that is deducted and not paid."""

import statistics
import threading
import time
from contextlib import closing
from types import TracebackType
from typing import Self
from uuid import UUID

from uuid_utils.compat import uuid7

from contracts.postgres import session
from lab.comparison.books import Books
from lab.comparison.caller import ask, finish, is_open, wait_for
from lab.comparison.load import AMOUNT_MINOR, BALANCE_MINOR
from lab.comparison.results import Consistency
from lab.comparison.sites import Site
from producers.requests import new_request

PAUSE_S = 0.0005


class Reader:
    """Polls the withdrawals that begin after ``with``.

    First the account's table, then the payment's: what is deducted in the first and not yet paid in the second was
    certainly in between at that moment. A poll takes time, so shorter states may be missed.

    Args:
        books: where to look.

    Attributes:
        first, last: when each withdrawal was first and last seen in between, monotonic seconds.
        looks: seconds from each look to the next.
    """

    def __init__(self, books: Books) -> None:
        self.first: dict[UUID, float] = {}
        self.last: dict[UUID, float] = {}
        self.looks: list[float] = []
        self._books = books
        self._since = uuid7()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, name="reader")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def between_ms(self, payment_id: UUID) -> float:
        """How long a withdrawal was seen in between; 0 if never."""
        if payment_id not in self.first:
            return 0.0
        return (self.last[payment_id] - self.first[payment_id]) * 1000

    @property
    def resolution_ms(self) -> float:
        """Time from one look to the next, median."""
        return statistics.median(self.looks) * 1000 if self.looks else 0.0

    def _look(self) -> None:
        with (
            session(self._books.account_dsn, autocommit=True) as account,
            session(self._books.payment_dsn, autocommit=True) as payment,
        ):
            began = time.monotonic()
            while not self._stop.is_set():
                gone = {row[0] for row in account.execute(self._books.gone, (self._since,))}
                paid = {row[0] for row in payment.execute(self._books.arrived, (self._since,))} if gone else set()
                now = time.monotonic()
                for payment_id in gone - paid:
                    self.first.setdefault(payment_id, began)
                    self.last[payment_id] = now
                self.looks.append(now - began)
                began = now
                time.sleep(PAUSE_S)


def watch(site: Site, count: int, per_second: float) -> Consistency:
    """Make withdrawals at an easy pace, and report what a reader saw of them."""
    name = f"watched-{site.spec.name}"
    site.open_accounts([name], BALANCE_MINOR)
    requests = []
    with closing(site.client()) as client, Reader(site.books) as reader:
        began = time.monotonic()
        for number in range(count):
            time.sleep(max(0.0, began + number / per_second - time.monotonic()))
            request = new_request(name, amount_minor=AMOUNT_MINOR)
            requests.append(request)
            outcome, _ = ask(client, request)
        if is_open(outcome) and site.spec.name != "naive":
            finish(client, requests)
        wait_for(site.quiet, "all is read")
        time.sleep(2 * reader.resolution_ms / 1000)
    between = [reader.between_ms(request.payment_id) for request in requests]
    return Consistency(
        withdrawals=count,
        per_second=per_second,
        seen=sum(request.payment_id in reader.first for request in requests),
        median_ms=statistics.median(between),
        longest_ms=max(between),
        resolution_ms=reader.resolution_ms,
    )
