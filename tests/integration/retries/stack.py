"""A stack whose provider is an HTTP service that can be made to misbehave, and whose pauses can be ended."""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.request import Request, urlopen
from uuid import UUID

from confluent_kafka import Producer
from uuid_utils.compat import uuid7

from contracts.events import CancelRequested, WithdrawalRequested, encode, follow
from processors.saga.status import Status
from tests.conftest import WAIT_S, Settle, wait_until

# An answer that comes at once comes within this time also on a busy machine.
TIMEOUT_S = 2.0
# The last pause is long, so that what waits for it stands still until a test says otherwise.
BACKOFF_S = [0.2, 0.4, 60]
PATIENT_S = WAIT_S + 1.2 * BACKOFF_S[-1]
"""Where the provider or the payment service stood still for three attempts, the long pause is waited out too."""
UNASKED = "could not be asked"


class Retrying(Settle):
    """A stack whose provider is a service that can be made to misbehave."""

    @contextmanager
    def faults(self, **faults: float) -> Iterator[None]:
        self._set_faults(faults)
        try:
            yield
        finally:
            self._set_faults({})

    def _set_faults(self, faults: dict[str, float]) -> None:
        self._ask("PUT", "/faults", json.dumps(faults).encode())

    def _ask(self, method: str, path: str, body: bytes) -> bytes:
        url = f"http://127.0.0.1:{self.stack.state.http['provider']}{path}"
        with urlopen(Request(url, body, method=method), timeout=WAIT_S) as answer:
            return answer.read()

    def charge(self, status: Status) -> str:
        """Bring the provider a charge as the payment service sends it; what it decides."""
        charge = {name: getattr(status, name) for name in ("account_id", "amount_minor", "currency")}
        answer = self._ask(
            "POST", "/charges", json.dumps({"payment_id": str(status.payment_id), **charge}).encode()
        )
        return json.loads(answer)["status"]

    def finished(self, payment_id: UUID, timeout_s: float = PATIENT_S) -> Status:
        return super().finished(payment_id, timeout_s)

    def ask(self, **about) -> UUID:
        return self.client.request(self.open_account(), "100.00", **about).payment_id

    def payment(self, payment_id: UUID):
        """Status, reason, attempts, seconds until due, reason to void; None while unknown."""
        rows = self.query(
            "payment",
            """SELECT status, reason, attempts, extract(epoch FROM next_attempt_at - updated_at), void_reason
            FROM payments WHERE payment_id = %s""",
            payment_id,
        )
        return rows[0] if rows else None

    def waiting(self, payment_id: UUID):
        """The payment, once only its long pause is left, and the saga service knows that it is to be paid."""
        wait_until(lambda: (s := self.status(payment_id)) and s.state == "deducted", "it is deducted")
        return wait_until(
            lambda: p if (p := self.payment(payment_id)) and p[2] == len(BACKOFF_S) else None, "a long pause"
        )

    def due_now(self, *payment_ids: UUID) -> None:
        """As if the pause were over."""
        self.query(
            "payment",
            "UPDATE payments SET next_attempt_at = now() WHERE payment_id = ANY(%s) RETURNING 1",
            list(payment_ids),
        )

    def at_provider(self, payment_id: UUID) -> list[str]:
        return [
            row[0]
            for row in self.query("provider", "SELECT status FROM charges WHERE payment_id = %s", payment_id)
        ]

    def settle(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "cli", *arguments],
            env={**os.environ, **self.stack.environment(), "COLUMNS": "80"},
            capture_output=True,
            text=True,
            timeout=2 * PATIENT_S,
        )

    def told(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """What a command says, once everything has answered it in the two seconds that it gives."""
        return wait_until(
            lambda: done if UNASKED not in (done := self.settle(*arguments)).stderr else None, "all have answered"
        )


def race(retrying: Retrying, wishes: list[WithdrawalRequested]) -> None:
    """Send a thousand requests a second, and the cancellation of each some time before or after it.

    That of every tenth comes only after others of these are paid, however far the services are behind.
    """
    draw = random.Random(5)
    rate = 1_000
    plan = [(number / rate, False, wish) for number, wish in enumerate(wishes)]
    late, early = wishes[::10], [(number, wish) for number, wish in enumerate(wishes) if number % 10]
    plan += [(number / rate + draw.uniform(-0.7, 0.9), True, wish) for number, wish in early]
    producer = Producer({**retrying.kafka(), "partitioner": "murmur2_random", "linger.ms": 2})

    def cancel(wish: WithdrawalRequested) -> None:
        body = encode(follow(CancelRequested, wish, wish.occurred_at))
        fields = [("id", str(uuid7()).encode()), ("eventType", b"CancelRequested")]
        producer.produce("payment.requests", body, key=wish.account_id, headers=fields)

    began = time.monotonic()
    for at, is_cancellation, wish in sorted(plan, key=lambda step: step[:2]):
        time.sleep(max(began + at - time.monotonic(), 0))
        if is_cancellation:
            cancel(wish)
        else:
            retrying.client.send(wish, lambda _: None)
    producer.flush()
    retrying.client.flush()
    paid = "SELECT count(*) FROM charges WHERE status = 'paid' AND payment_id = ANY(%s)"
    ids = [wish.payment_id for wish in late]
    wait_until(lambda: retrying.query("provider", paid, ids)[0][0] > 0.6 * len(late), "some are paid")
    for wish in late:
        cancel(wish)
    producer.flush()
