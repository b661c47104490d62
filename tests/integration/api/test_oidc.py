"""Tokens of an OpenID provider: taken from the real flow, and refused in every way in which one can be forged."""

import asyncio
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
from threading import Timer
from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from joserfc import jws
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey
from oidc_provider_mock import User, run_server_in_thread
from pydantic import ValidationError
from structlog.testing import capture_logs

from api.access import Caller
from api.oidc import KEYS_AGAIN_S, KEYS_S, KEYS_TRIED_MAX, LEEWAY_S, Tokens
from api.problems import Problem
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
        beside: what else it publishes as keys.
        text: what it answers instead of its keys.
        keys_url: where it says that its keys are; None: where they are.
        may_answer: it answers once this is set.
    """

    def __init__(self) -> None:
        self.keys: list[RSAKey | ECKey | OKPKey] = [RSAKey.generate_key(2048, {"kid": "one", "use": "sig"})]
        self.asked = 0
        self.beside: object = []
        self.keys_url: str | None = None
        self.text: str | None = None
        self.may_answer = threading.Event()
        self.may_answer.set()
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.may_answer.wait(WAIT_S)
                if self.path == "/.well-known/openid-configuration":
                    url = provider.keys_url or f"{provider.url}/keys"
                    found: object = {"issuer": provider.url, "jwks_uri": url}
                else:
                    provider.asked += 1
                    found = {"keys": [*provider.beside, *(key.as_dict(private=False) for key in provider.keys)]}
                text = json.dumps(found).encode()
                if provider.text is not None and self.path == "/keys":
                    text = provider.text.encode(errors="surrogateescape")
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

    def token(
        self, key=None, alg: str = "RS256", kid: str | None = "one", typ: str | None = None, **other: object
    ) -> str:
        key = key or self.keys[0]
        header = {"alg": alg, **({"kid": kid} if kid else {}), **({"typ": typ} if typ else {})}
        claims = {name: value for name, value in self.claims(**other).items() if value is not None}
        return jws.serialize_compact(header, json.dumps(claims).encode(), key, algorithms=[alg])


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
    "of a name too long": lambda p: p.token(sub="x" * 256),
    "of a name that cannot be written": lambda p: p.token(sub="\ud800"),
    "of a name with a line break": lambda p: p.token(sub="shop\n"),
    "to sign out": lambda p: p.token(typ="logout+jwt"),
    "without a role": lambda p: p.token(**{ROLE: None}),
    "with a role that is none": lambda p: p.token(**{ROLE: ["root", {"admin": 1}]}),
    "of a key that is unknown": lambda p: p.token(kid="two"),
    "junk": lambda _: "a.b.c",
    "with a header that is a list": lambda _: ".".join(map(encoded, (b'["alg"]', b"{}", b"0"))),
    "with a header that is text": lambda _: ".".join(map(encoded, (b'"alg"', b"{}", b"0"))),
    "too large": lambda p: p.token(pad="x" * 20_000),
}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED)
def test_a_forged_token_is_nobodys(api: Api, provider: Provider, forged):
    assert api.status_with(provider.token()) == 200
    with api.http(forged(provider)) as client:
        assert client.get(WITHDRAWALS).status_code in (401, 431)
        assert ask(client, "acc-1").status_code in (401, 431)


@pytest.mark.parametrize("typ", ["JWT", "at+jwt", "application/at+jwt", "application/okta-internal-at+jwt"])
def test_a_token_says_in_several_ways_what_it_is_for(api: Api, provider: Provider, typ: str):
    assert api.status_with(provider.token(typ=typ, sub="x" * 255)) == 200


def test_a_refusal_is_one_of_a_token_and_nothing_more(api: Api, provider: Provider):
    with api.http(provider.token(aud="another-service")) as client:
        refused = client.get(WITHDRAWALS)
    assert refused.headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'
    assert refused.json()["detail"] == "the token is not one that is taken here; the API's log says why"
    assert httpx.get(f"{api.url}{WITHDRAWALS}", timeout=WAIT_S).headers["WWW-Authenticate"] == "Bearer"


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


def judged(provider: Provider, *tokens: str) -> list[object]:
    """What a process that has just started makes of tokens that come at once: whose they are, or the problem."""

    async def judge() -> list[object]:
        judge = Tokens(ApiSettings(api_oidc_issuer=provider.url))
        try:
            return await asyncio.gather(*map(judge.caller_of, tokens), return_exceptions=True)
        finally:
            await judge.close()

    return asyncio.run(judge())


@pytest.fixture
def publisher() -> Iterator[Provider]:
    provider = Provider()
    yield provider
    provider.close()


def test_a_token_need_not_name_its_key_though_there_are_several(publisher: Provider):
    publisher.keys += [
        RSAKey.generate_key(2048, {"kid": "two"}),
        ECKey.generate_key("P-256", {"kid": "curve"}),
        OKPKey.generate_key("Ed25519", {"kid": "edwards"}),
    ]
    others = [RSAKey.generate_key(2048) for _ in range(3)]
    of_other_use = zip(others, ({"use": "enc"}, {"alg": "PS256"}), strict=False)
    publisher.beside = [{**key.as_dict(private=False), **use} for key, use in of_other_use]
    good = [*zip(publisher.keys, ("RS256", "RS256", "ES256", "EdDSA"), strict=True)]
    bad = [(key, "RS256") for key in others]
    callers = judged(publisher, *(publisher.token(key, alg, kid=None) for key, alg in [*good, *bad]))
    assert [getattr(caller, "name", caller) for caller in callers] == ["oidc:shop"] * 4 + [None] * 3


def test_of_keys_with_one_name_each_that_fits_is_tried(publisher: Provider):
    publisher.keys += [RSAKey.generate_key(2048, {"kid": "one"}), ECKey.generate_key("P-256", {"kid": "one"})]
    algorithms = ("RS256", "RS256", "ES256")
    tokens = [publisher.token(key, alg) for key, alg in zip(publisher.keys, algorithms, strict=True)]
    forged = [publisher.token(RSAKey.generate_key(2048)), publisher.token(publisher.keys[1], kid="two")]
    callers = judged(publisher, *tokens, *forged)
    assert [getattr(caller, "name", caller) for caller in callers] == ["oidc:shop"] * 3 + [None] * 2


def test_only_so_many_keys_are_tried_for_a_token_that_names_none(publisher: Provider):
    publisher.keys += [RSAKey.generate_key(2048, {"kid": f"{number}"}) for number in range(KEYS_TRIED_MAX)]
    last = publisher.keys[-1]
    callers = judged(publisher, publisher.token(last, kid=None), publisher.token(last, kid=last.kid))
    assert [getattr(caller, "name", caller) for caller in callers] == [None, "oidc:shop"]


def test_why_a_token_is_refused_is_said_once(publisher: Provider):
    wrong = publisher.token(aud="another-service")
    with capture_logs() as logged:
        assert judged(publisher, wrong, wrong, publisher.token(**{ROLE: "root"})) == [None] * 3
    assert [line["why"] for line in logged] == [
        "invalid_claim: Invalid claim: 'aud'",
        "its claim settle_role names no role: client, viewer, operator, admin",
    ]


def test_tokens_that_come_while_the_keys_do_wait_for_them(publisher: Provider):
    publisher.may_answer.clear()
    Timer(0.3, publisher.may_answer.set).start()
    callers = judged(publisher, *(publisher.token(sub=f"shop-{number}") for number in range(5)))
    assert [getattr(caller, "name", caller) for caller in callers] == [
        f"oidc:shop-{number}" for number in range(5)
    ]
    assert publisher.asked == 1


def test_tokens_of_a_new_key_that_come_while_it_is_fetched_wait_for_it(
    publisher: Provider, monkeypatch: pytest.MonkeyPatch
):
    async def judge() -> None:
        tokens = Tokens(ApiSettings(api_oidc_issuer=publisher.url))
        assert await tokens.caller_of(publisher.token()) is not None
        monkeypatch.setattr("api.oidc.KEYS_AGAIN_S", 0.0)
        publisher.keys.insert(0, ECKey.generate_key("P-256", {"kid": "new", "use": "sig"}))
        new = [publisher.token(alg="ES256", kid="new", sub=f"shop-{number}") for number in range(3)]
        assert None not in await asyncio.gather(*map(tokens.caller_of, new))
        await tokens.close()

    asyncio.run(judge())
    assert publisher.asked == 2


def test_old_keys_are_used_while_a_provider_hangs(publisher: Provider, monkeypatch: pytest.MonkeyPatch):
    async def judge() -> None:
        tokens = Tokens(ApiSettings(api_oidc_issuer=publisher.url))
        assert await tokens.caller_of(publisher.token()) is not None
        clock = SimpleNamespace(monotonic=lambda: time.monotonic() + KEYS_S + 1)
        monkeypatch.setattr("api.oidc.time", clock)
        monkeypatch.setattr("api.oidc.STALE_PATIENCE_S", 0.01)
        publisher.may_answer.clear()
        assert await tokens.caller_of(publisher.token()) is not None
        monkeypatch.setattr("api.oidc.TIMEOUT_S", 0.01)
        clock.monotonic = lambda: time.monotonic() + 2 * KEYS_S + 1
        with pytest.raises(Problem):
            await tokens.caller_of(publisher.token())
        publisher.may_answer.set()
        await tokens.close()

    asyncio.run(judge())


UNUSABLE = [
    {"kty": "EC", "crv": "BP-256", "x": "AA", "y": "AA", "kid": "brainpool"},
    {"kty": "AKP", "alg": "ML-DSA-44", "pub": "AA"},
    {},
    {"kid": 7},
    7,
    None,
    {"kty": "RSA", "n": "AQAB", "e": "AQ"},
    {"kty": "RSA", "n": "AQAB", "e": "AQAB", "use": "wrap"},
]


def test_a_key_that_cannot_be_used_is_in_the_way_of_no_other(publisher: Provider):
    publisher.beside = UNUSABLE
    with capture_logs() as logged:
        (caller,) = judged(publisher, publisher.token())
    assert isinstance(caller, Caller), caller
    assert "brainpool: " in logged[0]["first"][0]


@pytest.mark.parametrize("text", ["[" * 100_000, "<html>", '{"keys": 7}', '{"keys": []}', '["keys"]', "\udcff"])
def test_keys_that_cannot_be_read_are_said_not_to_be_had(publisher: Provider, text: str):
    publisher.text = text
    with capture_logs() as logged:
        (problem,) = judged(publisher, publisher.token())
    assert isinstance(problem, Problem) and problem.kind == "unavailable"
    assert [line["event"] for line in logged] == ["the OpenID provider's keys are not to be had"]


def test_keys_that_others_could_replace_are_not_asked_for(publisher: Provider):
    publisher.keys_url = "http://idp.example/keys"
    with capture_logs() as logged:
        (problem,) = judged(publisher, publisher.token())
    assert isinstance(problem, Problem) and problem.kind == "unavailable"
    assert "which is not https" in logged[0]["error"]


def test_an_issuer_whose_keys_others_could_replace_is_refused():
    for wrong in ("http://idp.example", "idp.example", "ftp://127.0.0.1"):
        with pytest.raises(ValidationError):
            ApiSettings(api_oidc_issuer=wrong)
    assert ApiSettings(api_oidc_issuer="https://idp.example/realm").api_oidc_issuer == "https://idp.example/realm"
