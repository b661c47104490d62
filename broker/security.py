"""The Kafka identity of a process: how it connects, who it is, whom it trusts. From environment variables.

Ambient, as libpq's ``PGSSLMODE`` is: :mod:`broker.clients` gives every client the properties made here, so whoever
makes one passes an address only. An embedded stack of one's own has its identity by its address
(:func:`assume`), and a client that is to be somebody else is told so.
"""

import os
import re
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from confluent_kafka import KafkaException, Producer
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError

from contracts.kafka_config import CONFIG, read_config
from contracts.variables import EnvironmentRefusedError, complaint, value

PLAINTEXT = "PLAINTEXT"
OAUTHBEARER = "OAUTHBEARER"

REFUSED = {
    "bootstrap.servers": "it is SETTLE_KAFKA_BOOTSTRAP",
    "metadata.broker.list": "it is SETTLE_KAFKA_BOOTSTRAP",
    "group.protocol": "it is SETTLE_KAFKA_GROUP_PROTOCOL",
} | dict.fromkeys(
    (
        "acks",
        "auto.offset.reset",
        "delivery.timeout.ms",
        "enable.auto.commit",
        "enable.auto.offset.store",
        "enable.gapless.guarantee",
        "enable.idempotence",
        "enable.partition.eof",
        "group.id",
        "group.instance.id",
        "group.remote.assignor",
        "isolation.level",
        "max.in.flight",
        "max.in.flight.requests.per.connection",
        "message.timeout.ms",
        "partition.assignment.strategy",
        "partitioner",
        "request.required.acks",
        "transactional.id",
    ),
    "what Settle promises rests on it",
)
"""Properties that ``SETTLE_KAFKA_CONFIG`` may not set, and why."""

SECRETS = frozenset(
    {
        "sasl.password",
        "sasl.oauthbearer.client.secret",
        "sasl.oauthbearer.assertion.private.key.passphrase",
        "sasl.oauthbearer.assertion.private.key.pem",
        "sasl.oauthbearer.config",
        "ssl.key.password",
        "ssl.key.pem",
        "ssl.keystore.password",
    }
)
"""Properties whose values are shown nowhere."""

_Upper = BeforeValidator(lambda value: value.upper() if isinstance(value, str) else value)

Properties = Mapping[str, Any]
"""Of librdkafka: https://github.com/confluentinc/librdkafka/blob/master/CONFIGURATION.md"""


class KafkaSettingsError(EnvironmentRefusedError):
    """A variable of the Kafka identity is wrong; the text is one line for a person that names it."""


