"""One stack with the API for the tests of the console; what fails at the provider is not tried again."""

from collections.abc import Iterator

import httpx
import pytest

from api.access import ADMIN, OPERATOR, VIEWER
from tests.conftest import PATIENT_EXPORT
from tests.integration.api.conftest import RATE
from tests.integration.api.front import Front, running_with_api
from tests.integration.console.pages import Pages

STUCK_S = 1.0
"""Without an event for so long, a withdrawal is stuck here."""


@pytest.fixture(scope="package")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    variables = {"SETTLE_API_RATE": str(RATE), "SETTLE_STUCK_S": str(STUCK_S), "SETTLE_RETRY_BACKOFF_S": "[3600]"}
    with running_with_api(tmp_path_factory.mktemp("console"), **variables, **PATIENT_EXPORT) as front:
        yield front


@pytest.fixture
def shop(front: Front) -> Iterator[httpx.Client]:
    with front.http(front.key("shop")) as client:
        yield client


@pytest.fixture
def viewer(front: Front) -> Iterator[Pages]:
    with Pages(front, VIEWER) as pages:
        yield pages


@pytest.fixture
def operator(front: Front) -> Iterator[Pages]:
    with Pages(front, OPERATOR) as pages:
        yield pages


@pytest.fixture
def browser(front: Front) -> Iterator[Pages]:
    """Somebody with a session, as a browser has it."""
    with Pages(front, ADMIN, by_session=True) as pages:
        yield pages
