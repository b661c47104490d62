"""Connections to a source's database, and the replication stream of its slot.

The streaming replication protocol over psycopg's libpq connection; what the messages say is
``pgoutput.py``'s business.

Source: PostgreSQL documentation, "Streaming Replication Protocol" (START_REPLICATION … LOGICAL).
"""

import re
import selectors
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any

import psycopg
from psycopg import pq, sql

from contracts.dsn import effective
from contracts.postgres import relay_connection
from outbox_relay.errors import DecodeError, PublicationMissingError, SetupError, SlotBusyError, StreamError
from outbox_relay.managed import replication_right
from outbox_relay.pgoutput import POSTGRES_EPOCH_US
from outbox_relay.quoting import quoted

# The server is asked for a sign of life every second; after this long without one it may be gone. Or it reads
# through a large transaction of others, and says nothing for half of wal_sender_timeout, which may be hours.
SILENCE_MAX_S = 30.0

# What role, database or server have set for others must not end a long copy, hide rows, or change what is read.
_SESSION = {
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "row_security": "off",
    "bytea_output": "hex",
    "datestyle": "ISO",
    "timezone": "UTC",
}
_SESSION_SINCE_17 = {"transaction_timeout": "0"}
_VERSION_17 = 170_000
# A backend that waits (for locks, for transactions that run) does not notice otherwise that its relay is gone, and
# keeps the outbox from the next one. Not every platform of a server can.
_NOTICE_THE_END = "SELECT set_config('client_connection_check_interval', '1s', false)"
_IS_READ = "SELECT count(*) > 0 FROM pg_replication_slots WHERE slot_name = %s AND active_pid = %s"

_XLOG_DATA, _KEEPALIVE = b"wk"
_XLOG_HEADER_BYTES = 25
_keepalive = struct.Struct(">xQqB")
_status_update = struct.Struct(">cQQQqB")

# Up to version 15 "must be superuser or replication role to start walsender", then "permission denied to start WAL
# sender".
_NO_WALSENDER = re.compile("start (walsender|WAL sender)")

ReplicationConnection = psycopg.Connection[tuple[Any, ...]]


def connect(dsn: str, *, replication: bool = True) -> ReplicationConnection:
    """A connection that takes SQL (simple statements, no parameters) and replication commands, or an ordinary one.

    Raises:
        SetupError: the role may not replicate.
        psycopg.OperationalError: the server cannot be reached or refuses.
    """
    try:
        connection = relay_connection(dsn, replication=replication)
    except psycopg.OperationalError as error:
        if replication and _NO_WALSENDER.search(str(error)):
            raise SetupError(f"permission denied to read the log: {_right(dsn)}") from None
        raise
    since_17 = _SESSION_SINCE_17 if connection.info.server_version >= _VERSION_17 else {}
    settings = [f"set_config('{name}', '{value}', false)" for name, value in (_SESSION | since_17).items()]
    connection.execute(f"SELECT {', '.join(settings)}".encode())
    with suppress(psycopg.errors.InvalidParameterValue):
        connection.execute(_NOTICE_THE_END)
    return connection


def _right(dsn: str) -> str:
    with relay_connection(dsn, replication=False) as connection:
        return replication_right(connection, effective(dsn).get("user", connection.info.user))


def is_read_by(dsn: str, slot: str, backend_pid: int) -> bool:
    """Whether this backend still reads the slot, queried on a connection of its own."""
    try:
        with connect(dsn, replication=False) as connection:
            row = connection.execute(_IS_READ, (slot, backend_pid)).fetchone()
    except psycopg.Error:
        return False
    return bool(row and row[0])


