"""Outboxes of other shapes than Settle's own: other schemas, tables and columns, of other types."""

import json
from dataclasses import replace

from psycopg import sql

from outbox_relay.outbox import Additional, ColumnNames, Route
from outbox_relay.outbox import Outbox as Description
from outbox_relay.settings import RelaySettings
from stack import secured
from tests.conftest import SECURE
from tests.integration.relay.outbox import Outbox, running

ODD = Description(
    schema='bil.ling "x"',
    table='Event Log.v2 "new"',
    columns=ColumnNames(
        id="Event ID",
        aggregatetype="order",
        aggregateid="Key",
        type="what's it",
        payload="user",
        traceparent="trace parent",
        tracestate=None,
        created_at="at",
        published_at="Sent At",
    ),
    route=Route(regex="(?<name>.+)", replacement="${name}.events"),
    additional=(Additional("tenant", "header", "x-tenant"), Additional("Shard", "partition")),
)
"""Every name has to be quoted; UUIDs, a number as the key, ``jsonb``; and columns that have no role."""

ODD_TYPES = """
    {id} uuid PRIMARY KEY DEFAULT gen_random_uuid(), {payload} jsonb, "Shard" smallint, {type} varchar(40),
    {aggregateid} bigint, {aggregatetype} text, tenant text, at timestamp DEFAULT now(), {traceparent} text
"""

LEAN = Description(
    table="messages",
    columns=ColumnNames(aggregatetype=None, aggregateid=None, type=None, traceparent=None, tracestate=None),
)
"""IDs that count, bytes, and nothing else: no key, no type, one topic."""

LEAN_TYPES = "{id} bigint GENERATED ALWAYS AS IDENTITY, {payload} bytea"

SHAPES = {"odd": (ODD, ODD_TYPES), "lean": (LEAN, LEAN_TYPES)}


class Shaped(Outbox):
    """A database with an outbox of another shape."""

    def __init__(self, stack, shape, *, name=None, topic=True, database=None):
        super().__init__(stack, table=False, topic=topic, name=name)
        self.description, types = SHAPES[shape]
        self.shape = shape
        if shape == "lean":
            self.description = replace(self.description, route=Route(topic=self.topic))
        self.make(self.description, types)

    def make(self, description, types):
        """Create a table of that description."""
        self.connection.execute(
            sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(description.schema))
        )
        self.connection.execute(description.sql(f"CREATE TABLE {{table}} ({types})"))

    def put(self, key=1, *, description=None, connection=None, kind=None, payload=None, tenant="t-1", shard=None):
        """Insert a row; returns its ID as text."""
        described = description or self.description
        connection = connection or self.connection
        number = next(self._numbers)
        if described.columns.aggregatetype is None:
            body = payload or b"\x00\xff%d" % number
            query = described.sql("INSERT INTO {table} ({payload}) VALUES (%s) RETURNING {id}::text")
            return connection.execute(query, (body,)).fetchone()[0]
        query = described.sql(
            'INSERT INTO {table} ({aggregatetype}, {aggregateid}, {type}, {payload}, tenant, "Shard")'
            " VALUES (%s, %s, 'MoneyDeducted', %s, %s, %s) RETURNING {id}::text"
        )
        body = payload or json.dumps({"number": number})
        return connection.execute(query, (kind or self.name, key, body, tenant, shard)).fetchone()[0]

    def left(self, description=None):
        """How many rows the table has."""
        return self.one((description or self.description).sql("SELECT count(*) FROM {table}"))


def toml(dsn, *descriptions, bootstrap, **reading):
    """A configuration file of one database with these outboxes."""
    lines = [f"kafka.bootstrap = {json.dumps(bootstrap)}", "[[source]]", f"dsn = {json.dumps(dsn)}"]
    lines += [f"{key} = {json.dumps(value)}" for key, value in reading.items()]
    for one in descriptions:
        lines += ["[[source.outbox]]", f"schema = {json.dumps(one.schema)}", f"table = {json.dumps(one.table)}"]
        if one.route.topic is not None:
            lines.append(f"route.topic = {json.dumps(one.route.topic)}")
        else:
            lines.append(f"route.regex = {json.dumps(one.route.regex)}")
            lines.append(f"route.replacement = {json.dumps(one.route.replacement)}")
        for key in ("publication", "slot", "dead_table"):
            if getattr(one, key) is not None:
                lines.append(f"{key} = {json.dumps(getattr(one, key))}")
        lines += [
            f"columns.{role} = {json.dumps(name if name is not None else False)}"
            for role, name in vars(one.columns).items()
        ]
        for field in one.additional:
            lines += [
                "[[source.outbox.additional]]",
                f"column = {json.dumps(field.column)}",
                f"placement = {json.dumps(field.placement)}",
                *([f"name = {json.dumps(field.alias)}"] if field.alias else []),
            ]
    return "\n".join(lines) + "\n"


def carrying(path, http_port=0):
    """A relay in this process, as a configuration file says."""
    return running(RelaySettings(relay_config=path, http_port=http_port))


def identity(outbox):
    """Variables of a Kafka identity that may do everything, where brokers are secured."""
    return secured.admin_variables(outbox.stack.data) if SECURE else {}
