"""What keeps a client from Kafka, as one line that names the variable to look at.

librdkafka tells little: every certificate that it does not trust is the same to it, and a client that speaks plain
text to a TLS port is only disconnected. So where it is not clear, a TLS handshake is tried, and a request in plain
text. Only an answer proves anything: a broker that is slow, starts or stops gives none.
"""

import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

from confluent_kafka import KafkaError

from broker import security
from broker.security import KafkaSettingsError, Properties, protocol_of, variable_of
from contracts.kafka_config import CONFIG

PROBE_S = 0.5
"""Time limit of a handshake with one broker, or of its answer."""

PROBE_AGAIN_S = 2.0
"""A client that is not connected reports an error some twenty times a second."""

DENIED = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "a topic",
    KafkaError.GROUP_AUTHORIZATION_FAILED: "a consumer group",
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "the cluster",
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: "a transaction",
}
"""The errors of a missing right (ACL), and of what."""

_PRODUCER_ID = "idempotence PID"
"""In an error of an idempotent producer, as librdkafka calls what it lacks."""

_ASKS_VERSIONS = bytes.fromhex("0000000a 0012 0000 5e771e00 ffff")
"""ApiVersions, which every listener answers before it knows who asks: https://kafka.apache.org/protocol#The_Messages_ApiVersions.
Length, key 18, version 0, a number that the answer repeats, and no client ID."""

# Of OpenSSL: https://docs.openssl.org/3.0/man3/X509_STORE_CTX_get_error/
_EXPIRED, _OTHER_HOST, _OTHER_ADDRESS = 10, 62, 64
_ALERTS = ("alert certificate", "alert bad certificate", "alert unknown ca", "alert handshake failure")

PROTOCOL = variable_of("security.protocol")
USER = f"{variable_of('sasl.username')} and {variable_of('sasl.password')}"


def explained(error: KafkaError, bootstrap: str) -> str:
    """What an error of a client says, as one line; with the variable to look at where it is about the identity.

    May try a handshake, which takes up to :data:`PROBE_S` for each broker.

    Args:
        error: from an exception, a message, or the client's ``error_cb``.
        bootstrap: what the client was given.
    """
    return about_identity(error, bootstrap) or _bare(error)


def about_identity(error: KafkaError, bootstrap: str) -> str | None:
    """Why Kafka does not take this client as who it is, or the client Kafka, with the variable to look at.

    None where the error is of another kind.
    """
    code, text = error.code(), _bare(error)
    if code in DENIED:
        return denied(error)
    try:
        found = security.properties(bootstrap)
    except KafkaSettingsError as wrong:
        return str(wrong)
    if code == KafkaError._AUTHENTICATION:
        return _unauthenticated(text, found)
    if any(alert in text for alert in _ALERTS):
        own = variable_of("ssl.certificate.location")
        return f"Kafka refuses the certificate of this client: is it expired? Look at {own}: {_cause(text)}"
    if code == KafkaError._SSL or "certificate verify failed" in text:
        return _untrusted(text, bootstrap, found)
    if code == KafkaError._ALL_BROKERS_DOWN or (code == KafkaError._TRANSPORT and "Disconnected" in text):
        return _other_protocol(bootstrap, found)
    return None


def denied(error: KafkaError) -> str | None:
    """The right that Kafka says the user lacks; None for another error."""
    what = DENIED.get(error.code())
    if what is None:
        return None
    # Kafka quotes the whole request, with the broker's classes and the certificate of who asked.
    said = _bare(error) if "Request(" not in _bare(error) else _bare(KafkaError(error.code()))
    if _PRODUCER_ID in said:  # a producer asks for one before its first record: it may write nowhere
        said, what = "Kafka gives no producer ID", "write to any topic"
    return f"{said}: the Kafka user lacks a right (ACL) to {what}; look at {variable_of('sasl.username')}"


class Troubles:
    """What a client has said is wrong with its connections, of late; each is told once.

    Args:
        bootstrap: what the client was given.
        tell: called with a line when something new is wrong with the identity; by default nobody is told.

    Attributes:
        text: the last of it; None while nothing is known to be wrong.
    """

    def __init__(self, bootstrap: str, tell: Callable[[str], None] = lambda _: None) -> None:
        self._bootstrap = bootstrap
        self._tell = tell
        self._told: str | None = None
        self._code: int | None = None
        self._probe_at = 0.0
        self.text: str | None = None

    def note(self, error: KafkaError) -> None:
        """Take an error of the client's ``error_cb``."""
        code, now = error.code(), time.monotonic()
        if self.text is not None and code in (self._code, KafkaError._ALL_BROKERS_DOWN):
            return  # the one before has said why
        if code == self._code and now < self._probe_at:
            return
        self._code, self._probe_at = code, now + PROBE_AGAIN_S
        found = about_identity(error, self._bootstrap)
        if found is None:
            return
        self.text = found
        if found != self._told:
            self._told = found
            self._tell(found)

    def over(self) -> None:
        """Kafka has answered."""
        self.text = self._code = self._told = None


