"""A pooler that pools transactions is refused, and one that pools sessions is not."""

import asyncio
from types import SimpleNamespace

import pytest

from processors.runtime.connection import SharedSessionError, _refuse_shared_session


class Pooler:
    """PgBouncer as its clients see it: process IDs of its own, and sessions that it hands out."""

    def __init__(self, *, by_transaction, idle=(101, 102, 103), takes="last"):
        self.by_transaction = by_transaction
        self.idle = list(idle)
        self.takes = takes
        self.opened = 0

    def connect(self):
        self.opened += 1
        return Client(self, 900 + self.opened)

    async def connect_another(self):
        return self.connect()

    def take(self):
        return self.idle.pop(0 if self.takes == "first" else -1)


class Client:
    def __init__(self, pooler, pid):
        self.info = SimpleNamespace(backend_pid=pid)
        self.pooler = pooler
        self.session = None
        self.in_transaction = False

    async def execute(self, statement):
        self.in_transaction |= statement == "BEGIN"
        if self.session is None:
            self.session = self.pooler.take()
        session = self.session
        if self.pooler.by_transaction and not self.in_transaction:
            self.release()

        async def fetchone():
            return (session,)

        return SimpleNamespace(fetchone=fetchone)

    def release(self):
        if self.session is not None:
            self.pooler.idle.append(self.session)
        self.session = None

    async def close(self):
        self.release()


def test_the_only_session_of_a_pooler_of_transactions_is_recognised():
    pooler = Pooler(by_transaction=True, idle=(101,))
    with pytest.raises(SharedSessionError):
        asyncio.run(_refuse_shared_session(pooler.connect(), pooler.connect_another))


@pytest.mark.parametrize("takes", ["last", "first"])
def test_transactions_of_several_connections_in_one_session_are_refused(takes):
    pooler = Pooler(by_transaction=True, takes=takes)
    with pytest.raises(SharedSessionError, match="pool_mode=session"):
        asyncio.run(_refuse_shared_session(pooler.connect(), pooler.connect_another))


@pytest.mark.parametrize("takes", ["last", "first"])
def test_a_session_for_each_connection_is_taken(takes):
    pooler = Pooler(by_transaction=False, takes=takes)
    asyncio.run(_refuse_shared_session(pooler.connect(), pooler.connect_another))
    assert pooler.opened > 1


def test_a_server_without_a_pooler_is_asked_once():
    pooler = Pooler(by_transaction=False, idle=(901,))
    asyncio.run(_refuse_shared_session(pooler.connect(), pooler.connect_another))
    assert pooler.opened == 1
