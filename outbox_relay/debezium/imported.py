"""A connector of Debezium as a configuration of the relay, and what of it could not be taken over.

Every setting is looked at once: it is translated here, or :mod:`outbox_relay.debezium.options` says what the relay
has in its place, or it is reported as not known.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from contracts import headers
from outbox_relay.debezium.connector import PRODUCER, ROUTER
from outbox_relay.debezium.options import verdict
from outbox_relay.debezium.regex import RegexError, router

POSTGRES = "io.debezium.connector.postgresql.PostgresConnector"
_ALIASES = ("PostgresConnector", "Postgres")
_CONVERTERS = {
    "org.apache.kafka.connect.storage.StringConverter": "string",
    "org.apache.kafka.connect.json.JsonConverter": "json",
    "org.apache.kafka.connect.converters.ByteArrayConverter": "bytes",
    "io.debezium.converters.ByteArrayConverter": "bytes",
    "io.debezium.converters.ByteBufferConverter": "bytes",
    "io.debezium.converters.BinaryDataConverter": "bytes",
    "org.apache.kafka.connect.storage.SimpleHeaderConverter": "simple",
}
_REGEX_DEFAULT, _REPLACEMENT_DEFAULT = "(?<routedByValue>.*)", "outbox.event.${routedByValue}"
_DECODE_MESSAGES = "io.debezium.connector.postgresql.transforms.DecodeLogicalDecodingMessageContent"
_PREFIX = re.compile(r"[A-Za-z0-9_:/-]+")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_$ -]+")
_REFERENCE = re.compile(r"\$\{(?:(\w+):)?([^}]*)\}")
_TRUE = "true"
# As Debezium 1 called them.
_RENAMED = {"table.whitelist": "table.include.list", "database.server.name": "topic.prefix"}
_HEADERS = (headers.ID, headers.POSITION)
_PLACEMENTS = ("header", "envelope", "partition")
PASSWORD = "OUTBOX_PASSWORD"  # noqa: S105 the name of a variable


@dataclass(frozen=True)
class Finding:
    """A setting that was not taken over.

    Attributes:
        changes: whether records may differ, or rows be missing, without it.
    """

    setting: str
    why: str
    changes: bool = False

    def __str__(self) -> str:
        return f"{'changes records: ' if self.changes else ''}{self.setting}: {self.why}"


@dataclass
class Imported:
    """The configuration, as tables of TOML, and what is not in it.

    Attributes:
        kafka: where it is, if that is said.
        source: settings of the source; its DSN has no password.
        outbox: settings of its outbox, without the table's name.
        tables: schema and table of each outbox: all have the same shape.
    """

    kafka: dict[str, str] = field(default_factory=dict)
    source: dict[str, Any] = field(default_factory=dict)
    outbox: dict[str, Any] = field(default_factory=dict)
    tables: list[tuple[str, str]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    @property
    def changes_records(self) -> bool:
        """Whether a setting that makes records, or says which there are, was not taken over."""
        return any(finding.changes for finding in self.findings)


class _Settings:
    """A connector's settings, each of which is asked for once; the rest is reported."""

    def __init__(self, settings: dict[str, str], worker: dict[str, str]) -> None:
        self._rest = dict(settings)
        self._worker = worker

    def take(self, name: str, default: str = "") -> str:
        return self._rest.pop(name, default).strip()

    def converter_of_worker(self, name: str) -> tuple[str, dict[str, str]]:
        """The converter of a connector that names none, and its settings; the connector's do not count."""
        self.below(f"{name}.")
        prefix = f"{name}."
        worker = self._worker.items()
        settings = {key.removeprefix(prefix): value for key, value in worker if key.startswith(prefix)}
        return self._worker.get(name, "").strip(), settings

    def below(self, prefix: str) -> dict[str, str]:
        """All settings with a prefix, without it."""
        names = [name for name in self._rest if name.startswith(prefix)]
        return {name.removeprefix(prefix): self._rest.pop(name) for name in names}

    def rest(self) -> dict[str, str]:
        return self._rest


