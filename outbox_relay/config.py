"""The relay's configuration file, ``relay.toml``: its keys, and what is wrong with one, key by key.

It holds no secret: ``${VARIABLE}`` and ``${file:/path}`` stand for one in the address of a database and in what is
said of Kafka.
"""

import re
import stat
import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    create_model,
    model_validator,
)

from broker.security import KafkaSettings
from contracts import headers
from contracts.dsn import check_dsn, has_password
from outbox_relay import initial
from outbox_relay.errors import RelayError
from outbox_relay.outbox import Additional, ColumnNames, Outbox, Placement, Route
from outbox_relay.placeholders import filled_in, has_placeholder
from outbox_relay.quoting import NAME_BYTES_MAX
from outbox_relay.shape import Binary, CloudEvents, Converter, HeaderConverter, Shape
from outbox_relay.share import SHARES_MAX, SUFFIX_LENGTH_MAX
from outbox_relay.topic import is_topic_name

FILE_BYTES_MAX = 1_000_000
PROCESSES_MAX = 64

# The headers of a record that are made of columns with a role, which it need not have.
_HEADERS = {"type": headers.EVENT_TYPE, "traceparent": headers.TRACEPARENT, "tracestate": headers.TRACESTATE}

T = TypeVar("T", bound=BaseModel)

PREFIX_LENGTH_MAX = 200
TOKEN_LENGTH_MIN = 16
SLOT_LENGTH_MAX = 63 - SUFFIX_LENGTH_MAX  # of one that is the beginning of several
ONCE = ("partition", "timestamp", "schema-version")  # placements that a record has one of
SHAPED = ("envelope", "timestamp", "schema-version")  # of values that are not written as the column holds them

_GROUP = re.compile(r"\$(?:\{\w+\}|\d)")
_SLOT = re.compile(r"[a-z0-9_]{1,63}")


class ConfigurationError(RelayError):
    """The configuration file is wrong; the text has a line for each mistake, with the file and the key."""


def _name(text: str) -> str:
    if not text or "\0" in text or "%" in text:
        raise ValueError("a name has at least one character, and no % among them")
    if len(text.encode()) > NAME_BYTES_MAX:
        raise ValueError(f"PostgreSQL keeps {NAME_BYTES_MAX} bytes of a name, and this one is longer")
    return text


def _slot(text: str) -> str:
    if not _SLOT.fullmatch(text):
        raise ValueError("the name of a slot has 1 to 63 of a-z, 0-9 and _")
    return text


def _topic(text: str) -> str:
    if not is_topic_name(text):
        raise ValueError("the name of a topic has 1 to 249 of a-z, A-Z, 0-9, ., _ and -")
    return text


def _initial(text: str) -> str:
    initial.parse(text)
    return text


def _dsn(text: str) -> str:
    return check_dsn(filled_in(text))


def token(text: str) -> str:
    """A bearer token, as it is sent in a header.

    Raises:
        ValueError: it is too short to be a secret, or no header can hold it.
    """
    if len(text) < TOKEN_LENGTH_MIN or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError(f"a token has at least {TOKEN_LENGTH_MIN} characters of ASCII, without spaces")
    return text


Name = Annotated[str, AfterValidator(_name)]
SlotName = Annotated[str, AfterValidator(_slot)]
TopicName = Annotated[str, AfterValidator(_topic)]
Initial = Annotated[str, AfterValidator(_initial)]
FilledIn = Annotated[str, AfterValidator(filled_in)]
Token = Annotated[str, AfterValidator(filled_in), AfterValidator(token)]
OrNone = Annotated[Name | None, BeforeValidator(lambda value: None if value is False else value)]
"""The name of a column; ``false`` where the table has none."""


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


class Columns(_Table):
    """The columns of an outbox, by role; ``false`` for one that the table has not."""

    id: Name = "id"
    aggregatetype: OrNone = "aggregatetype"
    aggregateid: OrNone = "aggregateid"
    type: OrNone = "type"
    payload: Name = "payload"
    traceparent: OrNone = "traceparent"
    tracestate: OrNone = "tracestate"
    created_at: OrNone = "created_at"
    published_at: Name = "published_at"


class RouteTable(_Table):
    """How a row comes to its topic: a constant one, or a regular expression over ``aggregatetype``."""

    topic: TopicName | None = None
    regex: str | None = None
    replacement: str | None = None

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Self:
        if (self.regex is None) != (self.replacement is None):
            raise ValueError("regex and replacement go together")
        if self.topic is not None and self.regex is not None:
            raise ValueError("either topic, or regex and replacement")
        if self.replacement is not None and not is_topic_name(_GROUP.sub("x", self.replacement)):
            raise ValueError("replacement makes no name of a topic")
        self.route()
        return self

    def route(self) -> Route:
        """The same as a record."""
        if self.regex is None or self.replacement is None:
            return Route(topic=self.topic)
        return Route(regex=self.regex, replacement=self.replacement)


class AdditionalTable(_Table):
    """A further column, and where in a record it goes; ``optional``: the table need not have it."""

    column: Name
    placement: Placement = "header"
    name: str | None = Field(None, min_length=1)
    optional: bool = False


