"""The page that shows the OpenAPI document to people: plain HTML without scripts, so it works offline."""

import json
from collections.abc import Sequence
from functools import cache
from html import escape
from typing import Any

from api.openapi import document

_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h2 { border-top: 1px solid; padding-top: 1rem; }
code, pre { font-family: ui-monospace, monospace; }
td { padding: 0 1rem 0 0; vertical-align: top; overflow-wrap: anywhere; }
h2, h3 { overflow-wrap: anywhere; }
"""


@cache
def page() -> str:
    """The document as HTML."""
    found = json.loads(document())
    about = found["info"]
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        f"<title>{escape(about['title'])} API</title><style>{_STYLE}</style>",
        f"<h1>{escape(about['title'])} API</h1><p>{escape(about['description'])}</p>",
        "<p>The same for programs: <a href=openapi.json>openapi.json</a></p>",
    ]
    for path, operations in found["paths"].items():
        parts += [_operation(method, path, operation) for method, operation in operations.items()]
    parts += ["<h2>Bodies</h2>"]
    parts += [_schema(name, schema) for name, schema in found["components"]["schemas"].items()]
    return "".join(parts)


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    given = [(one["name"], one["in"], one.get("description", "")) for one in operation.get("parameters", ())]
    if "requestBody" in operation:
        given.append(("body", "JSON", ", ".join(_named(operation["requestBody"]["content"]))))
    answers = [
        (status, ", ".join(_named(answer.get("content", {}))), answer["description"])
        for status, answer in operation["responses"].items()
    ]
    return (
        f"<h2><code>{method.upper()} {escape(path)}</code></h2>"
        f"<p><b>{escape(operation['summary'])}.</b> {escape(operation.get('description', ''))}</p>"
        f"{_table(given)}<p>Answers</p>{_table(answers)}"
    )


def _schema(name: str, schema: dict[str, Any]) -> str:
    needed = schema.get("required", ())
    rows = [
        (field, "required" if field in needed else "", _type(about))
        for field, about in schema["properties"].items()
    ]
    return f"<h3 id={escape(name)}><code>{escape(name)}</code></h3>{_table(rows)}"


def _named(content: dict[str, Any]) -> list[str]:
    return [_type(about.get("schema", {})) or media_type for media_type, about in content.items()]


def _type(about: dict[str, Any]) -> str:
    if "$ref" in about:
        return str(about["$ref"]).rpartition("/")[2]
    if "anyOf" in about:
        return " or ".join(_type(one) for one in about["anyOf"])
    if isinstance(about.get("type"), list):
        return " or ".join(
            _type({**about, "type": one} if one != "null" else {"type": one}) for one in about["type"]
        )
    if about.get("type") == "array":
        return f"list of {_type(about.get('items', {}))}".rstrip()
    return " ".join(str(about[word]) for word in ("type", "format", "description") if word in about)


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    cells = ("".join(f"<td>{escape(str(cell))}</td>" for cell in row) for row in rows)
    return f"<table>{''.join(f'<tr>{row}</tr>' for row in cells)}</table>"
