"""The OpenAPI document says what generators of clients understand, and what they make has names of its own."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from api.generate import generate
from api.page import page

DOCUMENT = json.loads(generate())
SCHEMAS = DOCUMENT["components"]["schemas"]
OPERATIONS = {one["operationId"]: one for operations in DOCUMENT["paths"].values() for one in operations.values()}


def within(place: Any) -> Iterator[dict[str, Any]]:
    """All objects in a part of the document, and in the schemas that it refers to."""
    if isinstance(place, list):
        for one in place:
            yield from within(one)
    if isinstance(place, dict):
        yield place
        if "$ref" in place:
            yield from within(SCHEMAS[place["$ref"].rpartition("/")[2]])
        for one in place.values():
            yield from within(one)


def takes_null(schema: dict[str, Any]) -> bool:
    kind = schema.get("type")
    return kind == "null" or (isinstance(kind, list) and "null" in kind)


@pytest.mark.parametrize("name", OPERATIONS)
def test_what_is_sent_is_never_null_and_may_be_left_out_instead(name: str):
    about = OPERATIONS[name]
    sent = [about.get("parameters", []), about.get("requestBody", {})]
    assert not [one for one in within(sent) if takes_null(one) or "oneOf" in one or "anyOf" in one]
    for one in about.get("parameters", []):
        assert one["schema"]["type"], one


def test_what_may_be_null_in_an_answer_is_a_type_beside_null_or_a_reference_or_null():
    assert not [one for one in within(DOCUMENT) if "oneOf" in one]
    for one in within(DOCUMENT):
        if "anyOf" in one:
            reference, null = one["anyOf"]
            assert (list(reference), null) == (["$ref"], {"type": "null"})
    assert SCHEMAS["Withdrawals"]["properties"]["cursor"] == {"type": ["string", "null"]}
    assert SCHEMAS["AuditRun"]["properties"]["result"]["anyOf"][0] == {"$ref": "#/components/schemas/Audit"}


def test_every_header_of_an_answer_says_what_it_is():
    headers = [
        (status, name, header)
        for about in OPERATIONS.values()
        for status, answer in about["responses"].items()
        for name, header in answer.get("headers", {}).items()
    ]
    assert {"Location", "Idempotent-Replayed", "Retry-After"} <= {name for _, name, _ in headers}
    assert all(header["schema"]["type"] for _, _, header in headers)


def test_a_request_needs_its_idempotency_key_and_a_cancellation_needs_no_body():
    (key,) = OPERATIONS["requestWithdrawal"]["parameters"]
    assert (key["name"], key["required"], key["schema"]["type"]) == ("Idempotency-Key", True, "string")
    assert [
        name for name, about in OPERATIONS.items() if about.get("requestBody", {}).get("required") is False
    ] == ["cancelWithdrawal"]


def test_every_operation_says_what_it_may_be_refused_with():
    for name, about in OPERATIONS.items():
        assert "422" in about["responses"], name  # none takes a query parameter that it does not know
        takes_a_body = "requestBody" in about
        assert {"408", "413", "415"} <= about["responses"].keys() or not takes_a_body, name
        assert not [one for one in about["responses"].values() if is_twice(one["description"])], name


def is_twice(description: str) -> bool:
    titles = description.split("; ")
    return len(titles) > len(set(titles))


def test_no_schema_is_named_as_a_constructor_of_another_one():
    assert not [name for name in SCHEMAS if f"New{name}" in SCHEMAS]


def test_bounds_of_integers_are_integers_of_64_bits():
    integers = [one for one in within(DOCUMENT) if one.get("type") == "integer"]
    bounds = [one[bound] for one in integers for bound in ("minimum", "maximum") if bound in one]
    assert bounds
    assert all(type(bound) is int and abs(bound) < 2**63 for bound in bounds)


def test_the_page_for_people_has_every_operation_and_every_type():
    text = page()
    for path in DOCUMENT["paths"]:
        assert path in text
    assert "string date-time or null" in text
    assert "Audit or null" in text
    assert "[&#x27;" not in text
