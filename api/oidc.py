"""Bearer tokens of an OpenID provider: whose they are, judged by the keys that the provider publishes."""

import asyncio
import re
import time
from collections.abc import Mapping
from itertools import islice
from typing import Any

import httpx
import structlog
from joserfc import jws, jwt
from joserfc.errors import JoseError
from joserfc.jwk import JWKRegistry, Key, KeySet

from api.access import MAY, OF_PROVIDER, ROLES, Caller
from api.problems import RETRY_S, Problem
from api.settings import ApiSettings, can_be_trusted

ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
"""Signatures with a private key. Not HS…, which would be made with what the provider publishes, and not none."""

LEEWAY_S = 60
"""How far the provider's clock may be off, seconds."""

KEYS_S = 600.0
"""How long the provider's keys are used before they are asked for again: one that it withdrew is refused then."""

KEYS_AGAIN_S = 10.0
"""How soon they are asked for again, when a token names an unknown key or the provider has not answered."""

STALE_PATIENCE_S = 1.0
"""How long a token of a known key waits for the provider's newer keys, once those that are known are old."""

TIMEOUT_S = 5.0
"""How long the provider may take for all that it is asked for."""

TOKEN_MAX = 16 * 1024
ANSWER_MAX = 256 * 1024

REFUSALS_S = 60.0
"""How often the log says the same of tokens that are refused, seconds."""

REASONS_MAX = 20
REASON_MAX = 200
KEYS_SHOWN = 3

KEYS_TRIED_MAX = 8
"""How many keys are tried for a token that may be of several."""

_UNREADABLE = (JoseError, ValueError, TypeError, LookupError, RecursionError)

_SUBJECT = re.compile("[\x20-\x7e]{1,255}")
"""What a ``sub`` may be (OpenID Connect Core 1.0, 2: at most 255 ASCII characters)."""

_TYPE = re.compile("(application/)?((.*[+-])?at[+])?jwt", re.IGNORECASE)
"""The ``typ`` of a token that says who its bearer is, not of one to sign out or for an event (RFC 8725, 3.11)."""

DISCOVERY = "/.well-known/openid-configuration"

log = structlog.get_logger()


class _Refused(Exception):  # noqa: N818 nothing has failed
    """Why a token is nobody's; for the log, as it helps whoever sets up a provider, and whoever forges tokens."""


