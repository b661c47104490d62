"""A broker that asks who comes: certificates and users made on the spot, a listener for each way to connect."""

import os
import signal
from datetime import UTC, datetime, timedelta

import trustme
from confluent_kafka import KafkaException
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from broker.clients import admin
from broker.lifeline import why_unanswered
from broker.security import properties
from stack.jars import kafka_jars
from stack.kafka import Kafka
from stack.ports import HOST, choose
from stack.process import Home
from stack.supervisor import to_stderr
from tests.conftest import wait_until

PASSWORD = "hunter2"
# Each a listener, by its name: how to connect to it.
PLAINTEXT, SSL, SCRAM, PLAIN, OAUTH = "PLAINTEXT", "SSL", "SCRAM", "PLAIN", "OAUTH"
PROTOCOLS = {PLAINTEXT: "PLAINTEXT", SSL: "SSL", SCRAM: "SASL_SSL", PLAIN: "SASL_PLAINTEXT", OAUTH: "SASL_SSL"}
JAVA_OPTIONS = ("-Xms64m", "-Xmx256m")
_LOGIN = "org.apache.kafka.common.security.{} required"
_SCRAM = _LOGIN.format("scram.ScramLoginModule")


class Pem:
    """An authority, and what it issues, as files in a folder."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self._authority = trustme.CA()
        self.ca, self.unknown_ca = folder / "ca.pem", folder / "unknown-ca.pem"
        self._authority.cert_pem.write_to_path(self.ca)
        trustme.CA().cert_pem.write_to_path(self.unknown_ca)

    def issue(self, name, *hosts, expired=False):
        """Certificate and key of a name, as two files; a second call replaces them."""
        until = datetime.now(UTC) + timedelta(days=-1 if expired else 30)
        issued = self._authority.issue_cert(
            *(hosts or (f"{name}.example",)),
            common_name=name,
            not_before=until - timedelta(days=60),
            not_after=until,
        )
        certificate, key = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        certificate.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
        parsed = load_pem_private_key(issued.private_key_pem.bytes(), None)
        # Java reads no other format.
        key.write_bytes(parsed.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return certificate, key


class SecuredKafka:
    """One node with ACLs. Whoever comes in plain text may do everything, the others what :meth:`allow` says.

    Args:
        folder: of its own.
        settings: further ones of server.properties.
        java_options: further ones.

    Attributes:
        address: where each listener is.
    """

    def __init__(self, folder, settings=None, java_options=()):
        self.pem = Pem(folder / "pem")
        certificate, key = self.pem.issue("broker", HOST, "localhost")
        both = folder / "pem" / "broker.pem"
        both.write_bytes(key.read_bytes() + certificate.read_bytes())
        taken = set()
        ports = {name: choose(taken=taken) for name in PROTOCOLS}
        controller = choose(taken=taken)
        self.address = {name: f"{HOST}:{port}" for name, port in ports.items()}
        self.admin = self.address[PLAINTEXT]
        advertised = ",".join(f"{name}://{address}" for name, address in self.address.items())
        protocols = ",".join(f"{name}:{protocol}" for name, protocol in PROTOCOLS.items())
        ours = {
            "listeners": f"{advertised},CONTROLLER://{HOST}:{controller}",
            "advertised.listeners": advertised,
            "listener.security.protocol.map": f"{protocols},CONTROLLER:PLAINTEXT",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(both),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self.pem.ca),
            "ssl.principal.mapping.rules": "RULE:^.*CN=([^,]+).*$/$1/",
            "listener.name.ssl.ssl.client.auth": "required",
            "listener.name.scram.sasl.enabled.mechanisms": "SCRAM-SHA-512,SCRAM-SHA-256",
            **{f"listener.name.scram.scram-sha-{bits}.sasl.jaas.config": f"{_SCRAM};" for bits in (256, 512)},
            "listener.name.plain.sasl.enabled.mechanisms": "PLAIN",
            "listener.name.plain.plain.sasl.jaas.config": (
                f'{_LOGIN.format("plain.PlainLoginModule")} user_saga="{PASSWORD}";'
            ),
            "listener.name.oauth.sasl.enabled.mechanisms": "OAUTHBEARER",
            "listener.name.oauth.oauthbearer.sasl.jaas.config": (
                f"{_LOGIN.format('oauthbearer.OAuthBearerLoginModule')};"
            ),
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
            **(settings or {}),
        }
        self._lock = os.open(folder / "children", os.O_CREAT)
        home = Home(folder, self._lock)
        self._kafka = Kafka(
            home, kafka_jars(to_stderr), ports[PLAINTEXT], controller, (*JAVA_OPTIONS, *java_options), ours
        )
        self._child = None

    def __enter__(self):
        child = self._kafka.prepare()
        assert child.wait(60)
        assert child.exit_code() == 0, child.last_log_line()
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.kill()
        os.close(self._lock)

    def start(self):
        self._child = self._kafka.launch()
        wait_until(
            lambda: why_unanswered(self.admin) is None, f"the broker answers: {self._child.last_log_line()}"
        )

    def kill(self):
        if self._child is not None:
            self._child.signal(signal.SIGKILL)
            assert self._child.wait(10)

    def set_password(self, user, password=PASSWORD):
        """Make a user of the listener ``SCRAM``, or give it another password; connections that it has stay."""
        client = admin(self.admin)
        for mechanism in (ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512):
            wanted = UserScramCredentialUpsertion(user, ScramCredentialInfo(mechanism, 4096), password.encode())
            (future,) = client.alter_user_scram_credentials([wanted]).values()
            future.result(30)
        # The controller has it; the broker takes it a moment later.
        identity = properties(variables=self.identity(SCRAM, user, password))
        wait_until(lambda: self._takes(identity), f"{user} is taken with its password")

    def _takes(self, identity):
        try:
            return admin(self.address[SCRAM], identity=identity).list_topics(timeout=5).brokers
        except KafkaException:
            return None

    def allow(self, user, kind, name, *operations):
        """Let a user do something with a ``TOPIC`` or a consumer ``GROUP``; ``*`` is all of them."""
        wanted = [_binding(user, kind, name, operation) for operation in operations]
        client = admin(self.admin)  # its futures resolve only while it exists
        for future in client.create_acls(wanted).values():
            future.result(30)
        # The controller has them; the broker gets them a moment later.
        wait_until(lambda: set(wanted) <= set(client.describe_acls(_any_of(user)).result(30)), "they hold")

    def forbid(self, user):
        """Take everything that a user may do."""
        client = admin(self.admin)
        (future,) = client.delete_acls([_any_of(user)]).values()
        future.result(30)

    def identity(self, listener, user="saga", password=PASSWORD, **others):
        """The variables by which a process is a user at a listener."""
        found = {"SECURITY_PROTOCOL": PROTOCOLS[listener]}
        if "SSL" in PROTOCOLS[listener]:
            found["SSL_CA"] = self.pem.ca
        if listener == SSL:
            found["SSL_CERTIFICATE"], found["SSL_KEY"] = self.pem.issue(user)
        elif listener != PLAINTEXT:
            mechanism = {SCRAM: "SCRAM-SHA-512", PLAIN: "PLAIN", OAUTH: "OAUTHBEARER"}[listener]
            found |= {"SASL_MECHANISM": mechanism, "SASL_USERNAME": user, "SASL_PASSWORD": password}
        return {f"SETTLE_KAFKA_{name}": str(value) for name, value in (found | others).items()}


def unanswered(address, said):
    """Why a new client gets no answer, once that begins as it should.

    It gives Kafka a second: a refusal that comes later than that is not heard.
    """
    return wait_until(
        lambda: next((line for line in [why_unanswered(address)] if (line or "").startswith(said)), None), said
    )


def _any_of(user):
    return AclBindingFilter(
        ResourceType.ANY,
        None,
        ResourcePatternType.ANY,
        f"User:{user}",
        None,
        AclOperation.ANY,
        AclPermissionType.ANY,
    )


def _binding(user, kind, name, operation):
    return AclBinding(
        ResourceType[kind],
        name,
        ResourcePatternType.LITERAL,
        f"User:{user}",
        "*",
        AclOperation[operation],
        AclPermissionType.ALLOW,
    )
