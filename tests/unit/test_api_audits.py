"""Who asks for an audit gets an answer, whatever keeps it from being begun."""

import asyncio
from threading import Thread
from types import SimpleNamespace

import psycopg
import pytest

from api import audits
from api.problems import Problem
from operations.audit.history import AuditRunningError


def begin(monkeypatch, error):
    """The answer to a request whose audit cannot be begun for an error."""

    def begun(*_):
        raise error

    async def asked():
        answer = asyncio.get_running_loop().create_future()
        operators = SimpleNamespace(dsns={"api": ""})
        Thread(target=audits._audit, args=(operators, "ada", 0.0, answer), daemon=True).start()
        async with asyncio.timeout(10):
            return await answer

    monkeypatch.setattr(audits.history, "begun", begun)
    with pytest.raises(Problem) as told:
        asyncio.run(asked())
    return told.value.kind, told.value.detail


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (AuditRunningError("one runs"), "audit-running", "one runs"),
        (psycopg.OperationalError("refused"), "unavailable", "the database does not answer"),
        (psycopg.errors.ReadOnlySqlTransaction("x"), "unavailable", "the database is read-only"),
        (psycopg.errors.UndefinedTable("x"), "unavailable", "or lacks a migration"),
        (psycopg.errors.InsufficientPrivilege("x"), "unavailable", "or a right"),
        (psycopg.errors.UniqueViolation("x"), "internal", "the audit did not begin"),
        (ValueError("x"), "internal", "the audit did not begin"),
    ],
)
def test_an_audit_that_cannot_begin_says_so(monkeypatch, error, kind, said):
    told, detail = begin(monkeypatch, error)
    assert told == kind
    assert said in detail
