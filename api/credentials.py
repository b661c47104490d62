"""Credentials: API keys and sessions, of which only hashes are stored, and the answer to whose they are.

A secret is 256 random bits: nobody can try them all, so its SHA-256 is enough where a password needs a slow hash.
"""

import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from hashlib import sha256
from hmac import compare_digest

import msgspec
from psycopg import AsyncConnection

from api import store
from api.access import MAY, Caller, permissions
from contracts.postgres import session
from processors.runtime import utc

SECRET_BYTES = 32
PREFIX = "settle"
COOKIE = "settle_session"
COOKIE_OVER_TLS = f"__Host-{COOKIE}"
"""With that prefix a browser takes it from this host alone and over TLS alone (RFC 6265bis, 4.1.3.2)."""

SESSION_S = 12 * 3600.0
"""How long a session lasts."""

SIGN_IN = "/v1/sign-in"
SIGN_IN_S = 15 * 60.0
"""How long a one-time token is valid."""

REMEMBERED_S = 3.0
"""How long an answer about credentials is remembered: a key that is revoked is refused that much later."""

REMEMBERED_MAX = 10_000
TEXT_MAX = 200
"""Characters of a credential at the most; ours have fewer than 100."""

_INSERT_KEY = """
INSERT INTO api_keys (key_id, secret_hash, caller, role, scopes, expires_at)
VALUES (%s, %s, %s, %s, %s, now() + make_interval(secs => %s))
"""
_LIST_KEYS = """
SELECT key_id, caller, role, scopes, created_at, expires_at, revoked_at FROM api_keys ORDER BY created_at, key_id
"""
_REVOKE_KEY = "UPDATE api_keys SET revoked_at = now() WHERE key_id = %s AND revoked_at IS NULL"
_OFFER_SIGN_IN = """
WITH gone AS (DELETE FROM sign_ins WHERE expires_at <= now())
INSERT INTO sign_ins (token_hash, caller, role, expires_at) VALUES (%s, %s, %s, now() + make_interval(secs => %s))
"""


class ApiKey(msgspec.Struct, frozen=True):
    """An API key as people see it: everything but its secret, which nobody has but its owner."""

    key_id: str
    caller: str
    role: str
    scopes: list[str]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


def create_key(
    dsn: str, caller: str, role: str, scopes: Sequence[str] = (), expires_s: float | None = None
) -> str:
    """Make an API key.

    Args:
        dsn: of the API's database.
        caller: whose key it is.
        role: of :data:`api.access.ROLES`.
        scopes: permissions to which it is limited; none: all of the role.
        expires_s: how long it is valid, seconds; None: until it is revoked.

    Returns:
        The key, which is shown this once: only its hash is stored.

    Raises:
        psycopg.OperationalError: the database does not answer.
    """
    key_id, secret = secrets.token_hex(6), secrets.token_urlsafe(SECRET_BYTES)
    with session(dsn) as connection:
        connection.execute(_INSERT_KEY, (key_id, hashed(secret), caller, role, list(scopes), expires_s))
    return f"{PREFIX}_{key_id}_{secret}"


def list_keys(dsn: str) -> list[ApiKey]:
    """Every API key, the oldest first."""
    with session(dsn) as connection:
        return [ApiKey(*row) for row in utc.cursor(connection).execute(_LIST_KEYS)]


def revoke_key(dsn: str, key_id: str) -> bool:
    """Revoke an API key; False where there is none that is valid. It is refused :data:`REMEMBERED_S` later."""
    with session(dsn) as connection:
        return connection.execute(_REVOKE_KEY, (key_id,)).rowcount == 1


def offer_sign_in(dsn: str, caller: str, role: str) -> str:
    """A token by which one person signs in, once, within :data:`SIGN_IN_S`."""
    token = secrets.token_urlsafe(SECRET_BYTES)
    with session(dsn) as connection:
        connection.execute(_OFFER_SIGN_IN, (hashed(token), caller, role, SIGN_IN_S))
    return token


def hashed(secret: str) -> bytes:
    """What is stored of a secret."""
    return sha256(secret.encode()).digest()


