"""The check before a start: what of databases, tables, rights and topics would keep the relay from its work.

Nothing is changed, and nothing is published. A source's relay may run meanwhile.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from typing import Any, LiteralString

import psycopg
from confluent_kafka import KafkaException

from broker import security
from broker.clients import admin
from broker.lifeline import why_unanswered
from outbox_relay import coverage, marks
from outbox_relay.control import table as control
from outbox_relay.dead import create_table, has_dead
from outbox_relay.errors import OutboxMissingError, RelayError
from outbox_relay.managed import logical_level
from outbox_relay.marking import may_mark
from outbox_relay.names import name_of, one_line
from outbox_relay.outbox import Outbox
from outbox_relay.plan import plan
from outbox_relay.quoting import quoted
from outbox_relay.replication import connect
from outbox_relay.settings import RelaySettings
from outbox_relay.slot import lacks_failover
from outbox_relay.slot_name import slot_name
from outbox_relay.source_settings import SourceSettings
from outbox_relay.status import missing_topics
from outbox_relay.table import GIVE_PRIMARY, IS_STANDBY, Table, find_table, scalar

KAFKA_ANSWER_S = 10.0
# The relay makes a temporary slot first, and of it the one that stays.
SLOTS_OF_A_START = 2

_SERVER = """
    SELECT pg_is_in_recovery(), current_setting('server_encoding'), current_setting('wal_level'),
        current_setting('max_replication_slots')::int - (SELECT count(*) FROM pg_replication_slots)::int
"""
_SCHEMA = "SELECT has_schema_privilege({schema}, 'USAGE'), has_schema_privilege({schema}, 'CREATE')"
_TABLE = """
    SELECT has_table_privilege({name}, 'SELECT') OR has_any_column_privilege({name}, 'SELECT'),
        has_table_privilege({name}, 'UPDATE'), has_table_privilege({name}, 'DELETE'),
        pg_has_role(relowner, 'USAGE'), has_database_privilege(current_database(), 'CREATE')
    FROM pg_class WHERE oid = {name}::regclass
"""
_DEAD = "SELECT has_table_privilege({dead_name}, 'SELECT') AND has_table_privilege({dead_name}, 'INSERT')"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        source: of which source, or ``kafka``.
        subject: what was looked at: ``table``, ``rights`` and so on.
        is_ok: whether the relay can work with it.
        text: how it is, in one line.
        remedy: what to do, where it is not as it should be.
    """

    source: str
    subject: str
    is_ok: bool
    text: str
    remedy: str | None = None


def lines(findings: Iterable[Finding]) -> Iterator[str]:
    """A line for each, for people."""
    for one in findings:
        remedy = f": {one.remedy}" if one.remedy else ""
        yield f"{'ok' if one.is_ok else 'problem':<8} {one.source}  {one.subject}: {one.text}{remedy}"


def to_json(findings: Iterable[Finding]) -> str:
    """All of them as a JSON array."""
    return json.dumps([asdict(one) for one in findings], indent=2)


def check(settings: RelaySettings) -> Iterator[Finding]:
    """Look at Kafka, and at each source.

    Raises:
        RelayError: there is no source, or the configuration file is wrong.
        KafkaSettingsError: nobody can connect to Kafka as the variables say.
    """
    made = plan(settings)
    bootstrap = made.settings.kafka_bootstrap
    security.check(bootstrap)
    topics: Mapping[str, Any] | None = None
    why = why_unanswered(bootstrap, KAFKA_ANSWER_S)
    if why is not None:
        yield Finding("kafka", "connection", False, f"{bootstrap} does not answer", why)
    else:
        try:
            topics = admin(bootstrap).list_topics(timeout=KAFKA_ANSWER_S).topics
            yield Finding("kafka", "connection", True, f"{bootstrap} answers")
        except KafkaException as error:
            yield Finding("kafka", "connection", False, f"{bootstrap} lists no topics", error.args[0].str())
    for source in made.sources:
        name = name_of(source)
        for subject, is_ok, text, remedy in _source(source, topics):
            yield Finding(name, subject, is_ok, text, remedy)


_Seen = tuple[str, bool, str, str | None]


def _source(source: SourceSettings, topics: Mapping[str, Any] | None) -> Iterator[_Seen]:
    try:
        with closing(connect(source.dsn, replication=False)) as connection:
            version = connection.info.server_version
            yield "connection", True, f"PostgreSQL {version // 10_000}.{version % 10_000}", None
            yield from _server(source, connection)
            try:
                table = find_table(connection, source.outbox)
            except (RelayError, psycopg.Error) as error:
                yield "table", False, one_line(error), _remedy(error, source.outbox)
                return
            yield "table", True, f"{source.outbox.label} has all that records are made of", None
            yield from _rights(source, connection, table)
            if source.reader == "wal":
                yield from _log(connection, table)
            elif not table.is_marked:
                yield from _mark(source, connection)
            with suppress(psycopg.errors.InsufficientPrivilege):  # said already, with the rights
                if topics is not None:
                    yield from _topics(connection, table, topics)
    except (RelayError, psycopg.Error, ValueError) as error:
        yield "connection", False, one_line(error), None