class RecordTable(_Table):
    """The shape of records: see :class:`outbox_relay.shape.Shape`."""

    key: Converter = "string"
    value: Converter = "string"
    headers: HeaderConverter = "string"
    expand_json: bool = False
    json_nulls: Literal["omit", "keep"] = "omit"
    empty_is_tombstone: bool = False
    binary: Binary = "bytes"
    schema_prefix: str = ""

    @model_validator(mode="after")
    def _expands_into_json(self) -> Self:
        if self.expand_json and not self.value.startswith("json"):
            raise ValueError(f"expand_json needs value = json or json-with-schemas, and it is {self.value}")
        return self


class EventsTable(_Table):
    """The headers of a CloudEvent: see :class:`outbox_relay.shape.CloudEvents`."""

    source: str = Field(min_length=1)
    type_prefix: str = ""
    content_type: str | None = Field(None, min_length=1)
    subject: bool = False


class _Reading(_Table):
    """How an outbox is read; what an outbox does not say, its source says."""

    reader: Literal["wal", "polling"] | None = None
    cleanup: bool | None = None
    fencing: bool | None = None
    initial: Initial | None = None
    poll_interval_s: float | None = Field(None, gt=0, le=3600)


class OutboxTable(_Reading):
    """One outbox of a database."""

    schema_: Name = Field("public", alias="schema")
    table: Name = "outbox"
    name: str | None = Field(None, min_length=1)
    columns: Columns = Columns()
    route: RouteTable = RouteTable()
    additional: tuple[AdditionalTable, ...] = Field((), strict=False)
    messages: str | None = Field(None, min_length=1, max_length=PREFIX_LENGTH_MAX)
    record: RecordTable | None = None
    cloudevents: EventsTable | None = None
    publication: Name | None = None
    slot: SlotName | None = None
    dead_table: Name | None = None
    control_table: Name | None = None
    split: int = Field(1, ge=1, le=SHARES_MAX)

    @model_validator(mode="after")
    def _has_a_route(self) -> Self:
        if self.columns.aggregatetype is None and self.route.topic is None:
            raise ValueError("without a column aggregatetype nothing makes a topic: say route.topic")
        taken = {headers.ID, headers.POSITION} | {
            header for role, header in _HEADERS.items() if getattr(self.columns, role) is not None
        }
        for one in self.additional:
            if one.placement == "header" and (name := one.name or one.column) in taken:
                raise ValueError(f"the header {name} has a value already: give the column {one.column} another")
        for what in ("dead_table", "control_table"):
            if getattr(self, what) == self.table:
                raise ValueError(f"{what} is the outbox itself")
        if self.control_table is not None and self.control_table == self.dead_table:
            raise ValueError("control_table is dead_table too")
        if self.cloudevents is not None and self.columns.type is None:
            raise ValueError("a CloudEvent has a type: say columns.type")
        if self.split > 1 and self.messages is not None:
            raise ValueError("messages cannot be split, as no publication filters them")
        if self.split > 1 and len(self.slot or "") > SLOT_LENGTH_MAX:
            raise ValueError(f"slot has more than {SLOT_LENGTH_MAX} characters, and shares add some")
        places = [one.placement for one in self.additional]
        if twice := next((one for one in get_args(Placement) if one in ONCE and places.count(one) > 1), None):
            raise ValueError(f"additional has two columns for the {twice}")
        if self.record is None and (shaped := next((one for one in places if one in SHAPED), None)):
            raise ValueError(f"additional has a column for the {shaped}: say in record how values are written")
        return self

    def outbox(self) -> Outbox:
        """The same as a record."""
        return Outbox(
            schema=self.schema_,
            table=self.table,
            columns=ColumnNames(**dict(self.columns)),
            route=self.route.route(),
            additional=tuple(
                Additional(one.column, one.placement, one.name, one.optional) for one in self.additional
            ),
            messages=self.messages,
            shape=Shape(**dict(self.record)) if self.record is not None else None,
            events=CloudEvents(**dict(self.cloudevents)) if self.cloudevents is not None else None,
            publication=self.publication,
            slot=self.slot,
            dead_table=self.dead_table,
            control_table=self.control_table,
        )


class SourceTable(_Reading):
    """A database, and its outboxes."""

    dsn: Annotated[str, AfterValidator(_dsn)] = Field(repr=False)
    outbox: tuple[OutboxTable, ...] = Field((OutboxTable(),), strict=False)

    @model_validator(mode="after")
    def _names_each_once(self) -> Self:
        if not self.outbox:
            raise ValueError("a source has at least one outbox")
        tables = [(one.schema_, one.table) for one in self.outbox]
        slots = [one.slot for one in self.outbox if one.slot is not None]
        if len(set(tables)) < len(tables):
            raise ValueError("two of its outboxes are the same table")
        if len(set(slots)) < len(slots):
            raise ValueError("two of its outboxes have the same slot")
        return self


class ProcessTable(_Table):
    """How the relay runs."""

    processes: int | None = Field(None, ge=1, le=PROCESSES_MAX)