class Credentials:
    """Finds out who sends a request.

    Args:
        connected: gives a connection to the API's database.
        of_token: whose the token of an OpenID provider is; None: there is no provider.
        is_tls: whether the API speaks TLS alone.

    Attributes:
        cookie_name: of the cookie with a session's secret.
        is_tls: whether that cookie is for TLS alone.
    """

    def __init__(
        self,
        connected: Callable[[], AbstractAsyncContextManager[AsyncConnection]],
        of_token: Callable[[str], Awaitable[Caller | None]] | None = None,
        *,
        is_tls: bool = False,
    ) -> None:
        self.cookie_name = COOKIE_OVER_TLS if is_tls else COOKIE
        self.is_tls = is_tls
        self._connected = connected
        self._of_token = of_token
        self._remembered: dict[bytes, tuple[Caller | None, float]] = {}

    async def caller_of(self, authorization: str | None, cookie: str | None) -> Caller | None:
        """Who sends a request with these headers; None where they are missing, or nobody's.

        Raises:
            Problem: the database does not answer.
        """
        if authorization is not None:
            if (key := _bearer(authorization)) is None:
                return None
            if self._of_token is not None and self.is_of_provider(authorization):
                return await self._remember(key, self._of_token)
            return await self._remember(key, self._of_key) if len(key) <= TEXT_MAX else None
        secret = self._session_of(cookie) if cookie is not None else None
        return await self._remember(secret, self._of_session) if secret else None

    def is_of_provider(self, authorization: str) -> bool:
        """Whether the credentials of a request are to be a token of the OpenID provider."""
        key = _bearer(authorization)
        return self._of_token is not None and key is not None and not key.startswith(f"{PREFIX}_")

    async def sign_in(self, token: str) -> str | None:
        """A new session's secret for a one-time token; None where that is not valid, or was used."""
        secret = secrets.token_urlsafe(SECRET_BYTES)
        async with self._connected() as connection:
            is_valid = await store.sign_in(connection, hashed(token), hashed(secret), SESSION_S)
        return secret if is_valid else None

    async def sign_out(self, cookie: str | None) -> None:
        """End the session of a cookie; other processes know within :data:`REMEMBERED_S`.

        Raises:
            Problem: the database does not answer.
        """
        secret = self._session_of(cookie) if cookie is not None else None
        if not secret:
            return
        async with self._connected() as connection:
            await store.sign_out(connection, hashed(secret))
        self._remembered.pop(hashed(secret), None)

    async def _remember(self, secret: str, find: Callable[[str], Awaitable[Caller | None]]) -> Caller | None:
        now = time.monotonic()
        # An API key is none of our sessions, as it has a prefix.
        asked = hashed(secret)
        found = self._remembered.get(asked)
        if found is not None and found[1] > now:
            return found[0]
        caller = await find(secret)
        if len(self._remembered) >= REMEMBERED_MAX:
            self._remembered.clear()
        self._remembered[asked] = (caller, now + REMEMBERED_S)
        return caller

    async def _of_key(self, key: str) -> Caller | None:
        prefix, _, rest = key.partition("_")
        key_id, _, secret = rest.partition("_")
        if prefix != PREFIX or not secret or not (key_id.isascii() and key_id.isalnum()):
            return None
        async with self._connected() as connection:
            found = await store.find_key(connection, key_id)
        if found is None or not compare_digest(found[0], hashed(secret)):
            return None
        _, caller, role, scopes = found
        return Caller(caller, role, permissions(role, scopes))

    async def _of_session(self, secret: str) -> Caller | None:
        async with self._connected() as connection:
            found = await store.find_session(connection, hashed(secret))
        return Caller(*found, MAY[found[1]], by_cookie=True) if found is not None else None

    def _session_of(self, cookie: str) -> str | None:
        """The session among all cookies of a host, whatever others there are: RFC 6265, 5.2 and 5.4.

        The standard library's parser drops all of them for one that it does not take.
        """
        for pair in cookie.split(";"):
            name, _, value = pair.partition("=")
            if name.strip() == self.cookie_name:
                return value.strip()[:TEXT_MAX]
        return None


def _bearer(authorization: str) -> str | None:
    """The credentials of a request, where they are a bearer's."""
    scheme, _, key = authorization.partition(" ")
    return key.strip() if scheme.lower() == "bearer" else None
