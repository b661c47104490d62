"""The description of an outbox: its table, its columns by role, what of the server it uses, and its rows' topics.

Everything that is named otherwise from one outbox to the next is here, once; the rest of the relay asks
:meth:`Outbox.sql` for statements. ``Outbox()`` is ``public.outbox`` with the columns of Debezium's event router.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Final, Literal, LiteralString

from psycopg import sql

from outbox_relay.debezium.regex import router
from outbox_relay.quoting import quoted, shortened
from outbox_relay.shape import CloudEvents, Shape
from outbox_relay.share import Share

ROLES: Final = ("id", "aggregatetype", "aggregateid", "type", "payload", "traceparent", "tracestate")
"""What a record is made of, in the order of :class:`outbox_relay.row.OutboxRow`."""

ROLES_CONTENTS: Final = 5
"""So many of them are what a row says; the others are its trace context."""

Placement = Literal["header", "partition", "envelope", "timestamp", "schema-version"]


@dataclass(frozen=True)
class ColumnNames:
    """The names of columns by role; None: the table has nothing of the kind.

    Attributes:
        id: tells rows apart; best a UUID.
        aggregatetype: what the topic is made of.
        aggregateid: the record's key; without it, records have none.
        type: the header ``eventType``; without it, records have none.
        payload: the record's value.
        traceparent, tracestate: the trace context, where the table has them.
        created_at: when a row was written, where the table has it.
        published_at: the mark of those who poll.
    """

    id: str = "id"
    aggregatetype: str | None = "aggregatetype"
    aggregateid: str | None = "aggregateid"
    type: str | None = "type"
    payload: str = "payload"
    traceparent: str | None = "traceparent"
    tracestate: str | None = "tracestate"
    created_at: str | None = "created_at"
    published_at: str = "published_at"

    @property
    def by_role(self) -> Mapping[str, str]:
        """The names of the columns that there may be."""
        names = {one.name: getattr(self, one.name) for one in fields(self)}
        return {role: name for role, name in names.items() if name is not None}


@dataclass(frozen=True)
class Route:
    """How a row comes to its topic: a constant one, or a regular expression over its ``aggregatetype``.

    A value that the expression does not match as a whole is the topic's name as it stands, as Debezium has it.

    Attributes:
        topic: the constant one.
        regex: Java's, ``(?<name>…)`` for a group.
        replacement: the topic's name, with ``$1``, ``${1}`` and ``${name}`` for groups.

    Raises:
        ValueError: the expression is none, or the replacement names a group that it has not.
    """

    topic: str | None = None
    regex: str = r"(.+)(?<!\.requests)"
    replacement: str = "$1.events"
    _routed: Callable[[str], str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_routed", router(self.regex, self.replacement))

    def __reduce__(self) -> tuple[type["Route"], tuple[str | None, str, str]]:
        return Route, (self.topic, self.regex, self.replacement)

    def name(self, value: str) -> str:
        """The topic's name, which need not be a valid one."""
        if self.topic is not None:
            return self.topic
        return self._routed(value)


@dataclass(frozen=True)
class Additional:
    """A column besides those that have a role, and where its value goes.

    Attributes:
        column: its name.
        placement: into a header, as the number of the record's partition, as its timestamp, into an envelope
            around the payload, or as the version of the envelope's schema.
        alias: the name of the header or field; None: the column's.
        optional: whether the table need not have it.
    """

    column: str
    placement: Placement = "header"
    alias: str | None = None
    optional: bool = False

    @property
    def name(self) -> str:
        """What it is called in the record."""
        return self.alias or self.column


Part = str | Additional
"""A column of a row: its role, or an additional one."""


