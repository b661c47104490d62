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
_NEEDED = ("Idempotency-Key",)
"""Parameters that a handler refuses to do without in words of its own."""

_NULL = {"type": "null"}
_BOUNDS = {"minimum", "maximum"}
_INT64_MAX = 2**63 - 1
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
    schemas = found["components"]["schemas"]
    for path in found["paths"].values():
        for operation in path.values():
            _complete(operation)
            _close(operation, schemas)
    for schema in schemas.values():
        for name, kind in schema.get("properties", {}).items():
            if {} in kind.get("oneOf", ()):  # anything, or null, which is something
                schema["properties"][name] = {}
    _plain(found)
    return json.dumps(found, indent=1, sort_keys=True).encode() + b"\n"


def _complete(operation: dict[str, Any]) -> None:
    """What Litestar cannot know: streams, headers of errors, and that its answer to bad parameters is ours."""
    answers = operation["responses"]
    for answer in answers.values():
        for header in answer.get("headers", {}).values():
            header.setdefault("schema", {"type": "string"})
    for given in operation.get("parameters", ()):
        given["schema"] = _without_null(given["schema"])
        given["required"] |= given["name"] in _NEEDED
    if (body := operation.get("requestBody")) is not None:
        for content in body["content"].values():
            body["required"] = _NULL not in content["schema"].get("oneOf", ())
            content["schema"] = _without_null(content["schema"])
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
            for name, kind in part["properties"].items():
                if name not in part["required"]:
                    part["properties"][name] = _without_null(kind)


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema without the null that stands for what is left out."""
    kinds = [one for one in schema.get("oneOf", ()) if one != _NULL]
    if len(kinds) != 1:
        return schema
    return {**{word: said for word, said in schema.items() if word != "oneOf"}, **kinds[0]}


def _plain(place: Any) -> None:
    """Write what may be null, and the bounds of integers, as generators of clients understand them."""
    if isinstance(place, list):
        for one in place:
            _plain(one)
    if not isinstance(place, dict):
        return
    for one in place.values():
        _plain(one)
    if place.get("type") == "integer":
        for bound in _BOUNDS & place.keys():
            place[bound] = int(place[bound])
            if place[bound] > _INT64_MAX:  # what became of it as a float
                place[bound] = _INT64_MAX
                place["format"] = "int64"
    kinds = place.get("oneOf", [])
    if _NULL not in kinds:
        return
    del place["oneOf"]
    kind = _without_null({"oneOf": kinds})
    if "type" in kind:
        place |= {**kind, "type": [kind["type"], "null"]}
        if "enum" in kind:
            place["enum"] = [*kind["enum"], None]
    else:
        place["anyOf"] = kinds


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
