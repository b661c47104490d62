"""What each Kafka user may do follows from the registry, and is no more than its work needs."""

from click.testing import Result
from confluent_kafka.admin._acl import AclOperation
from typer.testing import CliRunner

from broker.access import _acl, rights
from cli.main import app
from contracts.rights import OPERATOR, PRODUCER, RELAY, VIEWER, kafka_users, relay_of
from contracts.services import API, PROCESSORS, READ_BY, REQUESTS, SERVICES, all_topic_names
from contracts.topics import DEAD_LETTERS_HANDLED, consumer_group
from outbox_relay.fencing import transactional_id
from outbox_relay.position import Origin

USERS = {user.name: user for user in kafka_users()}


def test_a_service_reads_what_it_reads_in_its_group_and_writes_dead_letters_alone():
    for service in PROCESSORS:
        user = USERS[service.name]
        assert user.reads == tuple(topic.name for topic in service.reads)
        assert user.writes == tuple(topic.dead_letters for topic in service.reads)
        assert (user.joins, user.looks_at) == ((consumer_group(service.name),), ())


def test_a_relay_writes_what_outboxes_emit_and_one_of_a_single_outbox_only_what_that_one_does():
    emitted = {service.name: tuple(topic.name for topic in service.emits) for service in SERVICES}
    every = {name for names in emitted.values() for name in names}
    assert set(USERS[RELAY].writes) == set(USERS[RELAY].reads) == every
    assert emitted["api"] == tuple(topic.name for topic in REQUESTS)
    for service, names in emitted.items():
        assert USERS[relay_of(service)].writes == USERS[relay_of(service)].reads == names


def test_a_relay_may_ask_whether_the_topics_that_it_writes_are_compacted_and_nobody_else_asks():
    asked = [right for right in rights(kafka_users()) if right.operation == "DescribeConfigs"]
    relays = [RELAY, *(relay_of(service.name) for service in SERVICES)]
    assert [(one.user, one.kind, one.name) for one in asked] == [
        (name, "topic", topic) for name in relays for topic in USERS[name].writes
    ]
    described = _acl(asked[0])
    assert (described.name, described.operation) == (asked[0].name, AclOperation.DESCRIBE_CONFIGS)


def test_relays_alone_send_in_transactions_by_ids_of_outboxes():
    found = {right.user: str(right) for right in rights(kafka_users()) if right.is_prefix}
    assert sorted(found) == sorted([RELAY, *(relay_of(service.name) for service in SERVICES)])
    wanted = "--operation Write --transactional-id settle-outbox- --resource-pattern-type prefixed"
    assert found[RELAY] == f"--add --allow-principal User:relay {wanted}"
    assert transactional_id(Origin(b"1f0c9a3e", 0, 0, "2of4")).startswith("settle-outbox-")


def test_a_producer_writes_requests_for_withdrawals_and_can_do_nothing_else():
    (right,) = rights([USERS[PRODUCER]])
    assert str(right) == "--add --allow-principal User:producer --operation Write --topic withdrawal.requests"


def test_a_viewer_and_the_api_change_nothing_and_an_operator_writes_no_dead_letter():
    everything = {*all_topic_names(), DEAD_LETTERS_HANDLED}
    for name in (VIEWER, OPERATOR, API):
        assert set(USERS[name].reads) == everything
        assert USERS[name].joins == ()
        assert {*map(consumer_group, READ_BY)} < set(USERS[name].looks_at)
    assert USERS[VIEWER].writes == USERS[API].writes == ()
    assert set(USERS[OPERATOR].writes) == {name for name in everything if not name.endswith(".dlq")}


def settle(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["topics", *arguments])


def test_the_command_prints_every_right_as_kafkas_own_command_takes_it():
    printed = settle("--acls").stdout.splitlines()
    assert printed == [str(right) for right in rights(kafka_users())]
    assert "--add --allow-principal User:payment --operation Read --group settle-payment" in printed


def test_what_is_about_acls_needs_them(tmp_path):
    for arguments in (["--apply"], ["--passwords", str(tmp_path)], ["--acls", "--passwords", str(tmp_path)]):
        refused = settle(*arguments)
        assert (refused.exit_code, len(refused.stderr.splitlines())) == (2, 1)