class KafkaSettings(BaseModel):
    """The Kafka identity as variables with the prefix ``SETTLE_``; paths are of PEM files."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    kafka_security_protocol: (
        Annotated[Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"], _Upper] | None
    ) = Field(None, description="how to connect to Kafka; default: PLAINTEXT")
    kafka_sasl_mechanism: (
        Annotated[Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"], _Upper] | None
    ) = Field(None, description="how to say who it is, with SASL_PLAINTEXT and SASL_SSL")
    kafka_sasl_username: str | None = Field(None, description="who; with OAUTHBEARER the client ID")
    kafka_sasl_password: SecretStr | None = Field(None, description="with OAUTHBEARER the client secret")
    kafka_ssl_ca: Path | None = Field(None, description="whom to trust; default: whom the system trusts")
    kafka_ssl_certificate: Path | None = Field(None, description="certificate of this client, and its chain")
    kafka_ssl_key: Path | None = Field(None, description="its private key")
    kafka_ssl_key_password: SecretStr | None = Field(None, description="of the private key")
    kafka_config: str | None = Field(
        None, description="more properties of librdkafka: a JSON object, or a file of one or of name=value lines"
    )


NAMES = tuple(f"SETTLE_{field}".upper() for field in KafkaSettings.model_fields)
"""The variables of the identity."""

_FIELDS = {
    "security.protocol": "kafka_security_protocol",
    "sasl.mechanism": "kafka_sasl_mechanism",
    "sasl.username": "kafka_sasl_username",
    "sasl.password": "kafka_sasl_password",
    "ssl.ca.location": "kafka_ssl_ca",
    "ssl.certificate.location": "kafka_ssl_certificate",
    "ssl.key.location": "kafka_ssl_key",
    "ssl.key.password": "kafka_ssl_key_password",
}

FILES = ("ssl.ca.location", "ssl.certificate.location", "ssl.key.location")
"""The properties that name PEM files; librdkafka reads them once, when a client is made."""

VARIABLES = {name: f"SETTLE_{field}".upper() for name, field in _FIELDS.items()}
"""The variable of each property that has one; the others stand in ``SETTLE_KAFKA_CONFIG``."""

# With OIDC user and password are the client's ID and secret.
_OIDC = {"sasl.username": "sasl.oauthbearer.client.id", "sasl.password": "sasl.oauthbearer.client.secret"}

_NOT_MADE = re.compile(r"^Failed to create [^:]+: ")

_assumed: dict[str, Mapping[str, str]] = {}


def assume(bootstrap: str, variables: Mapping[str, str] | None) -> None:
    """Use the identity of other variables than the environment's for one Kafka; None: no longer.

    Args:
        bootstrap: its address, as clients are given it.
        variables: ``SETTLE_KAFKA_…`` by name; others are ignored.
    """
    if variables is None:
        _assumed.pop(bootstrap, None)
    else:
        _assumed[bootstrap] = dict(variables)


def properties(bootstrap: str | None = None, variables: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The properties with which this process connects to a Kafka, read anew: files may have changed.

    Args:
        bootstrap: its address.
        variables: whose identity, instead of that assumed for the address, or else the environment's.

    Raises:
        KafkaSettingsError: a variable is wrong.
    """
    if variables is None:
        variables = _assumed.get(bootstrap or "", os.environ)
    given = _given(variables)
    try:
        settings = KafkaSettings.model_validate(given)
    except ValidationError as error:
        raise KafkaSettingsError(complaint(error)) from None
    further = _further(settings.kafka_config)
    own = {name: _text(getattr(settings, field)) for name, field in _FIELDS.items()}
    found = {**further, **{name: value for name, value in own.items() if value is not None}}
    _check_that_it_fits(found)
    if found.get("sasl.mechanism") == OAUTHBEARER:
        for name, of_oidc in _OIDC.items():
            if name in found:
                found[of_oidc] = found.pop(name)
        found.setdefault("sasl.oauthbearer.method", "oidc")
    return found


def check(bootstrap: str | None = None) -> None:
    """Refuse an identity that no client can have, as of files that are no PEM, or the key of another certificate.

    Raises:
        KafkaSettingsError: a variable is wrong, or a property in ``SETTLE_KAFKA_CONFIG``.
    """
    found = properties(bootstrap)
    if not found:
        return
    _check_files(found)
    # A client that has no broker to connect to; librdkafka judges names and values. Without OAUTHBEARER's part it
    # would ask for a token.
    if found.get("sasl.mechanism") == OAUTHBEARER:
        found = {**found, "security.protocol": "SSL" if _is_tls(found) else PLAINTEXT}
        del found["sasl.mechanism"]
    try:
        Producer({**found, "log_level": 0})
    except (KafkaException, TypeError, ValueError) as error:
        raise KafkaSettingsError(f"{CONFIG} is wrong: {objection(error)}") from None


def objection(error: Exception) -> str:
    """Why librdkafka does not make a client, as one line."""
    text = str(error.args[0].str() if isinstance(error, KafkaException) else error)
    return _NOT_MADE.sub("", " ".join(text.split()))


def variable_of(name: str) -> str:
    """Which variable to look at for a property of librdkafka, as text."""
    of_plain = {of_oidc: plain for plain, of_oidc in _OIDC.items()}.get(name, name)
    if of_plain not in VARIABLES:
        return f"{name} in {CONFIG}"
    return VARIABLES[of_plain]


def _given(variables: Mapping[str, str]) -> dict[str, str]:
    """The variables of the identity that are set, themselves or by a file, by the name of their field."""
    try:
        found = {
            field: value(name, variables) for field, name in zip(KafkaSettings.model_fields, NAMES, strict=True)
        }
    except EnvironmentRefusedError as error:
        raise KafkaSettingsError(str(error)) from None
    return {field: text for field, text in found.items() if text is not None}


def _text(setting: str | SecretStr | Path | None) -> str | None:
    if setting is None:
        return None
    return setting.get_secret_value() if isinstance(setting, SecretStr) else str(setting)