def imported(settings: dict[str, str], worker: dict[str, str]) -> Imported:
    """Translate a connector.

    Args:
        settings: of the connector, by Kafka Connect's names.
        worker: the worker's, from which a connector has its converters where it names none.
    """
    taking = _Settings({_RENAMED.get(name, name): value for name, value in settings.items()}, worker)
    found = Imported()
    report = _reporter(found)
    if (kind := taking.take("connector.class", POSTGRES)) not in (POSTGRES, *_ALIASES):
        report("connector.class", f"{kind} is not Debezium's connector for PostgreSQL", True)
    if (sink := taking.take("debezium.sink.type", "kafka")) != "kafka":
        report("debezium.sink.type", f"the relay publishes to Kafka, not to {sink}", True)
    if bootstrap := taking.take(f"{PRODUCER}bootstrap.servers") or worker.get("bootstrap.servers"):
        found.kafka["bootstrap"] = bootstrap
    found.source["dsn"] = _dsn(taking, report)
    _tables(taking, found, report)
    _names_on_the_server(taking, found, report)
    options = _router(taking, found, report)
    # Old rows that a table has kept, and topics have not, must not be taken for rows that nobody published.
    found.outbox["cleanup"] = False
    _columns(options, found, report)
    _route(options, found, report)
    _shape(taking, options, found, report)
    for name in options:
        _not_taken(name, options[name], report, f"the router's {name}")
    for name, value in taking.rest().items():
        _not_taken(name, value, report, name)
    return found


Report = Callable[[str, str, bool], None]


def _reporter(found: Imported) -> Report:
    def report(setting: str, why: str, changes: bool) -> None:
        found.findings.append(Finding(setting, why, changes))

    return report


def _not_taken(name: str, value: str, report: Report, shown: str) -> None:
    known = verdict(name)
    if known is None:
        report(shown, "not known to the relay", True)
    elif value.strip() not in known.unless:
        report(shown, known.why, known.changes)


def _dsn(taking: _Settings, report: Report) -> str:
    """The database as libpq's key-value string, with the name of a variable for its password."""
    parts = {
        "host": taking.take("database.hostname"),
        "port": taking.take("database.port", "5432"),
        "dbname": taking.take("database.dbname"),
        "user": taking.take("database.user"),
        "sslmode": taking.take("database.sslmode"),
        "sslrootcert": taking.take("database.sslrootcert"),
        "sslcert": taking.take("database.sslcert"),
        "sslkey": taking.take("database.sslkey"),
    }
    for keyword, value in parts.items():
        if reference := _REFERENCE.fullmatch(value):
            parts[keyword] = f"${{{_variable(reference, report)}}}"
    password = taking.take("database.password")
    if reference := _REFERENCE.fullmatch(password):
        parts["password"] = f"${{{_variable(reference, report)}}}"
    elif password:
        parts["password"] = f"${{{PASSWORD}}}"
        report("database.password", f"a password is not written into a file: set the variable {PASSWORD}", False)
    return " ".join(f"{keyword}={_quoted(value)}" for keyword, value in parts.items() if value)


def _variable(reference: re.Match[str], report: Report) -> str:
    """The variable for what Connect (``${env:NAME}``, ``${file:path:key}``) or Quarkus (``${NAME:…}``) fill in."""
    provider, rest = reference.groups()
    if provider is None or provider == "env":
        return rest
    if provider.isupper():
        return provider
    name = re.sub(r"\W", "_", rest.rpartition(":")[2] or rest).upper()
    name = name if "_" in name else f"OUTBOX_{name}"  # a shell has variables such as USER of its own
    report(reference[0], f"the relay asks no provider of Connect's: set the variable {name}", False)
    return name


def _quoted(value: str) -> str:
    if re.fullmatch(r"[^\s'\\]+", value):  # what a placeholder stands for is quoted when it is put there
        return value
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _tables(taking: _Settings, found: Imported, report: Report) -> None:
    """Which tables the connector reads: its list has regular expressions, which here must be plain names."""
    listed = [name.strip() for name in taking.take("table.include.list").split(",") if name.strip()]
    for name in listed:
        parts = [part.replace("\\.", ".") for part in re.split(r"(?<!\\)\.|\\\.", name.strip("^$"), maxsplit=1)]
        if len(parts) == 2 and all(_PLAIN_NAME.fullmatch(part) for part in parts):
            found.tables.append((parts[0], parts[1]))
        else:
            report("table.include.list", f"{name} is an expression: name each outbox by itself", True)
    if not found.tables:
        if not listed:
            report(
                "table.include.list", "the connector reads every table: the relay is set to public.outbox", True
            )
        found.tables.append(("public", "outbox"))


