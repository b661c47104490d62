"""A service that runs PostgreSQL for others is told by what it has, and the advice is what its users may do."""

from contextlib import closing

import psycopg
import pytest

from outbox_relay.errors import SetupError
from outbox_relay.explain import explained
from outbox_relay.managed import logical_level, replication_right
from outbox_relay.replication import connect
from outbox_relay.settings import RelaySettings
from outbox_relay.slot import drop_slot, new_slot
from outbox_relay.table import find_table
from tests.integration.relay.outbox import CREATE_OUTBOX
from tests.integration.relay.pair import server
from tests.integration.relay.test_table import as_url, limited_role

LEVELS = {
    "rds.logical_replication": "set rds.logical_replication = 1 in the parameter group and reboot",
    "cloudsql.logical_decoding": "set the instance's flag cloudsql.logical_decoding = on, which restarts it",
}


@pytest.fixture
def rds(outbox):
    """The role by which Amazon's service grants the right."""
    outbox.connection.execute("CREATE ROLE rds_replication")
    yield
    outbox.connection.execute("DROP ROLE rds_replication")


def test_where_a_role_grants_the_right_to_replicate_that_is_named(outbox, rds):
    role = limited_role(outbox, "SELECT", "NOREPLICATION")
    granted = f"GRANT rds_replication TO relay_{outbox.name}"
    with pytest.raises(SetupError, match=f"permission denied to read the log: {granted}"):
        connect(role)
    with closing(connect(role, replication=False)) as connection, pytest.raises(SetupError, match=granted):
        drop_slot(connection, "settle_outbox_nobody")


def test_the_sql_for_the_owner_grants_it_likewise(outbox, rds):
    role = limited_role(outbox, "SELECT", "NOREPLICATION", publication=False)
    outbox.connection.execute(explained(RelaySettings(relay_sources=as_url(role))).encode())
    assert outbox.one("SELECT pg_has_role(%s, 'rds_replication', 'MEMBER')", f"relay_{outbox.name}")


def test_elsewhere_it_is_an_attribute_of_the_role(outbox):
    assert replication_right(outbox.connection, "relay") == "ALTER ROLE relay REPLICATION"


@pytest.mark.parametrize("setting", LEVELS)
def test_what_sets_the_level_of_the_log_is_named(outbox, setting):
    outbox.connection.execute(f'ALTER DATABASE "{outbox.name}" SET {setting} = off')
    with closing(connect(outbox.dsn)) as connection:
        assert logical_level(connection) == LEVELS[setting]


def test_a_log_with_too_little_in_it_is_told_with_what_to_set(tmp_path):
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(0o755)
    with server(tmp_path, {"wal_level": "replica"}) as dsn:
        with psycopg.connect(dsn, autocommit=True) as owner:
            owner.execute(CREATE_OUTBOX)
        with closing(connect(dsn)) as connection:
            table = find_table(connection)
            advice = "set wal_level = logical and restart PostgreSQL"
            with pytest.raises(SetupError, match=advice), new_slot(connection, table, "settle_outbox_pair"):
                pass
