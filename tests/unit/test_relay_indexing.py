"""The index on rows without a mark: a build that fails is tried again, by the same session."""

from types import SimpleNamespace

import psycopg
import pytest

from outbox_relay import indexing
from outbox_relay.outbox import OUTBOX


class Database:
    """Builds an index once it has failed so often; each connection is a new one."""

    def __init__(self, failures):
        self.failures, self.connections, self.is_indexed = failures, 0, False

    def connect(self, _dsn, *, replication):
        self.connections += 1
        return SimpleNamespace(execute=self.execute, close=lambda: None, cancel_safe=lambda timeout: None)

    def execute(self, _):
        if self.connections <= self.failures:
            raise psycopg.errors.QueryCanceled("canceling statement due to statement timeout")
        self.is_indexed = True


@pytest.mark.parametrize("failures", [0, 3])
def test_a_build_that_fails_is_tried_again_with_growing_pauses(monkeypatch, failures):
    database, pauses, warned = Database(failures), [], []
    monkeypatch.setattr(indexing, "connect", database.connect)
    monkeypatch.setattr(indexing, "_statements", lambda *_: [b"CREATE INDEX"])
    build = indexing._Build(
        SimpleNamespace(
            dsn="dbname=x",
            name="x",
            outbox=OUTBOX,
            say=lambda _: None,
            warn=lambda _, why, again_s: warned.append((why, again_s)),
        )
    )
    monkeypatch.setattr(build._stop, "wait", pauses.append)
    build.start()
    build._thread.join(60)
    build.stop()
    assert database.is_indexed
    assert pauses == [60.0, 120.0, 240.0][:failures]
    assert warned == [("canceling statement due to statement timeout", pause) for pause in pauses]


def test_the_end_of_a_session_ends_its_pause(monkeypatch):
    database = Database(1_000)
    monkeypatch.setattr(indexing, "connect", database.connect)
    monkeypatch.setattr(indexing, "_statements", lambda *_: [b"CREATE INDEX"])
    source = SimpleNamespace(
        dsn="dbname=x", name="x", outbox=OUTBOX, say=lambda _: None, warn=lambda *_, **__: None
    )
    build = indexing._Build(source)
    build.start()
    build.stop()
    assert not build._thread.is_alive()
