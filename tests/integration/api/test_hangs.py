"""A database that hangs (its disk, its host, the network): who asks is told within seconds; then all is well."""

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import psutil
import pytest

from tests.conftest import wait_until
from tests.integration.api.front import BUSY_S, WITHDRAWALS, Front, ask

LIMIT_S = 15.0 + BUSY_S
"""Of an answer: twice a connection attempt and a wait for its answer, and the load of a test machine."""


CALLERS = 20
"""At once; if each took its turn, the last one would be told after more than a minute."""


@contextmanager
def frozen(front: Front, database: str) -> Iterator[None]:
    first = psutil.Process(front.stack.pid(f"postgres-{database}"))
    processes = [first]
    try:
        # The server first: from then on it starts no process and none that ends is gone.
        first.send_signal(signal.SIGSTOP)
        processes += first.children(recursive=True)
        for process in processes[1:]:
            process.send_signal(signal.SIGSTOP)
        yield
    finally:
        for process in reversed(processes):
            if process.is_running():
                process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("database", ["api", "saga"])
def test_a_database_that_hangs_is_told_within_seconds(front: Front, database):
    key, account = front.key(role="admin"), front.open_account()
    with front.http(key) as http:
        assert http.get(WITHDRAWALS).status_code == 200  # the key is known for some seconds from now on
        with frozen(front, database):
            began = time.monotonic()
            listed = http.get(WITHDRAWALS)
            assert time.monotonic() - began < LIMIT_S
            assert listed.status_code == 503 or database == "api"
            if database == "api":
                began = time.monotonic()
                answer = ask(http, account)
                assert time.monotonic() - began < LIMIT_S
                assert answer.status_code == 503
                assert answer.headers["retry-after"]
        wait_until(lambda: http.get(WITHDRAWALS).status_code == 200, "lists are answered again")
        wait_until(lambda: ask(http, account).status_code == 202, "withdrawals are accepted again")


def test_nobody_waits_for_those_before_it(front: Front):
    """Each needs a statement of its own at the API's database, as its key is not known yet."""
    with frozen(front, "api"), ThreadPoolExecutor(CALLERS) as callers:

        def asked(number: int) -> tuple[int, float]:
            with front.http(f"settle_{number:016x}_{'x' * 43}") as http:
                began = time.monotonic()
                return http.get(WITHDRAWALS).status_code, time.monotonic() - began

        answers = [*callers.map(asked, range(CALLERS))]
    assert {status for status, _ in answers} == {503}
    assert max(took_s for _, took_s in answers) < LIMIT_S


def test_stuck_withdrawals_are_not_all_where_the_database_of_the_api_hangs(front: Front):
    with front.http(front.key(role="admin")) as http:

        def unasked() -> dict[str, str]:
            assert http.get(WITHDRAWALS).status_code == 200  # the key is known for some seconds from now on
            with frozen(front, "api"):
                answer = http.get("/v1/stuck", params={"older_than_s": 3_600})
            return answer.json().get("unasked", {})

        # What nobody has published yet is known to that database alone.
        wait_until(lambda: "the api database" in unasked(), "it is named")