def _server(source: SourceSettings, connection: psycopg.Connection[Any]) -> Iterator[_Seen]:
    is_standby, encoding, wal_level, free = _row(connection, source.outbox, _SERVER)
    if is_standby:
        yield "server", False, IS_STANDBY, GIVE_PRIMARY
    if encoding != "UTF8":
        yield "encoding", True, f"{encoding}: text that has no form in UTF-8 would stop the outbox", None
    if source.reader != "wal":
        return
    if wal_level == "logical":
        yield "wal_level", True, "logical", None
    else:
        yield "wal_level", False, wal_level, logical_level(connection)
    try:
        connect(source.dsn).close()
        yield "replication", True, "allowed", None
    except (RelayError, psycopg.Error) as error:
        yield "replication", False, one_line(error), "pg_hba.conf and PgBouncer may refuse it too"
    name = slot_name(connection, source.outbox)
    has_slot = scalar(connection, "SELECT count(*) FROM pg_replication_slots WHERE slot_name = %s", name)
    if lacks_failover(connection, name):
        yield "failover", True, f"{name} is no failover slot: the relay makes it one at the start", None
    share = source.outbox.share
    needed = SLOTS_OF_A_START + (share.of - share.number if share is not None else 0)
    if has_slot or free >= needed:
        yield "slots", True, f"{name} {'is there' if has_slot else 'will be made'}", None
    else:
        yield "slots", False, f"{free} are free, {needed} are needed", "raise max_replication_slots"


def _rights(source: SourceSettings, connection: psycopg.Connection[Any], table: Table) -> Iterator[_Seen]:
    outbox, role = source.outbox, quoted(connection.info.user)
    may_select, may_update, may_delete, *_ = _row(connection, outbox, _TABLE)
    wanted = {"SELECT": may_select}
    if source.cleanup:
        wanted["DELETE"] = may_delete
    if source.reader == "polling" or table.is_marked:
        wanted["UPDATE"] = may_update or may_mark(connection, table)
    missing = ", ".join(right for right, is_given in wanted.items() if not is_given)
    if missing:
        yield "rights", False, f"{role} lacks {missing}", f"GRANT {missing} ON {outbox.label} TO {role}"
    else:
        yield "rights", True, f"{role} has {', '.join(wanted)}", None
    _, may_create = _row(connection, outbox, _SCHEMA)
    yield _control(connection, outbox, may_create=may_create)
    if has_dead(connection, outbox):
        if scalar(connection, outbox.sql(_DEAD)):
            yield "dead rows", True, f"{outbox.dead_label} is there", None
        else:
            grant = f"GRANT SELECT, INSERT, UPDATE ON {outbox.dead_label} TO {role}"
            yield "dead rows", False, f"{role} may not write {outbox.dead_label}", grant
        return
    if may_create:
        yield "dead rows", True, f"{outbox.dead_label} will be made when it is needed", None
    else:
        yield "dead rows", False, f"{role} may not make {outbox.dead_label}", create_table(outbox)


def _control(connection: psycopg.Connection[Any], outbox: Outbox, *, may_create: bool) -> _Seen:
    """The table of what is asked of the relay, without which it runs as well."""
    name, grant = outbox.control_label, control.how_to_grant(connection, outbox)
    if control.has_table(connection, outbox):
        if all(control.rights(connection, outbox)):
            return "control", True, f"{name} is there", None
        return "control", False, f"{quoted(connection.info.user)} may not read and write {name}", grant
    if may_create:
        return "control", True, f"{name} will be made when it is needed", None
    remedy = f"{control.create_table(outbox)}; {grant}"
    return "control", True, f"there is no {name}, so the relay can be paused only if its owner runs", remedy


def _log(connection: psycopg.Connection[Any], table: Table) -> Iterator[_Seen]:
    outbox = table.outbox
    gap = coverage.publication_gap(connection, table)
    *_, is_owner, may_create = _row(connection, outbox, _TABLE)
    name = quoted(outbox.publication_name)
    if gap is None:
        yield "publication", True, f"{name} has all rows", None
    elif gap.is_missing and gap.statements and is_owner and may_create:
        yield "publication", True, f"{name} will be made", None
    else:
        yield "publication", False, gap.reason, "; ".join(gap.statements) or None
    slot = coverage.slot_gap(connection, slot_name(connection, outbox))
    if slot is not None:
        remedy = "it is made anew at the start" if slot.is_ours else "drop it, or name another slot"
        yield "slot", slot.is_ours, slot.reason, remedy


def _mark(source: SourceSettings, connection: psycopg.Connection[Any]) -> Iterator[_Seen]:
    column = source.outbox.columns.published_at
    *_, is_owner, _ = _row(connection, source.outbox, _TABLE)
    if is_owner:
        yield "mark", True, f"the column {column} will be made", None
    else:
        statements = marks.statements(source.outbox)
        is_partitioned = marks.is_partitioned(connection, source.outbox)
        statements.append(marks.index_statement(source.outbox, is_partitioned=is_partitioned))
        yield "mark", False, f"there is no column {column}, which polling needs", "; ".join(statements)


def _topics(connection: psycopg.Connection[Any], table: Table, topics: Mapping[str, Any]) -> Iterator[_Seen]:
    constant = table.outbox.route.topic
    missing = missing_topics(connection, table, topics.keys())
    if constant is not None and constant not in topics:
        missing = (constant,)
    if missing:
        yield "topics", False, f"Kafka has no {', '.join(missing)}", "create what is missing"
    else:
        yield "topics", True, f"Kafka has {constant or 'those of the rows that are there'}", None


def _remedy(error: Exception, outbox: Outbox) -> str | None:
    if not isinstance(error, OutboxMissingError):
        return None
    schema, dot, table = outbox.table.partition(".")
    if dot:
        return f"schema and table are named apart (schema {schema}, table {table})"
    return "run its migration, or name another table"


def _row(connection: psycopg.Connection[Any], outbox: Outbox, query: LiteralString) -> Any:
    return connection.execute(outbox.sql(query)).fetchone()