class ReplicationStream:
    """The open stream of one slot, from where the slot stands.

    Args:
        connection: for replication; the stream takes it over.
        slot, publication: their names.
        messages: whether logical messages come too.
        is_there: asked after a long silence whether the server is still at it.

    Attributes:
        wal_end: the server has sent everything before this LSN (as of its last keepalive).
        reply_requested: the server wants a status update now.

    Raises:
        SlotBusyError: another connection reads the slot.
        StreamError: the server refused otherwise, ended the stream or went silent (any method).
    """

    def __init__(
        self,
        connection: ReplicationConnection,
        slot: str,
        publication: str,
        is_there: Callable[[], bool] = lambda: False,
        *,
        messages: bool = False,
    ) -> None:
        self.wal_end = 0
        self.reply_requested = False
        self._is_there = is_there
        self._pgconn = connection.pgconn
        # The names are a list in SQL's writing, in which each is quoted as an identifier is.
        command = sql.SQL(
            "START_REPLICATION SLOT {} LOGICAL 0/0 (proto_version '1', publication_names {}{})"
        ).format(
            sql.Identifier(slot),
            sql.Literal(quoted(publication)),
            sql.SQL(", messages 'true'" if messages else ""),
        )
        result = self._pgconn.exec_(command.as_bytes(connection))
        if result.status != pq.ExecStatus.COPY_BOTH:
            if result.error_field(pq.DiagnosticField.SQLSTATE) == b"55006":  # object_in_use
                raise SlotBusyError(_reason(result))
            raise StreamError(_reason(result))
        self._heard_at = time.monotonic()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._pgconn.socket, selectors.EVENT_READ)

    def messages(self) -> Iterator[bytes]:
        """The ``pgoutput`` messages that have arrived; ends when there is no whole one left."""
        receive = self._pgconn.get_copy_data
        while True:
            size, data = receive(1)
            if size <= 0:
                break
            if data[0] == _XLOG_DATA:
                yield data[_XLOG_HEADER_BYTES:].tobytes()
            else:
                self._take_keepalive(data.tobytes())
        if size < 0:
            raise _end(self._pgconn.get_result())

    def wait(self, timeout_s: float) -> bool:
        """Wait until something has arrived; False after ``timeout_s`` seconds without."""
        if not self._selector.select(timeout_s):
            if time.monotonic() - self._heard_at > SILENCE_MAX_S:
                if not self._is_there():
                    raise StreamError(f"the database server has not answered for {SILENCE_MAX_S:.0f} s")
                self._heard_at = time.monotonic()
            return False
        self._heard_at = time.monotonic()
        try:
            self._pgconn.consume_input()
        except psycopg.OperationalError as error:
            raise StreamError(_first_line(str(error))) from None
        return True

    def confirm(self, lsn: int, *, request_reply: bool = False) -> None:
        """Tell the server that everything before ``lsn`` is done and may be forgotten."""
        now_us = time.time_ns() // 1_000 - POSTGRES_EPOCH_US
        try:
            self._pgconn.put_copy_data(_status_update.pack(b"r", lsn, lsn, lsn, now_us, request_reply))
            self._pgconn.flush()
        except psycopg.OperationalError as error:
            raise StreamError(_first_line(str(error))) from None
        self.reply_requested = False

    def _take_keepalive(self, message: bytes) -> None:
        try:
            wal_end, _sent_us, reply_requested = _keepalive.unpack(message)
        except struct.error:
            raise DecodeError(f"replication message of {len(message)} bytes: {message[:32].hex(' ')}") from None
        if message[0] != _KEEPALIVE:
            raise DecodeError(f"replication message of unknown kind {chr(message[0])!r}")
        self.wal_end = max(self.wal_end, wal_end)
        self.reply_requested |= bool(reply_requested)

    def __enter__(self) -> "ReplicationStream":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._selector.close()


def _end(result: pq.abc.PGresult | None) -> StreamError:
    """Why the server ended the stream."""
    state = result.error_field(pq.DiagnosticField.SQLSTATE) if result is not None else None
    if state == b"42704":  # undefined_object
        return PublicationMissingError(_reason(result))
    return StreamError(_reason(result))


def _reason(result: pq.abc.PGresult | None) -> str:
    message = result.error_message.decode(errors="replace") if result is not None else ""
    return _first_line(message) or "the server ended the stream"


def _first_line(text: str) -> str:
    return text.strip().split("\n", 1)[0]