def _names_on_the_server(taking: _Settings, found: Imported, report: Report) -> None:
    publication = taking.take("publication.name", "dbz_publication")
    slot = taking.take("slot.name", "debezium")
    plugin = taking.take("plugin.name", "decoderbufs")
    if plugin == "pgoutput":
        found.outbox["slot"], found.outbox["publication"] = slot, publication
    else:
        report(
            "plugin.name",
            f"slot {slot} is of {plugin}, which the relay cannot read: it makes a slot of its own, and publishes "
            "what the table still has; drop the old slot",
            False,
        )
    if len(found.tables) > 1:
        for name in ("slot", "publication"):
            found.outbox.pop(name, None)
        report(
            "slot.name",
            "the connector reads several tables by one slot, the relay has one for each outbox and makes them: "
            f"end the connector when it has published everything, and drop slot {slot}",
            False,
        )


def _router(taking: _Settings, found: Imported, report: Report) -> dict[str, str]:
    """The options of the outbox event router; of other transformations only that they are not done."""
    names = [name.strip() for name in taking.take("transforms").split(",") if name.strip()]
    options: dict[str, str] = {}
    predicates = taking.below("predicates.")
    taking.take("predicates")
    for name in names:
        settings = taking.below(f"transforms.{name}.")
        kind = settings.pop("type", "")
        predicate, negated = settings.pop("predicate", None), settings.pop("negate", "false")
        if kind == _DECODE_MESSAGES and _take_messages(taking, found, report):
            continue
        if kind != ROUTER:
            report(f"transforms.{name}", f"{kind} is not done by the relay", True)
            continue
        options = settings
        if predicate is not None and not _selects(predicate, negated, predicates, taking, found.tables):
            report(f"transforms.{name}.predicate", "predicates are not evaluated: every row is published", True)
    if not any(name for name in names) or (not options and not names):
        report("transforms", f"there is no {ROUTER}: what follows is the router's default", True)
    return options


def _take_messages(taking: _Settings, found: Imported, report: Report) -> bool:
    """Messages of the log as rows of the outbox; whether that can be."""
    prefix = taking.rest().get("message.prefix.include.list", "").strip()
    if not _PREFIX.fullmatch(prefix):
        return False
    taking.take("message.prefix.include.list")
    found.outbox["messages"] = prefix
    report(
        "message.prefix.include.list",
        "messages are rows of the outbox, whose table must be there, if empty",
        False,
    )
    return True


def _selects(
    predicate: str, negated: str, predicates: dict[str, str], taking: _Settings, tables: list[tuple[str, str]]
) -> bool:
    """Whether a predicate lets all rows of the outbox through: one that asks for the name of its topic."""
    if predicates.get(f"{predicate}.type") != "org.apache.kafka.connect.transforms.predicates.TopicNameMatches":
        return False
    prefix = taking.rest().get("topic.prefix", "")
    try:
        matches = router(predicates.get(f"{predicate}.pattern", ""), "")
    except RegexError:
        return False
    names = [f"{prefix}.{schema}.{table}" for schema, table in tables]
    return negated.strip() != _TRUE and all(matches(name) == "" for name in names)


def _columns(options: dict[str, str], found: Imported, report: Report) -> None:
    columns: dict[str, Any] = {
        "id": options.pop("table.field.event.id", "id"),
        "aggregatetype": options.pop("route.by.field", "aggregatetype"),
        "aggregateid": options.pop("table.field.event.key", "aggregateid"),
        "payload": options.pop("table.field.event.payload", "payload"),
        "type": False,
        "traceparent": False,
        "tracestate": False,
    }
    additional = _additional(options, report)
    # The router has no header but these; where the first is eventType, it is what the relay calls the type.
    first = next((one for one in additional if one["placement"] == "header"), None)
    if first is not None and first.get("name", first["column"]) == headers.EVENT_TYPE and "optional" not in first:
        columns["type"] = first["column"]
        additional.remove(first)
    for option, placement in (
        ("table.field.event.timestamp", "timestamp"),
        ("table.field.event.schema.version", "schema-version"),
    ):
        if column := options.pop(option, "").strip():
            additional.append({"column": column, "placement": placement})
    found.outbox["columns"] = columns
    if additional:
        found.outbox["additional"] = additional
    behaviour = options.pop("table.op.invalid.behavior", "warn").strip().lower()
    if behaviour != "warn":
        report(
            "table.op.invalid.behavior",
            "updates of the outbox are not seen, as only inserts are published: nothing is logged, nothing stops",
            False,
        )


