"""Who may do what in Kafka: the rights of :mod:`contracts.rights` as ACLs, and users with their passwords."""

from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from typing import Any

from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from contracts.rights import KafkaUser

TIMEOUT_S = 15.0
ITERATIONS = 4_096
"""Of the hash that Kafka keeps: its least; the passwords are random."""


def acls(users: Iterable[KafkaUser]) -> list[AclBinding]:
    """What lets each user do what it may; a right to read or write brings the one to describe."""
    found = []
    for user in users:
        wanted = [
            *((ResourceType.TOPIC, name, AclOperation.READ) for name in user.reads),
            *((ResourceType.TOPIC, name, AclOperation.WRITE) for name in user.writes),
            *((ResourceType.GROUP, name, AclOperation.READ) for name in user.joins),
            *((ResourceType.GROUP, name, AclOperation.DESCRIBE) for name in user.looks_at),
        ]
        found += [
            AclBinding(
                kind,
                name,
                ResourcePatternType.LITERAL,
                f"User:{user.name}",
                "*",
                operation,
                AclPermissionType.ALLOW,
            )
            for kind, name, operation in wanted
        ]
    return found


def command_line(acl: AclBinding) -> str:
    """An ACL as the arguments of Kafka's own command, ``kafka-acls.sh --bootstrap-server …``."""
    return (
        f"--add --allow-principal {acl.principal} --operation {acl.operation.name.capitalize()} "
        f"--{acl.restype.name.lower()} {acl.name}"
    )


def password_file(user: str) -> str:
    """The name of a file with a user's password."""
    return f"{user}.password"


def existing_acls(client: AdminClient) -> list[AclBinding]:
    """All that Kafka has.

    Raises:
        KafkaException: it does not answer, has no authorizer, or refuses.
    """
    everything = AclBindingFilter(
        ResourceType.ANY, None, ResourcePatternType.ANY, None, None, AclOperation.ANY, AclPermissionType.ANY
    )
    found: list[AclBinding] = client.describe_acls(everything, request_timeout=TIMEOUT_S).result()
    return found


def ensure_acls(client: AdminClient, wanted: Iterable[AclBinding]) -> list[AclBinding]:
    """Create the ACLs that are missing, and return those; others are left alone.

    Raises:
        KafkaException: Kafka does not answer, has no authorizer, or refuses.
    """
    there = {str(acl) for acl in existing_acls(client)}
    missing = [acl for acl in wanted if str(acl) not in there]
    if missing:
        _await(client.create_acls(missing, request_timeout=TIMEOUT_S))
    return missing


def set_passwords(client: AdminClient, passwords: Mapping[str, str]) -> None:
    """Create users for SCRAM-SHA-512, or change their passwords; sessions that exist go on.

    Raises:
        KafkaException: Kafka does not answer, or refuses.
    """
    hashed = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, ITERATIONS)
    changes = [UserScramCredentialUpsertion(user, hashed, secret.encode()) for user, secret in passwords.items()]
    _await(client.alter_user_scram_credentials(changes, request_timeout=TIMEOUT_S))


def _await(asked: Mapping[Any, Future[Any]]) -> None:
    for future in asked.values():
        future.result(timeout=TIMEOUT_S)
