"""One stack with the API for the tests of this folder."""

from collections.abc import Iterator

import httpx
import pytest
from uuid_utils.compat import uuid7

from api.access import VIEWER
from tests.integration.api.front import Front, running_with_api

RATE = 100_000.0
"""Of a caller: no test here is to be slowed down by the limit but the one of the limit."""


@pytest.fixture(scope="package")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    with running_with_api(
        tmp_path_factory.mktemp("api"), SETTLE_API_RATE=str(RATE), SETTLE_API_STREAMS="2000"
    ) as front:
        yield front


@pytest.fixture
def shop(front: Front) -> Iterator[httpx.Client]:
    """A client that has asked for nothing yet."""
    with front.http(front.key(f"shop-{uuid7()}")) as client:
        yield client


@pytest.fixture
def viewer(front: Front) -> Iterator[httpx.Client]:
    with front.http(front.key("viewer", VIEWER)) as client:
        yield client
