"""A schema is migrated beside services that work on it."""

import re
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import psycopg
import pytest
from sqlalchemy import text

from cli.errors import BAD_INPUT, exit_code
from operations import migrations
from operations.errors import SchemaError
from tests.conftest import WAIT_S, wait_until

WAITS = """
SELECT true FROM pg_locks
WHERE relation = 'withdrawals'::regclass AND mode = 'AccessExclusiveLock' AND NOT granted
"""
HEAD = "SELECT version_num FROM alembic_version"


@pytest.fixture
def new_old(settle, request, monkeypatch):
    """Makes a saga database of a former version."""

    def make(version):
        upgrade = migrations.command.upgrade
        with monkeypatch.context() as patch:
            patch.setattr(migrations.command, "upgrade", lambda config, _: upgrade(config, version))
            return settle.new_database("saga", f"old_{request.function.__name__[5:40]}")

    return make


@pytest.fixture
def old(new_old):
    """A saga database of the version before lists, and a reader of it that is in no hurry."""
    dsn = new_old("0008")
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


def test_a_version_that_gets_no_lock_holds_none_of_the_versions_before_it(new_old):
    dsn = new_old("0006")
    with psycopg.connect(dsn) as reader, psycopg.connect(dsn, autocommit=True) as service:
        reader.execute("SELECT FROM withdrawals")  # of what 0009 changes
        with ThreadPoolExecutor(1) as thread:
            try:
                migrated = thread.submit(migrations.migrate, "saga", dsn)
                wait_until(lambda: service.execute(WAITS).fetchone(), "the migration waits")
                service.execute(f"SET lock_timeout = '{WAIT_S:g}s'")
                assert service.execute("SELECT count(*) FROM gaps").fetchone() == (0,)
                with service.transaction():
                    service.execute("LOCK TABLE event_store")
                assert service.execute(HEAD).fetchone() == ("0008",)
            finally:
                reader.rollback()
            migrated.result(WAIT_S)
    # By itself, and one that begins anew.
    migrations.migrate("saga", dsn)
    with psycopg.connect(dsn) as connection:
        assert connection.execute(HEAD).fetchone() > ("0009",)


def test_a_migration_in_a_deadlock_with_a_service_is_tried_again(new_old, monkeypatch):
    dsn, upgrade = new_old("0010"), migrations.command.upgrade
    has_first, tries = Event(), []

    def locking_two_tables(config, version):
        """A version that locks a table for which a service's transaction waits, and waits for one of that."""
        tries.append(version)
        if len(tries) == 1:
            connection = config.attributes["connection"]
            connection.execute(text("LOCK TABLE withdrawals"))
            has_first.set()
            wait_until(lambda: watcher.execute(WAITS).fetchone(), "the service waits")
            connection.execute(text("LOCK TABLE outbox"))
        upgrade(config, version)

    monkeypatch.setattr(migrations.command, "upgrade", locking_two_tables)
    monkeypatch.setattr(migrations, "LOCK_WAIT_S", WAIT_S)
    monkeypatch.setattr(migrations, "PAUSE_S", 0.0)
    with (
        psycopg.connect(dsn, autocommit=True) as watcher,
        psycopg.connect(dsn) as service,
        ThreadPoolExecutor(1) as thread,
    ):
        service.execute("SET deadlock_timeout = '1h'")  # it is the migration that PostgreSQL ends
        service.execute("LOCK TABLE outbox")
        migrated = thread.submit(migrations.migrate, "saga", dsn)
        assert has_first.wait(WAIT_S)
        service.execute("LOCK TABLE withdrawals")
        service.commit()
        migrated.result(WAIT_S)
    assert len(tries) == 2
    with psycopg.connect(dsn) as connection:
        assert connection.execute(HEAD).fetchone() > ("0010",)


def test_a_schema_that_is_newer_is_left_as_it_is_and_said(new_old):
    dsn = new_old("0010")
    with psycopg.connect(dsn) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(SchemaError, match=r"saga: its schema is of a newer version of Settle: .*9999") as refused:
        migrations.migrate("saga", dsn)
    assert exit_code(refused.value) == BAD_INPUT
