"""One stack for all tests of retries; short pauses."""

import json
from collections.abc import Iterator
from contextlib import closing

import pytest

from lab.chaos.arming import Arming
from producers.client import WithdrawalClient
from stack.supervisor import SERVICES, Stack
from tests.conftest import SECURE, WAIT_S
from tests.integration.retries.stack import BACKOFF_S, TIMEOUT_S, Retrying


@pytest.fixture(scope="package")
def retrying(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Retrying]:
    environment = {
        "SETTLE_RETRY_BACKOFF_S": json.dumps(BACKOFF_S),
        "SETTLE_PROVIDER_TIMEOUT_S": str(TIMEOUT_S),
    }
    data, arming = tmp_path_factory.mktemp("retries"), Arming()
    with (
        Stack(
            data, services=(*SERVICES, "provider"), environment=environment, command=arming, secure=SECURE
        ) as stack,
        WithdrawalClient(stack.state.kafka_bootstrap, delivery_timeout_s=WAIT_S) as client,
        closing(Retrying(stack, arming, None, client)) as retrying,  # type: ignore[arg-type]  # nothing is traced
    ):
        yield retrying
        stack.hurry()
