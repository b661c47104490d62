"""A crash at the worst of moments, a message that nobody can handle: the others go on, and no cent is lost."""

import re
from itertools import count
from uuid import uuid4

import pytest

from contracts.failpoints import FAILPOINTS
from contracts.services import READ_BY
from tests.conftest import Settle, wait_until
from tests.integration.test_withdrawals import request

SERVICES = ("relay", *READ_BY)
AMOUNTS_MINOR = (105, 100, 113)


@pytest.fixture(autouse=True)
def all_ready_again(settle: Settle):
    yield
    for status in settle.stack.statuses():
        settle.stack.wait_ready(status.name)


def log_of(settle: Settle, service: str) -> str:
    return (settle.stack.data / "logs" / f"{service}.log").read_text()


def deaths(settle: Settle, service: str) -> list[str]:
    return re.findall("failpoint (.*) reached", log_of(settle, service))


def test_a_death_at_any_failpoint_of_any_service_loses_and_doubles_nothing(settle: Settle):
    account = settle.open_account()
    before = {service: len(deaths(settle, service)) for service in SERVICES}
    places = {service: [p for p in FAILPOINTS if p.startswith(f"{service}.")] for service in SERVICES}
    for service in SERVICES:
        settle.arming.arm(service, *places[service])
        settle.stack.kill(service)
    payments, numbers = [], count()

    def all_dead() -> bool:
        for status in settle.stack.statuses():
            if status.pid is None:
                settle.stack.start_service(status.name)
        if next(numbers) % 10 == 0:  # twice a second
            # One is declined and refunded, one is paid, one is paid at the second attempt.
            one = request(account, AMOUNTS_MINOR[len(payments) % 3])
            settle.client.send(one, lambda _: None)
            payments.append(one.payment_id)
            for topic in ("withdrawal.requests", "account.events", "payment.events"):
                settle.send(topic, b"junk", account, eventType=b"WithdrawalRequested", id=str(uuid4()))
                settle.send(topic, b"junk", account)
        return all(len(deaths(settle, s)) - before[s] == len(places[s]) for s in SERVICES)

    wait_until(all_dead, "every failpoint was reached", 300)
    for service in SERVICES:
        settle.stack.wait_ready(service)
        assert deaths(settle, service)[before[service] :] == places[service]
    settle.client.flush()
    states = [settle.finished(payment_id).state for payment_id in payments]
    assert states == ["completed" if n % 3 else "compensated" for n in range(len(payments))]
    paid_minor = sum(AMOUNTS_MINOR[n % 3] for n in range(len(payments)) if n % 3)
    assert settle.balance(account) == 1_000_000 - paid_minor
    settle.audit()


def test_a_row_that_the_database_refuses_is_dead_lettered_and_the_batch_goes_on(settle: Settle):
    poisoned, good = settle.open_account(), settle.open_account()
    settle.execute(
        "account", f"ALTER TABLE ledger ADD CONSTRAINT poison CHECK (account_id <> '{poisoned}') NOT VALID"
    )
    try:
        requests = [request(poisoned if n in (3, 7) else good, 100 * (n + 1)) for n in range(12)]
        for one in requests:
            settle.client.send(one, lambda _: None)
        settle.client.flush()
        for n, one in enumerate(requests):
            if n not in (3, 7):
                assert settle.finished(one.payment_id).state == "completed"
        for n in (3, 7):
            wanted = str(requests[n].payment_id).encode()
            letter = settle.find("withdrawal.requests.dlq", lambda m, wanted=wanted: wanted in (m.value() or b""))
            headers = dict(letter.headers())
            assert headers["dlq.reason"] == b"fails each time it is tried"
            assert headers["dlq.error"].startswith(b"CheckViolation: new row for relation")
            assert headers["dlq.service"] == b"account"
        assert settle.balance(poisoned) == 1_000_000
        assert "looking for the culprit" in log_of(settle, "account")
    finally:
        settle.execute("account", "ALTER TABLE ledger DROP CONSTRAINT poison")
    for n in (3, 7):
        settle.send_request(requests[n])
        assert settle.finished(requests[n].payment_id).state == "completed"
    settle.audit()
