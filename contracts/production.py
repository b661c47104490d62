"""What ``SETTLE_ENV=production`` refuses: known passwords, and what others on the network can read or use.

Each rule looks at the variables as they will be used, files and libpq's defaults included, and returns one line
that names the variable. ``SETTLE_TRUSTED_NETWORK`` excepts what a network protects by other means.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from ipaddress import IPv6Address, ip_address
from urllib.parse import unquote

from contracts.kafka_config import CONFIG, read_config
from contracts.variables import FILE, EnvironmentRefusedError, secrets

DEVELOPMENT_DEFAULT = "only-for-development"
"""Part of every value that ``docker-compose.yml`` and ``.env.example`` give to a secret."""

DEVELOPMENT, PRODUCTION = ENVIRONMENTS = ("development", "production")

TRUSTED_NETWORK = "SETTLE_TRUSTED_NETWORK"
HTTP, KAFKA, POSTGRES = TRUSTS = ("http", "kafka", "postgres")
"""What :data:`TRUSTED_NETWORK` may name, separated by commas: what may be spoken without TLS beyond loopback."""

CONFIGURED = "relay.toml"
"""What databases are given by that the relay's configuration file names, where they are given to a rule."""

_PLAINTEXT = ("PLAINTEXT", "SASL_PLAINTEXT")
# Of librdkafka: with these values it does not look at who the broker is.
_UNCHECKED = {
    "enable.ssl.certificate.verification": ("false", "f", "0"),
    "ssl.endpoint.identification.algorithm": ("none",),
}
_ENCRYPTED = ("require", "verify-ca", "verify-full")


def is_production() -> bool:
    """Whether ``SETTLE_ENV`` is production.

    Raises:
        EnvironmentRefusedError: it is neither of :data:`ENVIRONMENTS`.
    """
    environment = os.environ.get("SETTLE_ENV") or DEVELOPMENT
    if environment not in ENVIRONMENTS:
        raise EnvironmentRefusedError(f"SETTLE_ENV={environment} is wrong: it is one of {', '.join(ENVIRONMENTS)}")
    return environment == PRODUCTION


def refuse_unsafe(given: Mapping[str, str] | None = None) -> None:
    """Refuse to start in production with what is only for development.

    Args:
        given: values that hold instead of variables, such as those of the command line.

    Raises:
        EnvironmentRefusedError: ``SETTLE_ENV``, ``SETTLE_TRUSTED_NETWORK`` or a secret's file is wrong, or
            production refuses a value.
    """
    excepted = trusted()
    if not is_production():
        return
    variables = {**os.environ, **secrets(), **(given or {})}
    if found := sorted(_known_passwords(variables)):
        raise EnvironmentRefusedError(
            f"SETTLE_ENV=production refuses the development defaults of {', '.join(found)}; "
            "everybody knows the password there, so give one of your own"  # "PASSWORD: word" would be hidden
        )
    rules = ((POSTGRES, _plain_postgres), (KAFKA, _plain_kafka), (HTTP, _open_http), (HTTP, _plain_api))
    for subject, rule in rules:
        if subject not in excepted and (reason := rule(variables)) is not None:
            raise EnvironmentRefusedError(
                f"SETTLE_ENV=production refuses {reason} (or, if the network itself protects it, "
                f"{TRUSTED_NETWORK}={subject})"
            )


def is_local(host: str) -> bool:
    """Whether a host is loopback or a Unix socket; a name other than ``localhost`` is not looked up."""
    host = host.strip().strip("[]").lower()
    if host == "localhost" or host.startswith(("/", "@")):
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback


def trusted() -> set[str]:
    """What a network protects by other means, of :data:`TRUSTS`.

    Raises:
        EnvironmentRefusedError: ``SETTLE_TRUSTED_NETWORK`` is wrong.
    """
    text = os.environ.get(TRUSTED_NETWORK, "")
    words = {word.strip() for word in text.split(",") if word.strip()}
    if words - set(TRUSTS):
        raise EnvironmentRefusedError(f"{TRUSTED_NETWORK}={text} is wrong: it is a list of {', '.join(TRUSTS)}")
    return words


