"""A query that is misspelt, says a thing twice, or can be read in two ways is refused, and never half obeyed."""

import json
from collections.abc import Iterator
from typing import Any, get_args
from uuid import UUID

import httpx
import pytest

from api import openapi
from api.lists import State
from operations.accepted import ACCEPTED
from processors.saga.decide import FINISHED, OPEN_STATES
from tests.integration.api.front import WITHDRAWALS, Front

TIMES = ("2026-11-30T02:15:00", "2026-11-30", "2026", "1764468900", "2026-11-30T02:15:00 01:00")
ZONED = ("2026-11-30T02:15:00Z", "2026-11-30T02:15:00.5+01:00")


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Each documented operation: its method, a path of its kind, and the schemas of its query parameters."""
    for template, methods in json.loads(openapi.document())["paths"].items():
        for method, about in methods.items():
            path, query = template, {}
            for one in about.get("parameters", ()):
                if one["in"] == "path":
                    path = path.replace(f"{{{one['name']}}}", str(UUID(int=1)))
                elif one["in"] == "query":
                    query[one["name"]] = one["schema"]
            yield method, path, query


OPERATIONS = list(operations())
SINGLE = [
    (path, name) for _, path, query in OPERATIONS for name, about in query.items() if about["type"] != "array"
]
LISTS = [
    (path, name) for _, path, query in OPERATIONS for name, about in query.items() if about["type"] == "array"
]
OF_TIME = [
    (path, name)
    for _, path, query in OPERATIONS
    for name, about in query.items()
    if about.get("format") == "date-time"
]


@pytest.fixture
def root(front: Front) -> Iterator[httpx.Client]:
    with front.http(front.key("root", "admin")) as client:
        yield client


def refused(answer: httpx.Response) -> str:
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:settle:problem:invalid"), answer.text
    return str(answer.json()["detail"])


@pytest.mark.parametrize(("method", "path", "query"), OPERATIONS, ids=lambda one: str(one)[:60])
def test_an_unknown_parameter_is_refused_by_its_name(root: httpx.Client, method, path, query):
    for name in ("acount_id", "Limit", "limit ", "states", "data", "request"):
        said = refused(root.request(method, path, params={name: "acc-1"}))
        assert repr(name) in said
        assert all(known in said for known in query)


@pytest.mark.parametrize(("path", "name"), SINGLE)
def test_a_parameter_of_one_value_is_refused_with_two(root: httpx.Client, path, name):
    for values in (("1", "1"), ("1", ""), ("2026-11-30T02:15:00Z", "2026-11-30T02:15:00Z")):
        assert name in refused(root.get(path, params={name: values}))


@pytest.mark.parametrize(("path", "name"), LISTS)
def test_a_list_may_have_more_values_than_one(root: httpx.Client, path, name):
    assert "more than once" not in root.get(path, params={name: ("completed", "rejected")}).text


@pytest.mark.parametrize(("path", "name"), OF_TIME)
def test_a_time_needs_its_zone(root: httpx.Client, path, name):
    for time in TIMES:
        assert name in refused(root.get(path, params={name: time}))
    for time in ZONED:
        assert root.get(path, params={name: time}).status_code == 200


def test_a_time_in_a_body_needs_its_zone(root: httpx.Client):
    for time in ("2026-11-30T02:15:00", "2026-11-30"):
        refused(root.post("/v1/republish/preview", json={"since": time}))
    assert root.post("/v1/republish/preview", json={"since": ZONED[0]}).status_code == 200


def test_the_known_states_are_those_of_the_saga_and_the_one_before():
    assert set(get_args(State)) == {ACCEPTED, *OPEN_STATES, *FINISHED}


@pytest.mark.parametrize("path", [WITHDRAWALS, "/v1/dead-letters"])
@pytest.mark.parametrize("state", ["nope", "", "COMPLETED", "completed,rejected"])
def test_an_unknown_state_is_refused(root: httpx.Client, front: Front, path, state):
    assert refused(root.get(path, params={"state": state})).startswith("state: ")
    with front.http(front.key()) as shop:
        assert refused(shop.get(WITHDRAWALS, params={"state": ["completed", state]})).startswith("state: ")


def test_a_method_that_a_path_has_not_is_refused_with_those_that_it_has(front: Front):
    with front.http() as anybody:
        for path in {path for _, path, _ in OPERATIONS}:
            methods = sorted(method.upper() for method, place, _ in OPERATIONS if place == path)
            for method in ("OPTIONS", "HEAD", "DELETE"):
                answer = anybody.request(method, path)
                assert (answer.status_code, answer.headers["allow"]) == (405, ", ".join(methods))
        assert anybody.options("/v1/nothing").status_code == 404
