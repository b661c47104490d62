"""OAUTHBEARER by OIDC: tokens from an endpoint, which Kafka judges by its key set; both on loopback."""

import json
import threading
import time
from base64 import b64decode, urlsafe_b64encode
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from uuid_utils.compat import uuid7

from broker import security
from broker.clients import idempotent_producer
from broker.provision import ensure_topics
from contracts.topics import WITHDRAWAL_REQUESTS
from processors.runtime.consumer import BatchConsumer
from tests.conftest import WAIT_S, wait_until
from tests.integration.secured import OAUTH, SecuredKafka, unanswered

TOPIC = WITHDRAWAL_REQUESTS.name
ID, SECRET = "saga", "hunter2"
AUDIENCE = "settle-kafka"
LIFE_S = 10
HANDLER = "org.apache.kafka.common.security.oauthbearer.OAuthBearerValidatorCallbackHandler"


class Issuer:
    """Gives tokens to one client: at ``/token``, signed with the key that ``/keys`` has.

    Attributes:
        url: of it.
        given: how many tokens.
    """

    def __init__(self):
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.given = 0
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self._answer(200, issuer.keys())

            def do_POST(self):
                self.rfile.read(int(self.headers["Content-Length"]))
                _, _, credentials = self.headers.get("Authorization", "").partition(" ")
                if b64decode(credentials).decode() == f"{ID}:{SECRET}":
                    self._answer(200, issuer.token())
                else:
                    self._answer(401, {"error": "invalid_client", "error_description": "who is that"})

            def _answer(self, status, body):
                text = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

    def keys(self):
        numbers = self._key.public_key().public_numbers()
        n, e = (encoded(value.to_bytes((value.bit_length() + 7) // 8, "big")) for value in (numbers.n, numbers.e))
        return {"keys": [{"kty": "RSA", "kid": "one", "use": "sig", "alg": "RS256", "n": n, "e": e}]}

    def token(self):
        self.given += 1
        now = int(time.time())
        claims = {"iss": self.url, "sub": ID, "aud": AUDIENCE, "iat": now, "exp": now + LIFE_S, "scope": "kafka"}
        head = {"alg": "RS256", "typ": "JWT", "kid": "one"}
        signed = ".".join(encoded(json.dumps(part).encode()) for part in (head, claims))
        signature = self._key.sign(signed.encode(), padding.PKCS1v15(), SHA256())
        return {
            "access_token": f"{signed}.{encoded(signature)}",
            "token_type": "Bearer",
            "expires_in": LIFE_S,
            "scope": "kafka",
        }


def encoded(value):
    return urlsafe_b64encode(value).decode().rstrip("=")


@pytest.fixture(scope="module")
def issuer():
    with Issuer() as issuer:
        yield issuer


@pytest.fixture(scope="module")
def kafka(tmp_path_factory, issuer):
    settings = {
        "listener.name.oauth.oauthbearer.sasl.server.callback.handler.class": HANDLER,
        "sasl.oauthbearer.jwks.endpoint.url": f"{issuer.url}/keys",
        "sasl.oauthbearer.expected.audience": AUDIENCE,
    }
    allowed = f"-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={issuer.url}/keys"
    with SecuredKafka(tmp_path_factory.mktemp("oauth"), settings, [allowed]) as kafka:
        ensure_topics(kafka.admin)
        kafka.allow(ID, "TOPIC", TOPIC, "READ", "WRITE")
        kafka.allow(ID, "GROUP", "*", "READ")
        yield kafka


@pytest.fixture
def identity(kafka, issuer):
    """Be a client of the issuer, with a secret."""
    address = kafka.address[OAUTH]

    def be(secret=SECRET):
        config = json.dumps({"sasl.oauthbearer.token.endpoint.url": f"{issuer.url}/token"})
        security.assume(address, kafka.identity(OAUTH, ID, secret, CONFIG=config))
        security.check(address)
        return address

    yield be
    security.assume(address, None)


def test_a_service_reads_and_writes_with_tokens_that_are_renewed_before_they_end(identity, issuer):
    address = identity()
    value = str(uuid7()).encode()
    with closing(BatchConsumer(address, "oauth", [TOPIC], 100, 0.0)) as batches:
        producer = idempotent_producer(address)
        producer.produce(TOPIC, value)
        assert producer.flush(WAIT_S) == 0
        wait_until(lambda: [record for record in batches.take() if record.value == value], "it is read")
        wait_until(lambda: batches.waits_for(2.0) is None, "it waits for nothing")
        # From here on, as who is not answered asks with another client, which takes a token of its own.
        given = issuer.given
        began = time.monotonic()
        wait_until(lambda: issuer.given >= given + 4, "both were given another token, and one more")
        assert time.monotonic() - began > LIFE_S * 0.7
        producer.produce(TOPIC, b"later")
        assert producer.flush(WAIT_S) == 0
        wait_until(lambda: [record for record in batches.take() if record.value == b"later"], "it reads on")


def test_a_wrong_secret_is_one_line_with_the_variables(identity):
    address = identity("wrong")
    said = (
        "Kafka or the token endpoint refuses this client; look at SETTLE_KAFKA_SASL_USERNAME and "
        "SETTLE_KAFKA_SASL_PASSWORD (client ID and secret) and sasl.oauthbearer.* in SETTLE_KAFKA_CONFIG ("
    )
    line = unanswered(address, said)
    assert "wrong" not in line.partition("SETTLE_KAFKA_CONFIG")[2]
