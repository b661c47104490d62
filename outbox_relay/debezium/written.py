"""An imported connector as a configuration file of the relay, ``relay.toml``."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from outbox_relay.debezium.imported import Imported

HEAD = """\
# Made of a connector of Debezium by: outbox-relay import-debezium
# What could not be taken over was said then, a line each. Before it runs: outbox-relay check --config
# cleanup = false: rows stay in the table, as with Debezium; true where all that it holds is yet to be published.
"""


def toml(found: Imported) -> str:
    """The file's text."""
    lines = [HEAD]
    if found.kafka:
        lines += ["[kafka]", *_pairs(found.kafka), ""]
    lines += ["[[source]]", *_pairs(found.source), ""]
    for schema, table in found.tables:
        lines += ["[[source.outbox]]", *_pairs({"schema": schema, "table": table}), *_table(found.outbox)]
    return "\n".join(lines)


def _table(outbox: Mapping[str, Any]) -> Iterator[str]:
    yield from _pairs({name: value for name, value in outbox.items() if not isinstance(value, dict | list)})
    yield ""
    for name, value in outbox.items():
        if isinstance(value, dict):
            yield from (f"[source.outbox.{name}]", *_pairs(value), "")
        elif isinstance(value, list):
            for one in value:
                yield from (f"[[source.outbox.{name}]]", *_pairs(one), "")


def _pairs(values: Mapping[str, Any]) -> Iterator[str]:
    for name, value in values.items():
        yield f"{name} = {_value(value)}"


def _value(value: Any) -> str:
    """A string in TOML's literal form where that can be, which spares an expression its double backslashes."""
    if isinstance(value, str) and "\\" in value and "'" not in value and value.isprintable():
        return f"'{value}'"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
