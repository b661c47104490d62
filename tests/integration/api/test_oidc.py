"""Tokens of an OpenID provider: taken from the real flow, and refused in every way in which one can be forged."""

import hmac
import json
import os
import subprocess
import sys
import threading
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey, RSAKey
from oidc_provider_mock import User, run_server_in_thread
from pydantic import ValidationError

from api.oidc import KEYS_AGAIN_S, LEEWAY_S
from api.settings import ApiSettings
from stack.ports import choose
from tests.conftest import WAIT_S, wait_until
from tests.integration.api.front import WITHDRAWALS, Front, any_authority, ask, streams_that_end

AUDIENCE = "settle"
ROLE = "settle_role"


class Provider:
    """An OpenID provider of which the test holds the keys.

    Attributes:
        url: its name.
        keys: what it publishes.
        asked: how often it was asked for them.
    """

    def __init__(self) -> None:
        self.keys: list[RSAKey | ECKey] = [RSAKey.generate_key(2048, {"kid": "one", "use": "sig"})]
        self.asked = 0
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == "/.well-known/openid-configuration":
                    found: object = {"issuer": provider.url, "jwks_uri": f"{provider.url}/keys"}
                else:
                    provider.asked += 1
                    found = {"keys": [key.as_dict(private=False) for key in provider.keys]}
                text = json.dumps(found).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def claims(self, **other: object) -> dict[str, object]:
        now = int(time.time())
        return {"iss": self.url, "aud": AUDIENCE, "sub": "shop", "exp": now + 600, ROLE: "client", **other}

    def token(self, key=None, alg: str = "RS256", kid: str | None = "one", **other: object) -> str:
        key = key or self.keys[0]
        header = {"alg": alg, **({"kid": kid} if kid else {})}
        claims = {name: value for name, value in self.claims(**other).items() if value is not None}
        return jwt.encode(header, claims, key, algorithms=[alg])


