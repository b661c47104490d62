"""What the relay has in place of each setting of Debezium's PostgreSQL connector, its router, and Kafka Connect.

The import reports by this table, and ``docs/debezium.md`` is tested against it. Settings that are translated have
no entry here: they are in :mod:`outbox_relay.debezium.imported`.
"""

from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True)
class Verdict:
    """What becomes of a setting that is not translated.

    Attributes:
        why: in one line, for a person.
        changes: whether records may be other ones without it, or rows missing.
        unless: values with which it says what the relay does anyhow.
    """

    why: str
    changes: bool = False
    unless: tuple[str, ...] = ()


_ALWAYS_THERE = Verdict("the relay has that of itself")
_NO_SNAPSHOT = Verdict("there are no snapshots; which rows from before a new slot are published, --initial says")
_NO_SIGNALS = Verdict("there are no signals and no incremental snapshots")
_TYPES = "columns of such types are read as with the connector's default"
_ERRORS = Verdict("a row that can never be published is quarantined, anything else is waited for")
_PACE = Verdict("the relay sets its pace by the load")
_MASKED = Verdict("columns are published as they are", changes=True)

VERDICTS: dict[str, Verdict] = {
    # the connector
    "name": Verdict("a source is named after its database"),
    "connector.class": _ALWAYS_THERE,
    "tasks.max": Verdict("one thread a source"),
    "slot.drop.on.stop": Verdict("the slot is never dropped: that would lose rows", unless=("false",)),
    "slot.failover": Verdict("the relay makes failover slots wherever PostgreSQL can (17 on)"),
    "slot.stream.params": Verdict("the stream's parameters are the relay's own"),
    "slot.max.retries": _ERRORS,
    "slot.retry.delay.ms": _ERRORS,
    "offset.mismatch.strategy": Verdict("there is one position, the slot's"),
    "lsn.flush.mode": Verdict("the slot is confirmed up to what Kafka has acknowledged", unless=("connector",)),
    "flush.lsn.source": Verdict("the slot is confirmed up to what Kafka has acknowledged", unless=("true",)),
    "publication.autocreate.mode": Verdict(
        "the relay makes a publication of the outbox alone, where there is none"
    ),
    "publish.via.partition.root": Verdict("the relay's own publication has that set"),
    "replica.identity.autoset.values": Verdict("inserts need no replica identity"),
    "schema.include.list": Verdict("the outbox is named by table.include.list"),
    "schema.whitelist": Verdict("the outbox is named by table.include.list"),
    "include.schema.changes": Verdict("there are no schema changes of PostgreSQL to publish"),
    "internal.*.converter*": Verdict("Kafka Connect has no such converters any more"),
    "schema.exclude.list": Verdict("the outbox is named by table.include.list"),
    "table.exclude.list": Verdict("the outbox is named by table.include.list"),
    "table.ignore.builtin": _ALWAYS_THERE,
    "column.include.list": Verdict("the publication has the columns that records are made of"),
    "column.exclude.list": Verdict("the publication has the columns that records are made of"),
    "skip.messages.without.change": Verdict("only inserts are published", unless=("false",)),
    "skipped.operations": Verdict("only inserts are published; to skip these too is not possible"),
    "tombstones.on.delete": Verdict("deleted rows are not published, so no tombstones follow"),
    "message.key.columns": Verdict("the router takes the key from table.field.event.key"),
    "time.precision.mode": Verdict(_TYPES, changes=True, unless=("adaptive",)),
    "decimal.handling.mode": Verdict(_TYPES, changes=True, unless=("precise",)),
    "hstore.handling.mode": Verdict("columns of type hstore make no part of a record here", unless=("json",)),
    "interval.handling.mode": Verdict(
        "columns of type interval make no part of a record here", unless=("numeric",)
    ),
    "money.fraction.digits": Verdict("columns of type money make no part of a record here"),
    "include.unknown.datatypes": Verdict(
        "columns of unknown types make no part of a record here", unless=("false",)
    ),
    "unavailable.value.placeholder": Verdict("an insert has all its values"),
    "column.truncate.to.*": _MASKED,
    "column.mask.*": _MASKED,
    "column.propagate.source.type": Verdict("schemas have no source types", changes=True),
    "datatype.propagate.source.type": Verdict("schemas have no source types", changes=True),
    "schema.name.adjustment.mode": Verdict("names in schemas stay as they are", changes=True, unless=("none",)),
    "field.name.adjustment.mode": Verdict("names in schemas stay as they are", changes=True, unless=("none",)),
    "converters": Verdict("custom converters of columns cannot be run here", changes=True),
    "message.prefix.include.list": Verdict(
        "messages of the log become rows only of one prefix, with DecodeLogicalDecodingMessageContent",
        changes=True,
    ),
    "message.prefix.exclude.list": Verdict("messages of the log are published only of one prefix that is named"),
    "snapshot.*": _NO_SNAPSHOT,
    "incremental.snapshot.*": _NO_SIGNALS,
    "signal.*": _NO_SIGNALS,
    "notification.*": _NO_SIGNALS,
    "read.only": _NO_SIGNALS,
    "event.processing.failure.handling.mode": _ERRORS,
    "errors.*": _ERRORS,
    "retriable.restart.connector.wait.ms": _ERRORS,
    "max.batch.size": _PACE,
    "max.queue.size": _PACE,
    "max.queue.size.in.bytes": _PACE,
    "poll.interval.ms": _PACE,
    "streaming.delay.ms": _PACE,
    "status.update.interval.ms": _PACE,
    "xmin.fetch.interval.ms": _PACE,
    "heartbeat.*": Verdict("a quiet database accumulates no WAL here, without a heartbeat table or topic"),
    "topic.heartbeat.prefix": Verdict("there is no heartbeat topic"),
    "provide.transaction.metadata": Verdict("there is no topic of transactions", unless=("false",)),
    "topic.transaction": Verdict("there is no topic of transactions"),
    "topic.naming.strategy": Verdict("topics are the router's"),
    "topic.delimiter": Verdict("topics are the router's"),
    "topic.cache.size": Verdict("topics are the router's"),
    "topic.creation.*": Verdict("the relay creates no topics: have them before it starts"),
    "extended.headers.enabled": Verdict("records have no headers __debezium.context.*", unless=("false",)),
    "openlineage.*": Verdict("there is no lineage here"),
    "custom.metric.tags": Verdict("metrics are labelled by source"),
    "guardrail.*": Verdict("only the outbox is read"),
    "schema.refresh.mode": _ALWAYS_THERE,
    "database.initial.statements": Verdict("sessions are set up by the relay alone"),
    "database.query.timeout.ms": _ALWAYS_THERE,
    "database.tcpKeepAlive": Verdict("say keepalives in the DSN, as libpq has them; they are on by default"),
    "database.connection.factory.class": Verdict("the relay connects through libpq"),
    "database.sslfactory": Verdict("the relay connects through libpq"),
    "database.sslpassword": Verdict("say sslpassword in the DSN, by a variable"),
    "database.*": Verdict("a property of the JDBC driver; what libpq has of it goes into the DSN"),
    "exactly.once.support": Verdict("records are published once without transactions of Kafka"),
    "transaction.boundary*": Verdict("records are published once without transactions of Kafka"),
    "offset.*": Verdict("there is one position, the slot's"),
    "offsets.storage.topic": Verdict("there is one position, the slot's"),
    "config.action.reload": Verdict("the relay is restarted with a new configuration"),
    "predicates*": Verdict("predicates are not evaluated; the relay reads the outbox alone"),
    "producer.override.*": Verdict(
        "the relay's producer has its own: acks=all, idempotent, lz4; security by SETTLE_KAFKA_…"
    ),
    "consumer.override.*": Verdict("it is no sink"),
    "admin.override.*": Verdict("the relay creates no topics"),
    "debezium.sink.kafka.wait.message.delivery.timeout.ms": _ERRORS,
    "quarkus.*": Verdict("the relay logs, answers and measures in its own way (SETTLE_HTTP_PORT)"),
    # the router
    "table.field.event.type": Verdict(
        "the router itself makes nothing of it: see table.fields.additional.placement"
    ),
    "tracing.*": Verdict("spans go by the columns traceparent and tracestate (columns in the configuration)"),
}


def verdict(name: str) -> Verdict | None:
    """What becomes of a setting; None where that is not known."""
    if (exact := VERDICTS.get(name)) is not None:
        return exact
    return next(
        (found for pattern, found in VERDICTS.items() if "*" in pattern and fnmatchcase(name, pattern)), None
    )
