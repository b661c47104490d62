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
from tests.conftest import Settle, wait_until

TIMEOUT_S = 0.5
# The last pause is long, so that what waits for it stands still until a test says otherwise.
BACKOFF_S = [0.2, 0.4, 60]


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
        self._ask("/faults", json.dumps(faults).encode())

    def _ask(self, path: str, body: bytes | None = None) -> bytes:
        url = f"http://127.0.0.1:{self.stack.state.http['provider']}{path}"
        with urlopen(Request(url, body, method="PUT" if body else "GET"), timeout=10) as answer:
            return answer.read()

    def decided(self, operation: str, outcome: str) -> int:
        """How many charges or voids the provider has decided in this way since its start."""
        name = f'settle_provider_decided_total{{operation="{operation}",outcome="{outcome}"}} '
        lines = self._ask("/metrics").decode().splitlines()
        return next((int(float(line.removeprefix(name))) for line in lines if line.startswith(name)), 0)

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
        """The payment, once only its long pause is left."""
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
            timeout=60,
        )


def race(retrying: Retrying, wishes: list[WithdrawalRequested]) -> None:
    """Send a thousand requests a second, and the cancellation of each some time before or after it."""
    draw = random.Random(5)
    rate = 1_000
    plan = [(number / rate, False, wish) for number, wish in enumerate(wishes)]
    plan += [(number / rate + draw.uniform(-0.7, 0.9), True, wish) for number, wish in enumerate(wishes)]
    producer = Producer({**retrying.kafka(), "partitioner": "murmur2_random", "linger.ms": 2})
    began = time.monotonic()
    for at, is_cancellation, wish in sorted(plan, key=lambda step: step[:2]):
        time.sleep(max(began + at - time.monotonic(), 0))
        if is_cancellation:
            body = encode(follow(CancelRequested, wish, wish.occurred_at))
            fields = [("id", str(uuid7()).encode()), ("eventType", b"CancelRequested")]
            producer.produce("payment.requests", body, key=wish.account_id, headers=fields)
        else:
            retrying.client.send(wish, lambda _: None)
    producer.flush()
    retrying.client.flush()
