"""Who may do what in Kafka: the rights of :mod:`contracts.rights` as ACLs, and users with their passwords."""

from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from typing import Any, NamedTuple

from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._acl import AclBinding, AclBindingFilter, AclOperation, AclPermissionType
from confluent_kafka.admin._resource import ResourcePatternType, ResourceType
from confluent_kafka.admin._scram import (
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialAlteration,
    UserScramCredentialUpsertion,
)

from broker.answers import REQUEST_S, answer
from contracts.rights import KafkaUser

TIMEOUT_S = 15.0
TRANSACTIONS = "transactional-id"
ITERATIONS = 4_096
"""Of the hash that Kafka keeps: its least, as the passwords are random."""

_OPERATIONS = {
    "Read": AclOperation.READ,
    "Write": AclOperation.WRITE,
    "Describe": AclOperation.DESCRIBE,
    "DescribeConfigs": AclOperation.DESCRIBE_CONFIGS,
}


class Right(NamedTuple):
    """What a user may do with one topic or group, or with transactional IDs that begin so, from any host."""

    user: str
    operation: str
    kind: str
    name: str
    is_prefix: bool = False

    def __str__(self) -> str:
        """As arguments of Kafka's own command, ``kafka-acls.sh --bootstrap-server …``."""
        prefixed = " --resource-pattern-type prefixed" if self.is_prefix else ""
        by = f"--add --allow-principal User:{self.user} --operation {self.operation}"
        return f"{by} --{self.kind} {self.name}{prefixed}"


def rights(users: Iterable[KafkaUser]) -> list[Right]:
    """What lets each user do what it may; who may read or write may describe as well."""
    return [
        Right(user.name, operation, kind, name, kind == TRANSACTIONS)
        for user in users
        for operation, kind, names in (
            ("Read", "topic", user.reads),
            ("Write", "topic", user.writes),
            ("DescribeConfigs", "topic", user.asks_about),
            ("Read", "group", user.joins),
            ("Describe", "group", user.looks_at),
            ("Write", TRANSACTIONS, user.transacts),
        )
        for name in names
    ]


def ensure_rights(client: AdminClient, wanted: Iterable[Right]) -> list[Right]:
    """Create the ACLs that are missing, and return them; others are left alone.

    Raises:
        KafkaException: Kafka does not answer, has no authorizer, or refuses.
    """
    # None stands for whatever it is, which the signature does not say.
    anything: Any = None
    everything = AclBindingFilter(
        ResourceType.ANY,
        anything,
        ResourcePatternType.ANY,
        anything,
        anything,
        AclOperation.ANY,
        AclPermissionType.ANY,
    )
    there = {str(acl) for acl in answer(client.describe_acls(everything, request_timeout=REQUEST_S), TIMEOUT_S)}
    missing = [right for right in wanted if str(_acl(right)) not in there]
    if missing:
        _await(client.create_acls([_acl(right) for right in missing], request_timeout=REQUEST_S))
    return missing


def set_passwords(client: AdminClient, passwords: Mapping[str, str]) -> None:
    """Create users for SCRAM-SHA-512, or change their passwords; sessions that exist go on.

    Raises:
        KafkaException: Kafka does not answer, or refuses.
    """
    hashed = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, ITERATIONS)
    changes: list[UserScramCredentialAlteration] = [
        UserScramCredentialUpsertion(user, hashed, password.encode()) for user, password in passwords.items()
    ]
    _await(client.alter_user_scram_credentials(changes, request_timeout=REQUEST_S))


def _acl(right: Right) -> AclBinding:
    return AclBinding(
        ResourceType[right.kind.upper().replace("-", "_")],
        right.name,
        ResourcePatternType.PREFIXED if right.is_prefix else ResourcePatternType.LITERAL,
        f"User:{right.user}",
        "*",
        _OPERATIONS[right.operation],
        AclPermissionType.ALLOW,
    )


def _await(asked: Mapping[Any, Future[Any]]) -> None:
    for future in asked.values():
        answer(future, TIMEOUT_S)