class Tokens:
    """Judges the tokens of the provider that the settings name.

    Args:
        settings: of this process, with ``api_oidc_issuer``.
    """

    def __init__(self, settings: ApiSettings) -> None:
        self._issuer = str(settings.api_oidc_issuer)
        self._role_claim = settings.api_oidc_role_claim
        self._claims = jwt.JWTClaimsRegistry(
            leeway=LEEWAY_S,
            iss={"essential": True, "value": self._issuer},
            aud={"essential": True, "value": settings.api_oidc_audience},
            exp={"essential": True},
            sub={"essential": True},
        )
        self._http = httpx.AsyncClient(timeout=TIMEOUT_S, follow_redirects=False)
        self._keys: KeySet | None = None
        self._asking: asyncio.Task[None] | None = None
        self._asked_at = float("-inf")
        self._got_at = float("-inf")
        self._said: dict[str, float] = {}

    async def close(self) -> None:
        """Close the connection to the provider."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait({self._asking})
        await self._http.aclose()

    async def caller_of(self, token: str) -> Caller | None:
        """Whose a token is; None for one that is not valid.

        A caller is named ``oidc:`` and the token's ``sub``, so it is never that of an API key.

        Raises:
            Problem: the provider's keys are not to be had.
        """
        try:
            if len(token) > TOKEN_MAX:
                raise _Refused(f"it has more than {TOKEN_MAX} characters")
            claims = await self._verified(token)
            try:
                self._claims.validate(claims)
            except JoseError as error:
                raise _Refused(str(error)) from None
            if not isinstance(subject := claims["sub"], str) or not _SUBJECT.fullmatch(subject):
                raise _Refused("its sub is not 1 to 255 ASCII characters")
            role = self._role_of(claims)
        except _Refused as refused:
            self._say(str(refused))
            return None
        return Caller(f"{OF_PROVIDER}{subject}", role, MAY[role])

    def _role_of(self, claims: Mapping[str, Any]) -> str:
        """The strongest role that a claim names, as text or in a list.

        Raises:
            _Refused: it names none of ours.
        """
        given = claims.get(self._role_claim)
        named = [given] if isinstance(given, str) else given if isinstance(given, list) else []
        for role in reversed(ROLES):
            if role in named:
                return role
        raise _Refused(f"its claim {self._role_claim} names no role: {', '.join(ROLES)}")

    def _say(self, reason: str) -> None:
        """Log why a token is refused; of the token itself nothing, as it may be valid elsewhere."""
        now = time.monotonic()
        if self._said.get(reason, float("-inf")) + REFUSALS_S < now:
            # Reasons may hold words of the provider's library: so many that are new are not kept.
            self._said = {one: at for one, at in self._said.items() if at + REFUSALS_S >= now}
            if len(self._said) < REASONS_MAX:
                self._said[reason] = now
                log.warning("a token of the OpenID provider is refused", why=reason)

    async def _verified(self, token: str) -> dict[str, Any]:
        """The claims of a token with a valid signature.

        Raises:
            _Refused: it has none.
            Problem: the provider's keys are not to be had.
        """
        age_s = time.monotonic() - self._got_at
        if age_s > KEYS_S:
            await self._ask(STALE_PATIENCE_S if age_s <= 2 * KEYS_S else TIMEOUT_S)
        try:
            return _decoded(token, self._known())
        except _Refused:
            if not await self._ask(TIMEOUT_S):  # perhaps it is of a key made since
                raise
        return _decoded(token, self._known())

    def _known(self) -> KeySet:
        """The provider's keys; where it does not answer those of before, for twice :data:`KEYS_S` at the most."""
        if self._keys is None or time.monotonic() - self._got_at > 2 * KEYS_S:
            raise Problem("unavailable", "the OpenID provider does not give its keys", RETRY_S)
        return self._keys

    async def _ask(self, patience_s: float) -> bool:
        """Ask the provider for its keys, all callers at once; False if it has been asked just now."""
        if self._asking is None:
            if time.monotonic() - self._asked_at <= KEYS_AGAIN_S:
                return False
            self._asked_at = time.monotonic()
            self._asking = asyncio.create_task(self._fetch())
        await asyncio.wait({self._asking}, timeout=patience_s)
        return True

    async def _fetch(self) -> None:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                self._keys = self._usable(await self._published())
            self._got_at = time.monotonic()
        except Exception as error:  # whatever a provider answers
            log.warning("the OpenID provider's keys are not to be had", issuer=self._issuer, error=repr(error))
        finally:
            self._asking = None

    def _usable(self, published: Mapping[str, Any]) -> KeySet:
        """Those keys of a set that can be used; one that is of another kind is nobody's trouble (RFC 7517, 5).

        Raises:
            ValueError, TypeError, LookupError: there is none.
        """
        usable: list[Key] = []
        others: list[str] = []
        for given in published["keys"]:
            try:
                key = JWKRegistry.import_key(given)
                key.ensure_kid()
                usable.append(key)
            except Exception as error:  # what is in it is the provider's
                kid = given.get("kid") if isinstance(given, dict) else None
                others.append(f"{kid}: {error!r}"[:REASON_MAX])
        if others:
            log.warning("keys of the OpenID provider cannot be used", count=len(others), first=others[:KEYS_SHOWN])
        if not usable:
            raise ValueError("it has no key that can be used")
        return KeySet(usable)

    async def _published(self) -> dict[str, Any]:
        described = await self._get(self._issuer.rstrip("/") + DISCOVERY)
        if described["issuer"] != self._issuer:
            raise ValueError(f"it calls itself {described['issuer']!r}")
        if not can_be_trusted(described["jwks_uri"]):
            raise ValueError(f"its keys are at {described['jwks_uri']!r}, which is not https: others could answer")
        return await self._get(described["jwks_uri"])

    async def _get(self, url: str) -> dict[str, Any]:
        async with self._http.stream("GET", url) as answer:
            answer.raise_for_status()
            body = b""
            async for part in answer.aiter_bytes():
                body += part
                if len(body) > ANSWER_MAX:
                    raise ValueError(f"{url} answers with more than {ANSWER_MAX} bytes")
        found = httpx.Response(200, content=body).json()
        if not isinstance(found, dict):
            raise ValueError(f"{url} does not answer with an object")
        return found


def _decoded(token: str, keys: KeySet) -> dict[str, Any]:
    found = _signed(token, keys)
    if "crit" in found.header:
        raise _Refused("it has extensions that are critical")
    kind = found.header.get("typ", "JWT")
    if not isinstance(kind, str) or not _TYPE.fullmatch(kind):
        raise _Refused("its typ is not that of a token for access")
    return found.claims


def _signed(token: str, keys: KeySet) -> jwt.Token:
    """Header and claims of a token with a valid signature of one of these keys.

    Raises:
        _Refused: it has none.
    """
    why: Exception | None = None
    try:
        for key in _fitting(token, keys):
            try:
                return jwt.decode(token, key, algorithms=ALGORITHMS)
            except _UNREADABLE as error:
                why = error
    except _UNREADABLE as error:
        why = error
    raise _Refused(f"its signature is not known: {why or 'no key fits its kid and alg'}"[:REASON_MAX])


def _fitting(token: str, keys: KeySet) -> list[Key]:
    """The keys that a token may be signed with, by its header, :data:`KEYS_TRIED_MAX` of them at the most.

    It need not name one (RFC 7515, 4.1.4), and several may have the same name (RFC 7517, 4.5).
    """
    header = jws.extract_compact(token.encode()).headers()
    if not isinstance(header, dict):
        raise ValueError("its header is no object")
    kid, algorithm = header.get("kid"), header["alg"]
    if algorithm not in ALGORITHMS:
        raise ValueError("its alg is none of those that are taken")
    kind = jws.JWSRegistry.algorithms[algorithm].key_type
    fitting = (
        key
        for key in keys
        if kid in (None, key.kid)
        and key.key_type == kind
        and key.get("use") in (None, "sig")
        and key.get("alg") in (None, algorithm)
    )
    return [*islice(fitting, KEYS_TRIED_MAX)]