def _unauthenticated(text: str, found: Properties) -> str:
    mechanism = found.get("sasl.mechanism")
    if mechanism == security.OAUTHBEARER:
        where = f"{USER} (client ID and secret) and sasl.oauthbearer.* in {CONFIG}"
        return f"Kafka or the token endpoint refuses this client; look at {where} ({_cause(text)})"
    if "current SASL state" in text:
        return f"Kafka takes no user on this port; look at {PROTOCOL}, which is {found.get('security.protocol')}"
    if "mechanism" in text and "credentials" not in text:
        where = variable_of("sasl.mechanism")
        return f"Kafka does not take {where}={mechanism}: {_cause(text)}"
    # After "PASSWORD:" a word would be taken for a password, and hidden.
    return f"Kafka refuses the user or its password; look at {USER} ({_cause(text)})"


def _untrusted(text: str, bootstrap: str, found: Properties) -> str | None:
    authority = variable_of("ssl.ca.location")
    refused = _handshake(bootstrap, found)
    if isinstance(refused, ssl.SSLCertVerificationError):
        where = authority
        if refused.verify_code in (_OTHER_HOST, _OTHER_ADDRESS):
            where = "SETTLE_KAFKA_BOOTSTRAP and the names in the broker's certificate"
        elif refused.verify_code == _EXPIRED:
            where = f"the broker's certificate, and {authority}"
        reason = refused.verify_message.rstrip(".")
        return f"Kafka's certificate is not trusted: {reason}; look at {where}"
    if "certificate verify failed" in text:
        return f"Kafka's certificate is not trusted; look at {authority}"
    if _speaks_plain_text(bootstrap):
        return f"Kafka speaks no TLS on this port; look at {PROTOCOL}, which is {protocol_of(found)}"
    if isinstance(refused, ssl.SSLError) and not isinstance(refused, ssl.SSLEOFError):
        return f"Kafka speaks another kind of TLS on this port, or none; look at {PROTOCOL}: {_cause(text)}"
    return None


def _other_protocol(bootstrap: str, found: Properties) -> str | None:
    """That one side speaks TLS and the other does not: then they only hang up on each other."""
    protocol = protocol_of(found)
    if protocol.endswith("SSL"):
        if _speaks_plain_text(bootstrap):
            return f"Kafka speaks no TLS on this port; look at {PROTOCOL}, which is {protocol}"
    elif _speaks_tls(bootstrap):
        return f"Kafka speaks TLS on this port; look at {PROTOCOL}, which is {protocol}"
    return None


def unexplained(bootstrap: str) -> str | None:
    """That somebody listens where a new client was not answered at all, and what that may be; None: nobody does.

    Such a port may want a user of somebody who has none, and hang up on anything else. Kafka tells whoever has one
    that it wants none.
    """
    try:
        protocol = protocol_of(security.properties(bootstrap))
    except KafkaSettingsError as wrong:
        return str(wrong)
    if not _listens(bootstrap):
        return None
    line = "somebody listens there and does not answer"
    return (
        line if protocol.startswith("SASL_") else f"{line}; if Kafka runs, look at {PROTOCOL}, which is {protocol}"
    )


def _listens(bootstrap: str) -> bool:
    for host, port in _places(bootstrap):
        with suppress(OSError), socket.create_connection((host, port), PROBE_S):
            return True
    return False


def _speaks_tls(bootstrap: str) -> bool:
    """Whether somebody there answers a handshake, be it with a refusal of who has no certificate."""
    refused = _handshake(bootstrap, None)
    # Of plain Kafka a handshake is a message without sense: it hangs up, or waits for the rest.
    return refused is None or (isinstance(refused, ssl.SSLError) and "ALERT" in str(refused.reason or ""))


def _speaks_plain_text(bootstrap: str) -> bool:
    """Whether a broker there answers without TLS."""
    for host, port in _places(bootstrap):
        with suppress(OSError), socket.create_connection((host, port), PROBE_S) as connection:
            connection.sendall(_ASKS_VERSIONS)
            with connection.makefile("rb") as answer:
                return answer.read(8)[4:] == _ASKS_VERSIONS[8:12]
    return False


def _handshake(bootstrap: str, found: Properties | None) -> Exception | None:
    """What a TLS handshake with the first broker that listens ends with; None where it succeeds.

    Args:
        found: whom to trust; None: whoever it is.
    """
    refused: Exception = OSError("nobody listens")
    for host, port in _places(bootstrap):
        try:
            with socket.create_connection((host, port), PROBE_S) as connection:
                _context(found).wrap_socket(connection, server_hostname=host).close()
            return None
        except ssl.SSLError as error:
            refused = error
            break
        except OSError as error:
            refused = error
    # Its frames hold this result, and the client that asked: as a cycle they would stay until the next collection.
    return refused.with_traceback(None)


def _places(bootstrap: str) -> Iterator[tuple[str, int]]:
    for address in bootstrap.split(","):
        host, _, port = address.strip().rpartition(":")
        with suppress(ValueError):
            yield host.strip("[]"), int(port)


def _context(found: Properties | None) -> ssl.SSLContext:
    if found is None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    context = ssl.create_default_context(cafile=found.get("ssl.ca.location"), cadata=found.get("ssl.ca.pem"))
    context.check_hostname = found.get("ssl.endpoint.identification.algorithm", "https") != "none"
    return context


def _bare(error: KafkaError) -> str:
    """An error's text on one line, without how long it took."""
    return " ".join(str(error.str()).partition(" (after ")[0].split())


def _cause(text: str) -> str:
    """The last part of a text such as ``sasl_ssl://host:port/bootstrap: what failed: why``."""
    return text.partition("/bootstrap: ")[2] or text