@dataclass(frozen=True)
class Outbox:
    """One outbox of a database.

    Attributes:
        schema, table: where its rows are.
        columns: their names by role.
        route: how a row comes to its topic.
        additional: further columns that records have something of.
        publication: its name; None: ``settle_outbox``, for another table ``settle_<table>``.
        slot: the name of the replication slot; None: made of the names of database and table.
        dead_table: where rows go that can never be published, in the same schema; None: ``<table>_dead``.
        control_table: where it stands what is asked of its relay, in the same schema; None: ``<table>_control``.
        messages: the prefix of messages in the log that are rows of it too; None: only its table has rows.
        shape: of its records; None: what the columns hold, as it is.
        events: makes each record a CloudEvent; None: it is none.
        share: which of its rows are meant, where it is split; None: all of them.
    """

    schema: str = "public"
    table: str = "outbox"
    columns: ColumnNames = ColumnNames()
    route: Route = Route()
    additional: tuple[Additional, ...] = ()
    publication: str | None = None
    slot: str | None = None
    dead_table: str | None = None
    control_table: str | None = None
    messages: str | None = None
    shape: Shape | None = None
    events: CloudEvents | None = None
    share: Share | None = None

    def split(self, shares: int) -> tuple["Outbox", ...]:
        """Its shares, each with a publication and a slot of its own; the outbox itself where it is one."""
        if shares == 1:
            return (self,)
        return tuple(replace(self, share=Share(number, shares)) for number in range(1, shares + 1))

    @property
    def key_role(self) -> str:
        """The role of the column that rows are split by: what keeps its order, or else each row by itself."""
        return "aggregateid" if self.columns.aggregateid is not None else "id"

    @property
    def is_shaped(self) -> bool:
        """Whether its records are made of values, by their types, and not of what the columns hold as it is."""
        return self.shape is not None or self.events is not None

    @property
    def sets_times(self) -> bool:
        """Whether records have a time that a row names, and so none that says when they were written."""
        return any(one.placement == "timestamp" for one in self.additional)

    @property
    def is_standard(self) -> bool:
        """Whether it is the table ``public.outbox``, whose locks and names are those of earlier versions."""
        return (self.schema, self.table) == ("public", "outbox")

    @property
    def identity(self) -> str:
        """What tells it from the other outboxes of its database; nothing for the standard one."""
        if self.is_standard:
            return ""
        return ".".join('"' + name.replace('"', '""') + '"' for name in (self.schema, self.table))

    @cached_property
    def label(self) -> str:
        """The table, as SQL and people write it."""
        return f"{quoted(self.schema)}.{quoted(self.table)}"

    @cached_property
    def dead_label(self) -> str:
        """The table of its dead rows, as SQL and people write it."""
        return f"{quoted(self.schema)}.{quoted(self.dead_table or shortened(self.table, '_dead'))}"

    @cached_property
    def control_label(self) -> str:
        """The table of what is asked of its relay, as SQL and people write it."""
        whole = self.control_table or shortened(self.table, "_control")
        return f"{quoted(self.schema)}.{quoted(shortened(whole, self._suffix))}"

    @cached_property
    def publication_name(self) -> str:
        """The name of its publication."""
        schema = "" if self.schema == "public" else f"{self.schema}_"
        whole = self.publication or ("settle_outbox" if self.is_standard else f"settle_{schema}{self.table}")
        return shortened(whole, self._suffix)

    @property
    def _suffix(self) -> str:
        return f"_{self.share.name}" if self.share is not None else ""

    @property
    def required(self) -> tuple[str, ...]:
        """The roles that its table must have a column for."""
        return tuple(
            role
            for role in ROLES[:ROLES_CONTENTS]
            if role in self.columns.by_role and not (role == "aggregatetype" and self.route.topic is not None)
        )

    @property
    def parts(self) -> tuple[Part, ...]:
        """What a row consists of, in the order of ``OutboxRow``."""
        return (*ROLES, *self.additional)

    @cached_property
    def names(self) -> Mapping[str, str]:
        """What :meth:`sql` and :meth:`text` put for ``{table}`` and so on."""
        literal = {
            "name": self.label,
            "schema": self.schema,
            "dead_name": self.dead_label,
            "control_name": self.control_label,
            "publication_name": self.publication_name,
        }
        return {
            **{role: quoted(name) for role, name in self.columns.by_role.items()},
            **{key: sql.Literal(value).as_string() for key, value in literal.items()},
            "table": self.label,
            "dead": self.dead_label,
            "control": self.control_label,
            "publication": quoted(self.publication_name),
            "index": quoted(shortened(self.table, "_unpublished")),
        }

    def sql(self, query: LiteralString, **parts: sql.Composable) -> sql.Composed:
        """A statement about this outbox.

        Args:
            query: with ``{table}``, ``{dead}``, ``{control}`` and ``{publication}``, the same as texts in SQL
                (``{name}``, ``{dead_name}`` and so on), columns by their roles (``{id}``), the ``{index}`` of
                rows without a mark, and the ``parts``.
        """
        names = {key: sql.SQL(name) for key, name in self.names.items()}
        return sql.SQL(query).format(**names, **parts)

    def text(self, query: LiteralString, **parts: str) -> str:
        """The same as a text, in one line."""
        return " ".join(query.split()).format(**self.names, **parts)


OUTBOX = Outbox()
"""The outbox of Settle's own services."""
