"""The relay at a Kafka that asks who comes: it waits, says for what, and loses and doubles nothing."""

from contextlib import ExitStack
from types import SimpleNamespace

import pytest
from structlog.testing import capture_logs

from broker import rotation, security
from outbox_relay import source
from stack import ports
from tests.integration.relay.outbox import Outbox, answer, relaying, wait_until
from tests.integration.secured import PASSWORD, SCRAM, SecuredKafka

USER = "SETTLE_KAFKA_SASL_USERNAME"
STANDS_BY = "ready\n{}: another relay reads this outbox; standing by\n"


@pytest.fixture(scope="module")
def kafka(tmp_path_factory):
    with SecuredKafka(tmp_path_factory.mktemp("secured"), {"log.cleaner.backoff.ms": "100"}) as kafka:
        yield kafka


@pytest.fixture
def outbox(kafka, stack):
    """One whose topic is at the secured Kafka."""
    state = SimpleNamespace(kafka_bootstrap=kafka.admin, dsns=stack.state.dsns)
    return Outbox(SimpleNamespace(state=state, admin_bootstrap=kafka.admin, data=stack.data))


@pytest.fixture
def relay(kafka, outbox):
    """Run a relay as a user with a password; yields the port of its pages."""
    address = kafka.address[SCRAM]

    def run(variables, reader="wal", **reading):
        security.assume(address, variables)
        port = ports.choose(taken=set())
        return port, relaying(outbox, http_port=port, bootstrap=address, reader=reader, **reading)

    yield run
    security.assume(address, None)


def unready(port, *texts):
    status, text = answer(port, "/readyz")
    return status == 503 and all(one in text for one in texts)


def test_a_wrong_password_and_a_missing_right_are_waited_for_and_named(kafka, outbox, relay):
    user = outbox.name
    kafka.set_password(user)
    kafka.allow(user, "TOPIC", outbox.topic, "READ")
    ids = [outbox.insert() for _ in range(3)]
    port, running = relay(kafka.identity(SCRAM, user, "new"))
    with capture_logs() as logs, running:
        wait_until(lambda: unready(port, USER, "SETTLE_KAFKA_SASL_PASSWORD"), "it says that the password is wrong")
        kafka.set_password(user, "new")
        wait_until(lambda: unready(port, USER, "lacks a right (ACL)"), "it says that it may not write")
        kafka.allow(user, "TOPIC", outbox.topic, "WRITE")
        outbox.wait_published(ids)
        wait_until(lambda: answer(port, "/readyz")[0] == 200, "it is ready")
    outbox.assert_exactly_once_in_order()
    assert not [line for line in logs if "quarantined" in line["event"] or "bug" in line["event"]]
    assert outbox.one("SELECT to_regclass('outbox_dead') IS NULL")


@pytest.mark.parametrize("reader", ["wal", "polling"])
def test_a_standby_that_kafka_refuses_is_not_ready_and_takes_no_outbox(kafka, outbox, relay, reader):
    user = outbox.name
    kafka.allow(user, "TOPIC", outbox.topic, "READ", "WRITE")
    kafka.set_password(user)
    with ExitStack() as first:
        first.enter_context(relaying(outbox, reader=reader))
        outbox.wait_published([outbox.insert()])
        port, standby = relay(kafka.identity(SCRAM, user), reader)
        with standby:
            wait_until(lambda: answer(port, "/readyz") == (200, STANDS_BY.format(outbox.name)), "it stands by")
            kafka.set_password(user, "another")
            wait_until(
                lambda: unready(port, USER, "SETTLE_KAFKA_SASL_PASSWORD"), "it says that it cannot take over"
            )
            first.close()
            # Nobody has the outbox now, the one that Kafka refuses neither: another finds it free.
            with relaying(outbox, reader=reader):
                outbox.wait_published([outbox.insert()])
                wait_until(lambda: unready(port, USER), "it still says so")
    outbox.assert_exactly_once_in_order()


def test_an_outbox_is_given_back_once_kafka_refuses_who_reads_it(kafka, outbox, relay, monkeypatch):
    monkeypatch.setattr(source, "REFUSED_S_MAX", 0.5)
    user = outbox.name
    kafka.allow(user, "TOPIC", outbox.topic, "READ", "WRITE")
    kafka.set_password(user)
    port, running = relay(kafka.identity(SCRAM, user))
    with running:
        outbox.wait_published([outbox.insert()])
        kafka.set_password(user, "another")
        kafka.kill()
        kafka.start()
        wait_until(lambda: unready(port, USER), "it says that its password is wrong")
        with relaying(outbox):
            outbox.wait_published([outbox.insert()])
            wait_until(lambda: unready(port, USER), "it still says so")
    outbox.assert_exactly_once_in_order()


def test_a_password_that_changes_in_a_file_is_taken_up_while_it_runs(kafka, outbox, relay, tmp_path, monkeypatch):
    monkeypatch.setattr(rotation, "LOOK_EVERY_S", 0.1)
    user = outbox.name
    kafka.set_password(user)
    kafka.allow(user, "TOPIC", outbox.topic, "READ", "WRITE")
    file = tmp_path / "client.properties"
    file.write_text(f"sasl.password={PASSWORD}\n")
    port, running = relay(kafka.identity(SCRAM, user, SASL_PASSWORD="", CONFIG=file))
    with capture_logs() as logs, running:
        outbox.wait_published([outbox.insert()])
        kafka.set_password(user, "another")
        file.write_text("sasl.password=another\n")
        wait_until(lambda: [line for line in logs if "identity has changed" in line["event"]], "it takes it up")
        outbox.wait_published([outbox.insert()])
        wait_until(lambda: answer(port, "/readyz")[0] == 200, "it is ready")
    outbox.assert_exactly_once_in_order()


COMPACTED = {"cleanup.policy": "compact", "segment.ms": "100", "min.cleanable.dirty.ratio": "0"}


@pytest.mark.parametrize("is_compacted", [False, True], ids=["that has every record", "that was compacted"])
def test_of_a_topic_that_a_relay_may_not_ask_about_no_old_version_is_published_after_the_newest(
    kafka, outbox, relay, is_compacted
):
    user = outbox.name
    kafka.set_password(user)
    kafka.allow(user, "TOPIC", outbox.topic, "READ", "WRITE")
    with relaying(outbox, cleanup=False):
        old = outbox.insert()
        outbox.wait_published([old, outbox.insert()])
        if is_compacted:
            outbox.set_topic(COMPACTED)

            def is_taken():
                outbox.wait_published([outbox.insert()])  # a segment ends with what comes after its time
                return old not in outbox.published()

            wait_until(is_taken, "compaction takes the oldest record")
        outbox.wait_confirmed()
    outbox.drop_slot()
    late = outbox.insert()
    port, running = relay(kafka.identity(SCRAM, user), cleanup=False)
    with running:
        if is_compacted:
            wait_until(lambda: unready(port, "do not tell (give DescribeConfigs)"), "it asks")
        else:
            outbox.wait_published([late])
    if is_compacted:
        assert not {old, late} & set(outbox.published())
    else:
        outbox.assert_exactly_once_in_order()
