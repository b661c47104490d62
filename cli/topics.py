"""``settle topics``: the topics, which must exist before the services start, and who may do what with them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli import settings
from cli.errors import FAILED, BadInputError
from cli.remote import ApiOption, ask
from cli.settings import DataOption
from cli.text import say


def topics(
    partitions: Annotated[int, typer.Option(min=1, help="Of each new topic; bounds the instances.")] = 4,
    replication: Annotated[int, typer.Option(min=1, help="Copies of each; 3 in production.")] = 1,
    min_insync: Annotated[
        int, typer.Option(min=1, help="Copies that must have a record before it counts; 2 in production.")
    ] = 1,
    retention_days: Annotated[
        float, typer.Option(min=0, help="How long records are kept; 0 = for ever, as dead letters always are.")
    ] = 7.0,
    acls: Annotated[
        bool, typer.Option("--acls", help="Print instead what each Kafka user may do, as the registry has it.")
    ] = False,
    apply: Annotated[bool, typer.Option("--apply", help="With --acls: create the ACLs that are missing.")] = False,
    passwords: Annotated[
        Path | None,
        typer.Option(
            "--passwords",
            metavar="FOLDER",
            help="With --acls --apply: also give users the passwords in its files USER.password (SCRAM-SHA-512).",
            file_okay=False,
            exists=True,
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Create nothing: say what each topic is like, fail if one is missing.")
    ] = False,
    api: ApiOption = None,
    data: DataOption = None,
) -> None:
    """Create the topics that are missing, and their dead-letter topics."""
    if api is not None and not check:
        raise BadInputError("with --api, topics are looked at and not made: add --check")
    if check:
        _check(data, api)
        return
    if acls:
        _acls(apply, passwords, data)
        return
    if apply or passwords:
        raise BadInputError("--apply and --passwords are about --acls")
    from broker.provision import ensure_topics
    from contracts.services import all_topic_names
    from contracts.topics import DEAD_LETTERS_HANDLED

    if min_insync > replication:
        raise BadInputError(f"of {replication} copies never {min_insync} are in sync: nothing could be written")
    created = ensure_topics(settings.kafka_bootstrap(data), partitions, replication, min_insync, retention_days)
    for name in (*all_topic_names(), DEAD_LETTERS_HANDLED):
        say(f"{name}: {'created' if name in created else 'is there'}")


def _check(data: Path | None, api: str | None) -> None:
    import msgspec

    from operations.topics import TopicState, topic_states

    if api is not None:
        found = msgspec.convert(ask(api, "GET", "/v1/topics")["topics"], list[TopicState])
    else:
        found = topic_states(settings.kafka_bootstrap(data))
    for one in found:
        of = f"{one.copies} cop{'y' if one.copies == 1 else 'ies'}"
        parts = f"{one.partitions} partition{'' if one.partitions == 1 else 's'}"
        say(f"{one.name}: {parts}, {of}" if one.partitions else f"{one.name}: is missing")
    if not all(one.partitions for one in found):
        raise typer.Exit(FAILED)


def _acls(apply: bool, passwords: Path | None, data: Path | None) -> None:
    from broker import access
    from contracts.rights import kafka_users
    from contracts.secret_files import password_file

    users = kafka_users()
    wanted = access.rights(users)
    if not apply:
        if passwords:
            raise BadInputError("--passwords changes users: it needs --apply")
        for right in wanted:
            say(str(right))
        return
    from broker.clients import admin

    client = admin(settings.kafka_bootstrap(data))
    if passwords:
        files = {user.name: passwords / password_file(user.name) for user in users}
        found = {name: file.read_text().strip() for name, file in files.items() if file.exists()}
        if not found:
            raise BadInputError(f"no user has a file in {passwords}, such as {password_file(users[0].name)}")
        access.set_passwords(client, found)
        say(f"passwords of {', '.join(found)}: set")
    created = access.ensure_rights(client, wanted)
    for right in created:
        say(str(right))
    say(f"{len(created)} ACLs created, {len(wanted) - len(created)} were there")
