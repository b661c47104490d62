"""What a secured stack needs: a CA of its own, certificates, and the Kafka users with their passwords.

They are in the folder ``secrets`` of the data folder, which only the owner may read, and are made once. Kafka has
three listeners, all of them TLS: users come to the first with a password (SCRAM-SHA-512), and may do what the ACLs
say; the broker itself and this supervisor come to the other two with a certificate, and may do everything.
"""

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote, urlencode

from contracts.rights import OPERATOR, kafka_users
from contracts.secret_files import CA, certificate_file, key_file, pair_file, password_file
from stack.ports import HOST

MECHANISM = "SCRAM-SHA-512"
BROKER, ADMIN, POSTGRES, API = "kafka", "admin", "postgres", "api"
"""The common names of the certificates: those of servers are for 127.0.0.1 and localhost."""

_SUPER_USERS = ";".join(f"User:CN={name}" for name in (BROKER, ADMIN))
_FOLDER = "secrets"


def has_secrets(data: Path) -> bool:
    """Whether a data folder has secrets, be they complete or not: it is that of a secured stack."""
    return secrets_folder(data).exists()


def passwords(data: Path) -> dict[str, str]:
    """The password of each Kafka user."""
    return {user.name: (secrets_folder(data) / password_file(user.name)).read_text() for user in kafka_users()}


def kafka_settings(data: Path, port: int, internal_port: int, controller_port: int) -> dict[str, str]:
    """Of ``server.properties``, over those of a broker without security."""
    addresses = {"SASL_SSL": port, "INTERNAL": internal_port}
    advertised = ",".join(f"{name}://{HOST}:{number}" for name, number in addresses.items())
    mutual = ("internal", "controller")
    return {
        "listeners": f"{advertised},CONTROLLER://{HOST}:{controller_port}",
        "advertised.listeners": advertised,
        "listener.security.protocol.map": "SASL_SSL:SASL_SSL,INTERNAL:SSL,CONTROLLER:SSL",
        "inter.broker.listener.name": "INTERNAL",
        "sasl.enabled.mechanisms": MECHANISM,
        f"listener.name.sasl_ssl.{MECHANISM.lower()}.sasl.jaas.config": (
            "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        ),
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(secrets_folder(data) / pair_file(BROKER)),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": ca_file(data),
        **{f"listener.name.{name}.ssl.client.auth": "required" for name in mutual},
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found": "false",
        "super.users": _SUPER_USERS,
    }


def ca_file(data: Path) -> str:
    """The file with the authority of a stack's certificates."""
    return str(secrets_folder(data) / CA)


def admin_variables(data: Path) -> dict[str, str]:
    """The environment variables of a client at the internal listener that may do everything."""
    folder = secrets_folder(data)
    return {
        "SETTLE_KAFKA_SECURITY_PROTOCOL": "SSL",
        "SETTLE_KAFKA_SSL_CA": ca_file(data),
        "SETTLE_KAFKA_SSL_CERTIFICATE": str(folder / certificate_file(ADMIN)),
        "SETTLE_KAFKA_SSL_KEY": str(folder / key_file(ADMIN)),
    }


def user_variables(data: Path, user: str = OPERATOR) -> dict[str, str]:
    """The environment variables by which a process is a user of Kafka; see :mod:`broker.security`."""
    return {
        "SETTLE_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "SETTLE_KAFKA_SASL_MECHANISM": MECHANISM,
        "SETTLE_KAFKA_SASL_USERNAME": user,
        "SETTLE_KAFKA_SASL_PASSWORD_FILE": str(secrets_folder(data) / password_file(user)),
        "SETTLE_KAFKA_SSL_CA": ca_file(data),
    }


def api_variables(data: Path, *, is_on: bool) -> dict[str, str]:
    """The environment variables by which the API has its certificate, or none."""
    folder = secrets_folder(data)
    return {
        "SETTLE_API_TLS_CERTIFICATE": str(folder / certificate_file(API)) if is_on else "",
        "SETTLE_API_TLS_KEY": str(folder / key_file(API)) if is_on else "",
    }


# In a cluster folder, from which PostgreSQL takes the paths of files.
POSTGRES_SETTINGS: Mapping[str, str] = {
    "ssl": "on",
    "ssl_cert_file": f"../{_FOLDER}/{certificate_file(POSTGRES)}",
    "ssl_key_file": f"../{_FOLDER}/{key_file(POSTGRES)}",
}


def postgres_parameters(data: Path) -> str:
    """The end of a database's URL: the server's certificate is verified."""
    about = {"sslmode": "verify-full", "sslrootcert": ca_file(data)}
    return f"?{urlencode(about, quote_via=quote)}"


def secrets_folder(data: Path) -> Path:
    """Where a data folder has its secrets."""
    return data / _FOLDER