def _additional(options: dict[str, str], report: Report) -> list[dict[str, Any]]:
    """The columns that the router places besides those that have an option of their own."""
    placed = options.pop("table.fields.additional.placement", "")
    must_be_there = options.pop("table.fields.additional.error.on.missing", _TRUE).strip().lower() == _TRUE
    found = []
    for text in filter(None, map(str.strip, placed.split(","))):
        column, *rest = (part.strip() for part in text.split(":"))
        if not 1 <= len(rest) <= 2 or rest[0].lower() not in _PLACEMENTS:
            report("table.fields.additional.placement", f"{text} is not of the form column:placement:alias", True)
            continue
        name = rest[-1] if len(rest) > 1 else column
        if rest[0].lower() == "header" and name in _HEADERS:
            report("table.fields.additional.placement", f"the header {name} is the relay's own", True)
            continue
        names = {"name": name} if len(rest) > 1 else {}
        optional = {} if must_be_there else {"optional": True}
        found.append({"column": column, "placement": rest[0].lower(), **names, **optional})
    return found


def _route(options: dict[str, str], found: Imported, report: Report) -> None:
    regex = options.pop("route.topic.regex", _REGEX_DEFAULT)
    replacement = options.pop("route.topic.replacement", _REPLACEMENT_DEFAULT)
    try:
        router(regex, replacement)
    except RegexError as error:
        report("route.topic.regex", str(error), True)
        regex, replacement = _REGEX_DEFAULT, _REPLACEMENT_DEFAULT
    found.outbox["route"] = {"regex": regex, "replacement": replacement}


def _shape(taking: _Settings, options: dict[str, str], found: Imported, report: Report) -> None:
    shape: dict[str, Any] = {
        "key": _converter("key", taking, report),
        "value": _converter("value", taking, report),
        "headers": _converter("header", taking, report),
    }
    if options.pop("table.expand.json.payload", "false").strip().lower() == _TRUE:
        shape["expand_json"] = True
        if shape["value"] in ("string", "bytes"):
            report("table.expand.json.payload", f"with a {shape['value']} converter Debezium writes no JSON", True)
            shape["expand_json"] = False
    if options.pop("table.json.payload.null.behavior", "ignore").strip().lower() == "optional_bytes":
        shape["json_nulls"] = "keep"
    if options.pop("route.tombstone.on.empty.payload", "false").strip().lower() == _TRUE:
        shape["empty_is_tombstone"] = True
    if (binary := taking.take("binary.handling.mode", "bytes").lower()) != "bytes":
        shape["binary"] = binary
    prefix = taking.take("topic.prefix")
    if "json-with-schemas" in shape.values():
        shape["schema_prefix"] = prefix
    found.outbox["record"] = shape


def _converter(part: str, taking: _Settings, report: Report) -> str:
    name = f"{part}.converter"
    own = taking.take(name)
    kind, settings = (own, taking.below(f"{name}.")) if own else taking.converter_of_worker(name)
    if not kind and part == "header":
        return "simple"
    if not kind:
        report(name, "the connector has its worker's, which is in no file given: name it by --worker", True)
        return "string"
    if settings.pop("delegate.converter.type", None) is not None:
        settings = {}  # it is for other records than the outbox's
    found = _CONVERTERS.get(kind)
    if found is None:
        report(name, f"{kind} is not done by the relay; payloads that are in its form already need 'bytes'", True)
        return "bytes" if part == "value" else "string"
    schemas = settings.pop("schemas.enable", _TRUE)  # of others it says nothing, and stands there all the same
    if found == "json":
        settings.pop("schemas.cache.size", None)
        found = "json" if schemas.strip().lower() != _TRUE else "json-with-schemas"
    for other in settings:
        report(f"{name}.{other}", "a setting of the converter that the relay has not", other != "encoding")
    return found