def _further(config: str | None) -> dict[str, str]:
    """The properties that ``SETTLE_KAFKA_CONFIG`` holds, or the file that it names."""
    if config is None:
        return {}
    try:
        found = read_config(config)
    except EnvironmentRefusedError as error:
        raise KafkaSettingsError(str(error)) from None
    for name in found:
        if name in REFUSED:
            raise KafkaSettingsError(f"{CONFIG} may not set {name}: {REFUSED[name]}")
    return found


def protocol_of(found: Properties) -> str:
    """The security protocol that these properties mean, in capitals."""
    return str(found.get("security.protocol", PLAINTEXT)).upper()


def _is_tls(found: Properties) -> bool:
    return protocol_of(found).endswith("SSL")


def _check_that_it_fits(found: Properties) -> None:
    """Refuse what would not be used, or is not enough: as a mistake it would connect as nobody, silently."""
    protocol = protocol_of(found)
    where = variable_of("security.protocol")
    for prefix, used in (("sasl.", protocol.startswith("SASL")), ("ssl.", _is_tls(found))):
        unused = [variable_of(name) for name in found if name.startswith(prefix)]
        if unused and not used:
            raise KafkaSettingsError(f"{unused[0]} is set, but {where}={protocol} makes no use of it")
    if not protocol.startswith("SASL"):
        return
    mechanism = found.get("sasl.mechanism", found.get("sasl.mechanisms"))
    if mechanism is None:
        raise KafkaSettingsError(f"{where}={protocol} needs {variable_of('sasl.mechanism')}")
    wanted = ["sasl.username", "sasl.password"]
    if mechanism == OAUTHBEARER:
        wanted = ["sasl.oauthbearer.token.endpoint.url"]
        if found.get("sasl.oauthbearer.metadata.authentication.type") not in (None, "none"):
            return
    for name in wanted:
        if name not in found and _OIDC.get(name) not in found:
            raise KafkaSettingsError(f"{variable_of('sasl.mechanism')}={mechanism} needs {variable_of(name)}")


def _check_files(found: Properties) -> None:
    authorities, certificate, key = (found.get(name) for name in FILES)
    for name in FILES:
        if name in found and not (name == "ssl.ca.location" and Path(found[name]).is_dir()):
            _check_pem(variable_of(name), found[name])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if authorities is not None and Path(authorities).is_file():
        try:
            context.load_verify_locations(authorities)
        except ssl.SSLError as error:
            raise KafkaSettingsError(
                f"{variable_of('ssl.ca.location')}={authorities} is wrong: no certificate: {_reason(error)}"
            ) from None
    if (certificate is None) != (key is None) and "ssl.key.pem" not in found:
        names = [variable_of("ssl.certificate.location"), variable_of("ssl.key.location")]
        raise KafkaSettingsError(f"{names[key is not None]} needs {names[key is None]} as well")
    if certificate is not None and key is not None:
        password = found.get("ssl.key.password") or ""
        try:
            context.load_cert_chain(certificate, key, password=lambda: password)
        except (ssl.SSLError, ValueError) as error:
            raise KafkaSettingsError(_why_no_pair(certificate, key, bool(password), error)) from None


def _check_pem(variable: str, path: str) -> None:
    try:
        text = Path(path).read_text(errors="replace")
    except OSError as error:
        raise KafkaSettingsError(f"{variable}={path} is wrong: {error.strerror}") from None
    if "-----BEGIN " not in text:
        raise KafkaSettingsError(f"{variable}={path} is wrong: not a PEM file")


def _why_no_pair(certificate: str, key: str, has_password: bool, error: Exception) -> str:
    names = [variable_of(f"ssl.{name}") for name in ("certificate.location", "key.location", "key.password")]
    reason = _reason(error)
    if "MISMATCH" in reason:
        return f"{names[1]}={key} is wrong: it is not the key of {names[0]}={certificate}"
    if "ENCRYPTED" in Path(key).read_text(errors="replace"):
        how = "is wrong: it does not open" if has_password else "is needed for"
        return f"{names[2]} {how} {names[1]}={key}"
    return f"{names[0]}={certificate} or {names[1]}={key} is wrong: {reason}"


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", None) or error)
