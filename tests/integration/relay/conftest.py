"""One Kafka and one PostgreSQL for all tests of the relay; each test has a database and a topic of its own."""

import pytest

from stack.supervisor import Stack
from tests.conftest import SECURE
from tests.integration.relay.outbox import Outbox


@pytest.fixture(scope="package")
def stack(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stack")
    # PostgreSQL gives up its rights as root and must still reach its folder.
    for parent in (folder, folder.parent, folder.parent.parent):
        parent.chmod(0o755)
    # Each test leaves one.
    settings = {"fsync": "off", "max_replication_slots": "500", "max_wal_senders": "30"}
    with Stack(folder, services=(), postgres_settings=settings, secure=SECURE) as running:
        yield running
        running.hurry()


@pytest.fixture
def outbox(stack):
    return Outbox(stack)
