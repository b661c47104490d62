"""A schema is migrated beside services that work on it."""

import re
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from operations import migrations
from tests.conftest import WAIT_S, wait_until

WAITS = """
SELECT true FROM pg_locks
WHERE relation = 'withdrawals'::regclass AND mode = 'AccessExclusiveLock' AND NOT granted
"""
HEAD = "SELECT version_num FROM alembic_version"


@pytest.fixture
def old(settle, request, monkeypatch):
    """A saga database of the version before lists, with a service and a reader that is in no hurry."""
    name = f"old_{request.function.__name__[5:40]}"
    upgrade = migrations.command.upgrade
    with monkeypatch.context() as patch:
        patch.setattr(migrations.command, "upgrade", lambda config, _: upgrade(config, "0008"))
        dsn = settle.new_database("saga", name)
    with psycopg.connect(dsn, application_name="pg_dump") as reader:
        reader.execute("SELECT FROM withdrawals")
        yield dsn, reader


def test_what_comes_behind_a_migration_that_waits_for_a_reader_gets_through(old):
    dsn, reader = old
    with psycopg.connect(dsn, autocommit=True) as service, ThreadPoolExecutor(1) as thread:
        try:
            migrated = thread.submit(migrations.migrate, "saga", dsn)
            wait_until(lambda: service.execute(WAITS).fetchone(), "the migration waits")
            service.execute(f"SET lock_timeout = '{WAIT_S:g}s'")
            service.execute("DELETE FROM withdrawals")
            assert not migrated.done()
        finally:
            reader.rollback()
        migrated.result(WAIT_S)
        with psycopg.connect(dsn) as connection:
            assert connection.execute(HEAD).fetchone() > ("0009",)


def test_a_migration_that_gets_no_lock_says_who_has_it(old, monkeypatch):
    dsn, reader = old
    monkeypatch.setattr(migrations, "GIVE_UP_AFTER_S", 0)
    who = f"process {reader.info.backend_pid} (settle, pg_dump, idle in transaction, for "
    with pytest.raises(psycopg.errors.LockNotAvailable, match=re.escape(who)):
        migrations.migrate("saga", dsn)
    assert reader.execute(HEAD).fetchone() == ("0008",)