class HttpTable(_Table):
    """Where health pages and metrics answer, and what whoever controls the relay there has to present."""

    host: str | None = None
    port: int | None = Field(None, ge=0, le=65535)
    token: Token | None = Field(None, repr=False)


_KAFKA: Any = {"bootstrap": (FilledIn | None, None)} | {
    name.removeprefix("kafka_"): (FilledIn | None, Field(None, repr=False)) for name in KafkaSettings.model_fields
}
KafkaTable = create_model("KafkaTable", __base__=_Table, **_KAFKA)
"""The variables ``SETTLE_KAFKA_…``, in lower case and without that beginning."""


class ConfigFile(_Table):
    """The whole file."""

    kafka: KafkaTable = KafkaTable()
    http: HttpTable = HttpTable()
    relay: ProcessTable = ProcessTable()
    source: tuple[SourceTable, ...] = Field((), strict=False)


_LIST = "takes a list, as [ … ]"
_LISTS = ("source", "outbox")
_TABLE_TAKEN = "takes a table, as { key = value }"
_TAKES = {
    "tuple_type": _LIST,
    "model_type": _TABLE_TAKEN,
    "dict_type": _TABLE_TAKEN,
    "bool_type": "takes true or false",
    "string_type": "takes a text",
    "int_type": "takes a number",
    "float_type": "takes a number",
}
"""What of TOML a key takes, by pydantic's name of the error."""

_TABLES: Mapping[str, type[BaseModel]] = {
    "kafka": KafkaTable,
    "http": HttpTable,
    "relay": ProcessTable,
    "source": SourceTable,
    "outbox": OutboxTable,
    "columns": Columns,
    "route": RouteTable,
    "additional": AdditionalTable,
    "record": RecordTable,
    "cloudevents": EventsTable,
}


def read(path: Path) -> ConfigFile:
    """The file, with the secrets that it names in place.

    Raises:
        ConfigurationError: it cannot be read, is no TOML, or has a wrong key or value.
    """
    try:
        with path.open("rb") as file:
            text = file.read(FILE_BYTES_MAX + 1)
        if len(text) > FILE_BYTES_MAX:
            raise ConfigurationError(f"{path}: larger than {FILE_BYTES_MAX:,} bytes")
        found = tomllib.loads(text.decode("utf-8-sig"))
        others_read = bool(path.stat().st_mode & stat.S_IROTH)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:  # no TOML, or no UTF-8
        raise ConfigurationError(f"{path} is not TOML: {error}") from None
    config = valid(ConfigFile, found, str(path))
    if others_read and config.http.token is not None and not has_placeholder(found["http"]["token"]):
        raise ConfigurationError(
            f"{path}: http.token: every user of this machine can read the file: say ${{VARIABLE}} or "
            f"${{file:/path}} instead, or chmod o= {path}"
        )
    for number, source in enumerate(found.get("source", ())):
        if others_read and _has_password(source["dsn"]):
            raise ConfigurationError(
                f"{path}: source[{number}].dsn: has a password, and every user of this machine can read the file: "
                f"say ${{VARIABLE}} or ${{file:/path}} instead, or chmod o= {path}"
            )
    return config


def _has_password(text: str) -> bool:
    """Whether a database's address says a password, and not where it is."""
    return not has_placeholder(text) and has_password(text)


def outbox_of(described: Mapping[str, Any], by: str) -> Outbox:
    """An outbox from the keys of ``[[source.outbox]]``.

    Args:
        described: the keys and their values.
        by: what describes it, for people.

    Raises:
        ConfigurationError: they do not fit together.
    """
    return valid(OutboxTable, described, by).outbox()


def valid(kind: type[T], found: Mapping[str, Any], where: str) -> T:
    """What is found, as a table of the file.

    Args:
        kind: which table.
        found: its keys and values.
        where: they stand, for people.

    Raises:
        ConfigurationError: a key or a value is wrong.
    """
    try:
        return kind.model_validate(found)
    except ValidationError as error:
        places = ((_place(details["loc"]), _what(details, kind)) for details in error.errors())
        lines = (": ".join(filter(None, (where, place, what))) for place, what in places)
        raise ConfigurationError("\n".join(lines)) from None


def _place(loc: tuple[int | str, ...]) -> str:
    """A key's place, as ``source[1].outbox[0].columns.id``."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).removeprefix(".")


def _what(details: Mapping[str, Any], kind: type[BaseModel]) -> str:
    if details["type"] == "missing":
        return "is missing"
    if details["type"] != "extra_forbidden":
        takes = _TAKES.get(details["type"], str(details["msg"]).removeprefix("Value error, "))
        names = [part for part in details["loc"] if isinstance(part, str)]
        return (
            f"takes tables, each under [[{'.'.join(names)}]]" if takes == _LIST and names[-1] in _LISTS else takes
        )
    *parents, key = (part for part in details["loc"] if isinstance(part, str))
    table = _TABLES[parents[-1]] if parents else kind
    keys = [field.alias or name for name, field in table.model_fields.items()]
    near = get_close_matches(key, keys, n=1)
    return "there is no such key" + (f": did you mean {near[0]}?" if near else f"; there are {', '.join(keys)}")
