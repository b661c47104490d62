"""A client notices that Kafka answers all others but will never answer it again, and the work goes on.

How librdkafka comes to that is a race among its threads: here a client is cut off by an address where nobody
listens.
"""

import os
import subprocess
import sys

import pytest

from broker import lifeline
from broker.clients import idempotent_producer
from contracts.topics import WITHDRAWAL_REQUESTS
from processors.runtime.consumer import BatchConsumer, CutOffError
from producers.client import WithdrawalClient
from producers.errors import NotDeliveredError
from stack.ports import choose
from stack.state import environment
from tests.conftest import WAIT_S, Settle

CUT_OFF_AT_ONCE = (
    "from broker import lifeline; import processors.runtime.app as app;"
    "lifeline.why_unanswered = lambda bootstrap: None;"
    "lifeline.ASK_EVERY_S = 0.05; app.ANSWER_S = 0.2; app.LEAVE_S = 0.5"
)
RUN = "from processors.runtime.worker import run_service; run_service('account')"


@pytest.fixture
def nowhere() -> str:
    return f"127.0.0.1:{choose(taken=set())}"


@pytest.fixture
def lost(nowhere: str):
    """A consumer that is not answered."""
    consumer = BatchConsumer(nowhere, "lost", [WITHDRAWAL_REQUESTS.name], batch_max=10, gather_s_max=0)
    yield consumer
    consumer.close()


def is_not_answered(consumer: BatchConsumer, times: int) -> None:
    for _ in range(times):
        assert "Kafka does not answer" in str(consumer.waits_for(0.1))


def test_a_client_that_is_cut_off_delivers_the_next_request(settle: Settle, nowhere: str):
    account = settle.open_account()
    with WithdrawalClient(settle.bootstrap, delivery_timeout_s=WAIT_S) as client:
        client.request(account, "1.00")
        client._producer = idempotent_producer(nowhere, {**client._config, "delivery.timeout.ms": 5_000})
        with pytest.raises(NotDeliveredError, match="no confirmation within"):
            client.request(account, "2.00")
        receipt = client.request(account, "3.00")
    assert settle.finished(receipt.payment_id).state == "completed"


def test_a_client_whose_producer_failed_for_good_delivers_the_next_request(settle: Settle):
    account = settle.open_account()
    with WithdrawalClient(settle.bootstrap) as client:
        fails = {"enable.gapless.guarantee": True, "message.max.bytes": 4_000_000}
        client._producer = idempotent_producer(settle.bootstrap, {**client._config, **fails})
        client._producer.produce(WITHDRAWAL_REQUESTS.name, os.urandom(3_000_000))  # which the topic never takes
        client._serve(client._producer.flush, WAIT_S)
        assert client._spent
        receipt = client.request(account, "1.00")
    assert settle.finished(receipt.payment_id).state == "completed"


def test_a_consumer_that_is_not_answered_where_others_are_says_so(
    settle: Settle, lost: BatchConsumer, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(lifeline, "ASK_EVERY_S", 0.0)
    monkeypatch.setattr(lifeline, "ANSWER_S", WAIT_S)
    monkeypatch.setattr(lost, "_lifeline", lifeline.Lifeline(settle.bootstrap))
    is_not_answered(lost, lifeline.ANSWERS_TO_OTHERS - 1)
    with pytest.raises(CutOffError, match="answers others"):
        lost.waits_for(0.1)


def test_one_that_waits_as_everybody_does_is_not_cut_off(lost: BatchConsumer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lifeline, "ASK_EVERY_S", 0.0)
    monkeypatch.setattr(lifeline, "ANSWER_S", 0.1)
    is_not_answered(lost, 2 * lifeline.ANSWERS_TO_OTHERS)


def test_a_service_that_is_cut_off_ends_to_be_started_anew(settle: Settle, nowhere: str):
    variables = {**environment(settle.stack.state), "SETTLE_KAFKA_BOOTSTRAP": nowhere, "SETTLE_HTTP_PORT": "0"}
    service = subprocess.run(
        [sys.executable, "-c", f"{CUT_OFF_AT_ONCE}; {RUN}"],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=WAIT_S,
    )
    assert service.returncode == 1
    assert "has lost it for good" in service.stdout + service.stderr
