"""Bearer tokens of an OpenID provider: whose they are, judged by the keys that the provider publishes."""

import time
from collections.abc import Mapping
from typing import Any

import httpx
import structlog
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from api.access import MAY, OF_PROVIDER, ROLES, Caller
from api.problems import RETRY_S, Problem
from api.settings import ApiSettings

ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
"""Signatures with a private key. Not HS…, which would be made with what the provider publishes, and not none."""

LEEWAY_S = 60
"""How far the provider's clock may be off, seconds."""

KEYS_S = 600.0
"""How long the provider's keys are used before they are asked for again: one that it withdrew is refused then."""

KEYS_AGAIN_S = 10.0
"""How soon they are asked for again, when a token names an unknown key or the provider has not answered."""

TIMEOUT_S = 5.0
TOKEN_MAX = 16 * 1024
ANSWER_MAX = 256 * 1024
DISCOVERY = "/.well-known/openid-configuration"

log = structlog.get_logger()


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
        self._asked_at = float("-inf")
        self._got_at = float("-inf")

    async def close(self) -> None:
        """Close the connection to the provider."""
        await self._http.aclose()

    async def caller_of(self, token: str) -> Caller | None:
        """Whose a token is; None for one that is not valid.

        A caller is named ``oidc:`` and the token's ``sub``, so it is never that of an API key.

        Raises:
            Problem: the provider's keys are not to be had.
        """
        if len(token) > TOKEN_MAX:
            return None
        claims = await self._verified(token)
        if claims is None:
            return None
        try:
            self._claims.validate(claims)
        except JoseError:
            return None
        subject, role = claims["sub"], self._role_of(claims)
        if not isinstance(subject, str) or not subject or role is None:
            return None
        return Caller(f"{OF_PROVIDER}{subject}", role, MAY[role])

    def _role_of(self, claims: Mapping[str, Any]) -> str | None:
        """The strongest role that a claim names, as text or in a list; None where it names none of ours."""
        given = claims.get(self._role_claim)
        named = [given] if isinstance(given, str) else given if isinstance(given, list) else []
        return next((role for role in reversed(ROLES) if role in named), None)

    async def _verified(self, token: str) -> dict[str, Any] | None:
        """The claims of a token with a valid signature."""
        now = time.monotonic()
        keys = self._keys
        if keys is None or now - self._got_at > KEYS_S:
            keys = await self._ask()
        claims = _decoded(token, keys)
        if claims is None and time.monotonic() - self._asked_at > KEYS_AGAIN_S:  # perhaps of a key made since
            claims = _decoded(token, await self._ask())
        return claims

    async def _ask(self) -> KeySet:
        """The provider's keys; those of before where it does not answer, for :data:`KEYS_S` at the most."""
        now = time.monotonic()
        if now - self._asked_at > KEYS_AGAIN_S:
            self._asked_at = now
            try:
                self._keys = KeySet.import_key_set(await self._published())  # type: ignore[arg-type]
                self._got_at = now
            except (httpx.HTTPError, httpx.InvalidURL, JoseError, ValueError, LookupError, TypeError) as error:
                log.warning("the OpenID provider's keys are not to be had", issuer=self._issuer, error=repr(error))
        if self._keys is None or now - self._got_at > 2 * KEYS_S:
            raise Problem("unavailable", "the OpenID provider does not give its keys", RETRY_S)
        return self._keys

    async def _published(self) -> dict[str, Any]:
        described = await self._get(self._issuer.rstrip("/") + DISCOVERY)
        if described["issuer"] != self._issuer:
            raise ValueError(f"it calls itself {described['issuer']!r}")
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


def _decoded(token: str, keys: KeySet) -> dict[str, Any] | None:
    try:
        return jwt.decode(token, keys, algorithms=ALGORITHMS).claims
    except (JoseError, ValueError, TypeError, LookupError, RecursionError):
        return None