def _known_passwords(variables: Mapping[str, str]) -> Iterator[str]:
    for name, value in variables.items():
        if DEVELOPMENT_DEFAULT in unquote(value):
            yield _given_as(name)
    for name, dsn in _dsns(variables):
        if DEVELOPMENT_DEFAULT in dsn.get("password", "") and DEVELOPMENT_DEFAULT not in unquote(variables[name]):
            yield f"{name} (its passfile or service)"


def _plain_postgres(variables: Mapping[str, str]) -> str | None:
    for name, dsn in _dsns(variables):
        if dsn.get("sslmode") in _ENCRYPTED or dsn.get("gssencmode") == "require":
            continue
        # libpq's default is a Unix socket.
        hosts = (dsn.get("hostaddr") or dsn.get("host") or "/").split(",")
        if far := next((host for host in hosts if host and not is_local(host)), None):
            return (
                f"{_given_as(name)}: the connection to {far} may be without TLS, as its sslmode is "
                f"{dsn.get('sslmode')}: sslmode=verify-full"
            )
    return None


def _plain_kafka(variables: Mapping[str, str]) -> str | None:
    brokers = (variables.get("SETTLE_KAFKA_BOOTSTRAP") or "127.0.0.1").split(",")
    far = next((broker for broker in brokers if broker.strip() and not is_local(_host(broker))), None)
    if far is None:
        return None
    try:
        further = read_config(variables.get(CONFIG) or "{}")
    except EnvironmentRefusedError:
        return None  # no client can be made with it: whoever wants one says why
    protocol = variables.get("SETTLE_KAFKA_SECURITY_PROTOCOL") or further.get("security.protocol")
    if (protocol or _PLAINTEXT[0]).upper() in _PLAINTEXT:
        return f"Kafka at {far.strip()} without TLS: SETTLE_KAFKA_SECURITY_PROTOCOL=SASL_SSL, or SSL"
    for name, off in _UNCHECKED.items():
        if further.get(name, "").lower() in off:
            return f"Kafka at {far.strip()} that anybody could be: {name} in {CONFIG}: leave it out"
    return None


def _open_http(variables: Mapping[str, str]) -> str | None:
    host = variables.get("SETTLE_HTTP_HOST") or "127.0.0.1"
    if is_local(host) or variables.get("SETTLE_HTTP_PORT", "") in ("", "0"):
        return None
    return f"SETTLE_HTTP_HOST={host}: whoever reaches it can read health pages and metrics: 127.0.0.1"


def _plain_api(variables: Mapping[str, str]) -> str | None:
    listens = variables.get("SETTLE_API_LISTEN") or "127.0.0.1"
    if is_local(_host(listens)) or variables.get("SETTLE_API_TLS_CERTIFICATE"):
        return None
    return f"SETTLE_API_LISTEN={listens}: without TLS others can read API keys: SETTLE_API_TLS_CERTIFICATE"


def _dsns(variables: Mapping[str, str]) -> Iterator[tuple[str, Mapping[str, str]]]:
    """The variables that hold databases, and for each database what libpq will use."""
    from contracts.dsn import effective, split_dsns

    for name, value in variables.items():
        several = name in ("--source", CONFIGURED, "SETTLE_RELAY_SOURCES")
        if not value or not (several or (name.startswith("SETTLE_") and name.endswith("_DSN"))):
            continue
        try:
            for dsn in split_dsns(value) if several else [value]:
                yield name, effective(dsn)
        except ValueError:
            continue  # whoever uses it refuses it, and says why


def _host(broker: str) -> str:
    """The host of ``host``, ``host:port`` or ``[IPv6]:port``, maybe with a protocol before it."""
    place = broker.rpartition("://")[2].strip()
    host, _, port = place.rpartition(":")
    return host if port.isdigit() and host else place


def _given_as(name: str) -> str:
    return f"{name}{FILE}" if os.environ.get(name + FILE) else name
