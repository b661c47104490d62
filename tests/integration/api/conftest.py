"""One stack with the API for the tests of this folder."""

from collections.abc import Iterator

import pytest

from tests.integration.api.front import Front, running_with_api

RATE = 100_000.0
"""Of a caller: no test here is to be slowed down by the limit but the one of the limit."""


@pytest.fixture(scope="package")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    with running_with_api(tmp_path_factory.mktemp("api"), SETTLE_API_RATE=str(RATE)) as front:
        yield front
