"""The variables that somebody reads, and what is said of others that look like one, misspelt as a rule."""

import os
import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches

from contracts.services import DATABASES
from contracts.variables import FILE, PREFIX, is_secret

_SETTINGS = """
    ENV TRUSTED_NETWORK DATA CACHE POSTGRES_VERSION FAILPOINT JAEGER_URL JAEGER_LINK TREASURER_DSN
    KAFKA_BOOTSTRAP KAFKA_SECURITY_PROTOCOL KAFKA_SASL_MECHANISM KAFKA_SASL_USERNAME KAFKA_SASL_PASSWORD
    KAFKA_SSL_CA KAFKA_SSL_CERTIFICATE KAFKA_SSL_KEY KAFKA_SSL_KEY_PASSWORD KAFKA_CONFIG KAFKA_GROUP_PROTOCOL
    RELAY_SOURCES RELAY_READER RELAY_POLL_INTERVAL_S RELAY_CLEANUP RELAY_FENCING RELAY_INITIAL RELAY_CONFIG
    RELAY_SCHEMA RELAY_TABLE RELAY_COLUMNS RELAY_ADDITIONAL RELAY_TOPIC RELAY_ROUTE_REGEX RELAY_ROUTE_REPLACEMENT
    RELAY_PUBLICATION RELAY_SLOT RELAY_DEAD_TABLE RELAY_CONTROL_TABLE RELAY_HTTP_TOKEN RELAY_PROCESSES
    API_LISTEN API_TLS_CERTIFICATE API_TLS_KEY API_RATE API_STREAMS API_URL API_KEY API_CA
    API_OIDC_ISSUER API_OIDC_AUDIENCE API_OIDC_ROLE_CLAIM
    HTTP_HOST HTTP_PORT BATCH_MAX RETRY_BACKOFF_S RETRY_JITTER DEADLINE_S STUCK_S DELIVERY_TIMEOUT_S
    MAILER SMTP_HOST SMTP_PORT SMTP_TIMEOUT_S MAIL_LIFETIME_H MAIL_FROM MAIL_TO
    PROVIDER_URL PROVIDER_TIMEOUT_S PROVIDER_CONNECTIONS PROVIDER_LATENCY_MS PROVIDER_DECLINE_SHARE
    PROVIDER_OUTAGE_SHARE
"""

# Compose, deploy/postgres and the tests read them, where a shell has exported them for all.
_OF_DEPLOYMENTS = """
    DATABASE SERVICE_PASSWORD OWNER_PASSWORD RELAY_PASSWORD RELAY_USER VIEWER_PASSWORD OPERATOR_PASSWORD
    TREASURER_PASSWORD TOPIC_PARTITIONS TOPIC_REPLICATION TOPIC_MIN_INSYNC TOPIC_RETENTION_DAYS TEST_SECURE
"""

KNOWN = frozenset(
    PREFIX + name
    for name in (
        *_SETTINGS.split(),
        *_OF_DEPLOYMENTS.split(),
        *(f"{database.upper()}_{what}" for database in DATABASES for what in ("DSN", "PASSWORD", "HOST")),
    )
)
"""Every variable ``SETTLE_…`` that has a meaning; a secret's may end in ``_FILE`` as well."""

# `settle env` exports where parts answer. Kubernetes sets the others, in each container, for a service `settle-…`.
_INFORMS = re.compile(
    r"_(?:HTTP|PID|SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT(?:_\d+_(?:TCP|UDP|SCTP)(?:_(?:ADDR|PORT|PROTO))?)?)$"
)
_ADDRESS = re.compile(r"(?:tcp|udp|sctp)://")


def is_known(name: str, text: str = "") -> bool:
    """Whether a variable, with this value, has a meaning to somebody; one that is not ``SETTLE_…`` always has."""
    if not name.startswith(PREFIX) or name in KNOWN:
        return True
    if name.endswith(FILE) and name.removesuffix(FILE) in KNOWN:
        return is_secret(name.removesuffix(FILE))
    return _INFORMS.search(name) is not None and (not name.endswith("_PORT") or bool(_ADDRESS.match(text)))


def unknown(variables: Mapping[str, str] | None = None) -> Iterator[str]:
    """A line for each variable ``SETTLE_…`` that nobody reads, with the one that may be meant; without values.

    Args:
        variables: by name, instead of the environment's.
    """
    for name, text in sorted((os.environ if variables is None else variables).items()):
        if text and not is_known(name, text):
            yield f"{name} is set, and nothing reads it{_nearest(name)}"


def _nearest(name: str) -> str:
    names = sorted(KNOWN | {known + FILE for known in KNOWN if is_secret(known)})
    # The prefix, which all share, would make all of them alike.
    bare = {known.removeprefix(PREFIX): known for known in names}
    near = get_close_matches(name.removeprefix(PREFIX), bare, n=1, cutoff=0.7)
    return f": did you mean {bare[near[0]]}?" if near else ""
