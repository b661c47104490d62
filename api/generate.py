"""Generation of the OpenAPI document from the routes: ``python -m api.generate`` writes it."""

import json
from collections.abc import Iterator
from typing import Any

from litestar.openapi import OpenAPIConfig
from litestar.openapi.spec import Components, SecurityScheme

from api.app import make_litestar
from api.openapi import FILE
from api.problems import MEDIA_TYPE

VERSION = "1"

_DESCRIPTION = """\
Withdraw money, and know where it stands. An accepted request (202) is carried out or rejected, whatever dies; a
repeat with the same Idempotency-Key has the same answer and no further effect. Errors are problem details
(RFC 9457).
"""
_HEADERS = (
    ("401", "WWW-Authenticate", "Bearer."),
    ("409", "Retry-After", "When to repeat it, seconds; where repeating it helps."),
    ("429", "Retry-After", "When to come again, seconds."),
    ("503", "Retry-After", "When to repeat it, seconds; with the same Idempotency-Key that is safe."),
)
_STREAM = {"text/event-stream": {"schema": {"type": "string"}}}
_STREAMS = ("getWithdrawalEvents", "followEndings")


def generate() -> bytes:
    """The document of the routes as they are now."""
    config = OpenAPIConfig(
        title="Settle",
        version=VERSION,
        description=_DESCRIPTION,
        components=Components(
            security_schemes={"key": SecurityScheme(type="http", scheme="bearer", description="An API key.")}
        ),
        security=[{"key": []}],
        use_handler_docstrings=True,
    )
    found = make_litestar(None, config).openapi_schema.to_schema()
    for path in found["paths"].values():
        for operation in path.values():
            _complete(operation)
            _close(operation, found["components"]["schemas"])
    for schema in found["components"]["schemas"].values():
        for name, kind in schema.get("properties", {}).items():
            if {} in kind.get("oneOf", ()):  # anything, or null, which is something
                schema["properties"][name] = {}
    return json.dumps(found, indent=1, sort_keys=True).encode() + b"\n"


def _complete(operation: dict[str, Any]) -> None:
    """What Litestar cannot know: streams, headers of errors, and that its answer to bad parameters is ours."""
    answers = operation["responses"]
    for status, name, description in _HEADERS:
        if status in answers:
            headers = answers[status].setdefault("headers", {})
            headers[name] = {"description": description, "schema": {"type": "string"}}
    if "400" in answers and MEDIA_TYPE not in answers["400"]["content"]:
        del answers["400"]
    if operation["operationId"] in _STREAMS:
        content = operation["responses"]["200"].setdefault("content", {})
        if operation["operationId"] == "followEndings":
            content.clear()
        content.update(_STREAM)
        if operation["operationId"] == "getWithdrawalEvents":
            operation["responses"]["204"] = {"description": "The withdrawal is finished, and all is told"}


def _close(operation: dict[str, Any], schemas: dict[str, Any]) -> None:
    """A body has no fields but those that are documented."""
    for content in operation.get("requestBody", {}).get("content", {}).values():
        for part in _parts(content["schema"], schemas):
            part["additionalProperties"] = False


def _parts(schema: dict[str, Any], schemas: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The objects in a schema."""
    if "$ref" in schema:
        schema = schemas[schema["$ref"].rpartition("/")[2]]
    if "properties" in schema:
        yield schema
    for inner in (*schema.get("properties", {}).values(), *schema.get("oneOf", ()), schema.get("items", {})):
        if inner:
            yield from _parts(inner, schemas)


if __name__ == "__main__":
    FILE.write_bytes(generate())
