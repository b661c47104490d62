"""Whatever dies, whenever: every withdrawal ends, once, and no cent is lost or doubled."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

import tracing
from broker.scan import scan
from contracts.services import READ_BY
from producers.load import LoadReport, run_load
from producers.plan import LoadPlan, plan_load
from stack.names import SERVERS
from tests.conftest import WAIT_S, Settle, wait_until
from tests.instance import another_instance

MIXED = {"duplicates": 0.1, "declined": 0.1, "insufficient": 0.05}


def not_ready(settle: Settle, service: str) -> str | None:
    """What ``/readyz`` of a service says it waits for; None while it is ready."""
    try:
        with urlopen(f"http://127.0.0.1:{settle.stack.state.http[service]}/readyz", timeout=WAIT_S) as page:
            assert page.read() == b"ready\n"
            return None
    except HTTPError as error:
        assert error.code == 503
        return error.read().decode()
    except OSError as error:  # one that Kafka's client has left for good ends, and starts again
        return f"not answered: {error}"


def all_wait_for(settle: Settle, what: str) -> bool:
    return all(what in (not_ready(settle, service) or "") for service in READ_BY)


def all_ready(settle: Settle) -> bool:
    return all(not_ready(settle, service) is None for service in READ_BY)


class Load:
    """A load that runs while a test does its worst."""

    def __init__(self, settle: Settle, count: int, rate: float, **shares: float) -> None:
        accounts = [f"acc-{number}" for number in range(1, 101)]
        from processors.account.accounts import open_accounts

        open_accounts(settle.dsns["account"], accounts, 1_000_000_00, "USD")
        self._settle = settle
        self.plan = LoadPlan(count, accounts=100, **{**MIXED, **shares})
        self._before = settle.query("saga", "SELECT count(*) FROM withdrawals")[0][0]
        self._pool = ThreadPoolExecutor(1)
        self.sent = 0
        self._report = self._pool.submit(
            run_load, settle.client, plan_load(self.plan), rate=rate, on_progress=self._progress
        )

    def _progress(self, report: LoadReport) -> None:
        self.sent = report.sent

    def wait_sent(self, share: float) -> None:
        wait_until(lambda: self.sent >= share * self.plan.messages, f"{share:.0%} of the load was sent")

    def finish(self) -> None:
        """Everything delivered, everything ended as planned, and the audit holds."""
        report = self._report.result(timeout=120)
        self._pool.shutdown()
        for part in (*SERVERS.values(), "kafka"):
            self._settle.stack.wait_ready(part)
        assert report.failed == 0, report.first_failure
        wait_until(self._all_known, "every withdrawal is known")
        audit = self._settle.audit()
        assert sum(audit.outcomes.values()) == audit.withdrawals

    def _all_known(self) -> bool:
        known = self._settle.query("saga", "SELECT count(*) FROM withdrawals")[0][0]
        return known - self._before >= self.plan.count


@pytest.fixture(autouse=True)
def untraced(monkeypatch):
    """The shared stack traces everything; thousands of these withdrawals need no spans."""
    monkeypatch.setattr(tracing.setup, "_ratio", 0.0)


@pytest.fixture(autouse=True)
def all_ready_again(settle: Settle):
    yield
    for status in settle.stack.statuses():
        settle.stack.wait_ready(status.name)


def test_killing_each_service_and_the_relay_under_load_loses_and_doubles_nothing(settle: Settle):
    victims = ("account", "payment", "notification", "saga", "relay")
    load = Load(settle, 1800, rate=300)
    for number, victim in enumerate(victims):
        load.wait_sent((number + 1) / (len(victims) + 1))
        settle.stack.kill(victim)
    load.finish()


def test_the_database_away_is_waited_for(settle: Settle):
    load = Load(settle, 600, rate=200)
    load.wait_sent(0.4)
    for server in SERVERS.values():
        settle.stack.kill(server)
    load.finish()


def test_while_the_database_is_away_every_service_says_so_and_nothing_else(settle: Settle):
    settle.stack.stop_service(*SERVERS.values())
    try:
        # Kafka may be slow to answer as well, for a moment.
        alone = re.compile("waiting: the database does not answer: .*\n")
        wait_until(
            lambda: all(alone.fullmatch(not_ready(settle, service) or "") for service in READ_BY),
            "they say what they lack, and nothing else",
        )
    finally:
        for server in SERVERS.values():
            settle.stack.start_service(server)
    wait_until(lambda: all_ready(settle), "every service can work again")


def test_the_broker_away_is_waited_for(settle: Settle):
    load = Load(settle, 600, rate=200)
    load.wait_sent(0.4)
    settle.stack.kill("kafka")
    settle.stack.stop_service("kafka")  # it stays away until they all have noticed
    try:
        wait_until(
            lambda: all_wait_for(settle, "waiting: Kafka does not answer: "), "every service says what it lacks"
        )
    finally:
        settle.stack.start_service("kafka")
    load.finish()
    wait_until(lambda: all_ready(settle), "every service can work again")


# For each service something that it does once per message, and where that message came from.
DONE = {
    "account": ("withdrawal.requests", "WithdrawalRequested", "SELECT payment_id FROM saga_log"),
    "payment": ("account.events", "MoneyDeducted", "SELECT payment_id FROM payments"),
    "notification": ("payment.events", "PaymentProcessed", "SELECT payment_id FROM notifications"),
    "saga": (
        "withdrawal.requests",
        "WithdrawalRequested",
        "SELECT payment_id FROM event_store WHERE type = 'WithdrawalRequested'",
    ),
}


def unconfirmed(settle: Settle, service: str) -> tuple[set[str], set[str]]:
    """Payment IDs beyond the offsets that a service has committed; those of them that it has handled already."""
    topic, event_type, sql = DONE[service]
    done = {str(row[0]) for row in settle.query(service, sql)}
    starts = settle.committed(service, topic)
    found = {
        json.loads(message.value())["payment_id"]
        for message in scan(settle.bootstrap, [topic], starts)
        if dict(message.headers())["eventType"] == event_type.encode()
    }
    return found, found & done


def test_a_service_ends_when_told_to_though_kafka_is_away(settle: Settle):
    # As after a SIGKILL of `settle up`, when the kernel tells all to end at once, and as on any machine.
    with another_instance(settle.stack, "saga") as second:
        settle.stack.stop_service("kafka")
        try:
            second.terminate()
            assert second.wait(WAIT_S) == 0
        finally:
            settle.stack.start_service("kafka")
    settle.stack.wait_ready("kafka")
    wait_until(lambda: all_ready(settle), "every service can work again")


def test_a_stop_in_good_order_under_load_loses_and_doubles_nothing(settle: Settle):
    logs = {service: settle.stack.data / "logs" / f"{service}.log" for service in READ_BY}
    before = {service: log.stat().st_size for service, log in logs.items()}
    for service in READ_BY:
        # No duplicates: a second message of a withdrawal would look as if the first one had not been confirmed.
        load = Load(settle, 300, rate=250, duplicates=0)
        load.wait_sent(0.5)
        settle.stack.stop_service(service)
        try:
            late = Load(settle, 30, rate=250, duplicates=0)  # all of the other may be done before it is stopped
            late.wait_sent(1.0)
            # What was done was also confirmed: a stop leaves nothing to be repeated but what was not begun.
            wait_until(lambda one=service: unconfirmed(settle, one)[0], "something came while it was stopped")
            assert not unconfirmed(settle, service)[1]
        finally:
            settle.stack.start_service(service)
        for one in (load, late):
            one.finish()
    for service, log in logs.items():
        assert b"Traceback" not in log.read_bytes()[before[service] :]


def test_whole_topics_replayed_from_their_beginning_change_nothing(settle: Settle):
    Load(settle, 300, rate=300).finish()
    before, balances = settle.counts(), settle.query("account", "SELECT * FROM accounts ORDER BY account_id")
    settle.stack.stop_service(*READ_BY)
    admin = AdminClient(settle.kafka())
    for service, topics in READ_BY.items():
        known = admin.list_topics(timeout=10).topics
        settle.set_offsets(
            service, [TopicPartition(t.name, p, 0) for t in topics for p in known[t.name].partitions]
        )
    for service in READ_BY:
        settle.stack.start_service(service)
    for service in READ_BY:
        settle.stack.wait_ready(service)
    settle.audit()  # waits until everything was read again
    assert settle.counts() == before
    assert settle.query("account", "SELECT * FROM accounts ORDER BY account_id") == balances


# When each service wrote what it does for a withdrawal.
WRITTEN = {
    "account": "SELECT created_at FROM saga_log",
    "payment": "SELECT created_at FROM payments",
    "notification": "SELECT created_at FROM notifications",
    "saga": "SELECT recorded_at FROM event_store",
}


def test_a_second_instance_joins_and_leaves_without_a_pause_of_more_than_three_seconds(settle: Settle):
    load = Load(settle, 2100, rate=150)
    load.wait_sent(0.05)
    ((begun,),) = settle.query("payment", "SELECT now()")
    for service, share in zip(READ_BY, (0.25, 0.5, 0.75, 0.95), strict=True):
        with another_instance(settle.stack, service):
            load.wait_sent(share)
    ((ended,),) = settle.query("payment", "SELECT now()")
    load.finish()
    for service, written in WRITTEN.items():
        ((pause_s,),) = settle.query(
            service,
            f"""
            SELECT extract(epoch FROM max(gap)) FROM (
                SELECT at - lag(at) OVER (ORDER BY at) AS gap FROM ({written}) AS written(at)
                WHERE at BETWEEN %s AND %s) AS g
            """,
            begun,
            ended,
        )
        assert pause_s < 3, service