class Api:
    """An instance of the API that takes the tokens of a provider."""

    def __init__(self, url: str) -> None:
        self.url = url

    def http(self, token: str) -> httpx.Client:
        headers = {"Authorization": f"Bearer {token}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=WAIT_S, verify=any_authority())

    def status_with(self, token: str) -> int:
        with self.http(token) as client:
            return client.get(WITHDRAWALS).status_code

    def answers(self) -> bool:
        with suppress(httpx.TransportError):
            return self.status_with("none") == 401
        return False


@contextmanager
def trusting(front: Front, issuer: str) -> Iterator[Api]:
    port = choose()
    variables = {
        "SETTLE_API_LISTEN": f"127.0.0.1:{port}",
        "SETTLE_API_OIDC_ISSUER": issuer,
        "SETTLE_HTTP_PORT": "0",
    }
    environment = {**os.environ, **front.stack.environment(), **variables}
    api = Api(f"http://127.0.0.1:{port}")
    with subprocess.Popen([sys.executable, "-m", "cli", "run", "api"], env=environment) as process:
        try:
            wait_until(api.answers, "it answers")
            yield api
        finally:
            process.terminate()
            try:
                assert process.wait(WAIT_S) == 0
            finally:
                process.kill()


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    provider = Provider()
    yield provider
    provider.close()


@pytest.fixture(scope="module")
def api(front: Front, provider: Provider) -> Iterator[Api]:
    with trusting(front, provider.url) as api:
        yield api


def test_a_token_of_a_real_flow_is_a_caller(front: Front):
    user = User(sub="anna", claims={ROLE: ["somebody", "operator"]})
    with run_server_in_thread(user_claims=[user]) as server:
        issuer = f"http://localhost:{server.server_port}"
        with trusting(front, issuer) as api, api.http(id_token(issuer, "anna")) as client:
            assert client.get(WITHDRAWALS).status_code == 200
            # An operator sees withdrawals, and asks for none.
            refused = ask(client, front.open_account())
            assert (refused.status_code, refused.json()["detail"]) == (
                403,
                "operator oidc:anna lacks the permission withdrawals:request",
            )


def id_token(issuer: str, subject: str) -> str:
    """Signs in as a browser does, and exchanges the code."""
    back = "http://127.0.0.1/back"
    query = {"client_id": AUDIENCE, "response_type": "code", "scope": "openid profile", "redirect_uri": back}
    asked = {**query, "state": "s"}
    said = httpx.post(f"{issuer}/oauth2/authorize", params=asked, data={"sub": subject}, timeout=WAIT_S)
    code = parse_qs(urlsplit(said.headers["location"]).query)["code"][0]
    form = {"grant_type": "authorization_code", "code": code, "redirect_uri": back, "client_id": AUDIENCE}
    given = httpx.post(f"{issuer}/oauth2/token", data={**form, "client_secret": "secret"}, timeout=WAIT_S)
    return str(given.json()["id_token"])


def test_a_client_of_the_provider_has_its_own_withdrawals(front: Front, api: Api, provider: Provider):
    account = front.open_account()
    with api.http(provider.token()) as shop, api.http(provider.token(sub="other")) as other:
        payment_id = ask(shop, account).json()["payment_id"]
        assert shop.get(f"{WITHDRAWALS}/{payment_id}").status_code == 200
        assert other.get(f"{WITHDRAWALS}/{payment_id}").status_code == 404
    # A key of the same name is somebody else.
    with front.http(front.key("shop")) as namesake:
        assert namesake.get(f"{WITHDRAWALS}/{payment_id}").status_code == 404


def test_every_stream_ends_with_its_token(front: Front, api: Api, provider: Provider):
    lasts_s = 20

    def sign_in() -> None:
        token = provider.token(sub="leaves", exp=int(time.time()) - LEEWAY_S + lasts_s, **{ROLE: "admin"})
        client.headers["Authorization"] = f"Bearer {token}"

    with api.http("none") as client, streams_that_end(front, client, sign_in):
        wait_until(lambda: client.get(WITHDRAWALS).status_code == 401, "the token has expired")


def with_the_public_key_as_a_secret(provider: Provider) -> str:
    parts = ({"alg": "HS256", "kid": "one"}, provider.claims())
    signed = ".".join(encoded(json.dumps(part).encode()) for part in parts)
    digest = hmac.digest(provider.keys[0].as_pem(private=False), signed.encode(), "sha256")
    return f"{signed}.{encoded(digest)}"


def encoded(part: bytes) -> str:
    return urlsafe_b64encode(part).decode().rstrip("=")


FORGED = {
    "other key": lambda p: p.token(RSAKey.generate_key(2048)),
    "other key of another type": lambda p: p.token(ECKey.generate_key("P-256"), "ES256"),
    "the public key as a secret": with_the_public_key_as_a_secret,
    "no signature": lambda p: p.token(alg="none", key=OctKey.generate_key()),
    "signature cut off": lambda p: p.token().rpartition(".")[0] + ".",
    "other contents": lambda p: ".".join(
        (p.token().split(".")[0], p.token(sub="admin").split(".")[1], p.token().split(".")[2])
    ),
    "expired": lambda p: p.token(exp=int(time.time()) - 120),
    "without an end": lambda p: p.token(exp=None),
    "not valid yet": lambda p: p.token(nbf=int(time.time()) + 600),
    "for somebody else": lambda p: p.token(aud="another-service"),
    "of another provider": lambda p: p.token(iss="https://evil.example"),
    "of nobody": lambda p: p.token(sub=None),
    "of a number": lambda p: p.token(sub=7),
    "without a role": lambda p: p.token(**{ROLE: None}),
    "with a role that is none": lambda p: p.token(**{ROLE: ["root", {"admin": 1}]}),
    "of a key that is unknown": lambda p: p.token(kid="two"),
    "junk": lambda _: "a.b.c",
    "too large": lambda p: p.token(pad="x" * 20_000),
}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED)
def test_a_forged_token_is_nobodys(api: Api, provider: Provider, forged):
    assert api.status_with(provider.token()) == 200
    with api.http(forged(provider)) as client:
        assert client.get(WITHDRAWALS).status_code in (401, 431)
        assert ask(client, "acc-1").status_code in (401, 431)


def test_a_new_key_is_taken_up_and_the_provider_is_not_asked_for_each_unknown_one(api: Api, provider: Provider):
    assert api.status_with(provider.token()) == 200
    before, began = provider.asked, time.monotonic()
    assert {api.status_with(provider.token(kid=f"no-{n}")) for n in range(50)} == {401}
    assert provider.asked - before <= 1 + (time.monotonic() - began) / KEYS_AGAIN_S
    provider.keys.insert(0, ECKey.generate_key("P-256", {"kid": "new", "use": "sig"}))
    wait_until(
        lambda: api.status_with(provider.token(alg="ES256", kid="new")) == 200,
        "the new key is known",
    )
    assert api.status_with(provider.token(provider.keys[1])) == 200


def test_an_issuer_whose_keys_others_could_replace_is_refused():
    for wrong in ("http://idp.example", "idp.example", "ftp://127.0.0.1"):
        with pytest.raises(ValidationError):
            ApiSettings(api_oidc_issuer=wrong)
    assert ApiSettings(api_oidc_issuer="https://idp.example/realm").api_oidc_issuer == "https://idp.example/realm"
