"""What do the environment variables say, and may it be so in production? ``settle settings``.

A development stack has passwords that everybody knows. They say so themselves, and where ``SETTLE_ENV`` is
``production`` no command runs with one.
"""

import os

from cli.errors import BadInputError

DEVELOPMENT_DEFAULT = "only-for-development"
"""Part of every value that ``docker-compose.yml`` and ``.env.example`` give to a secret."""

ENVIRONMENTS = ("development", "production")

_PREFIXES = ("SETTLE_", "OTEL_", "POSTGRES_", "GRAFANA_")
_SECRETS = ("_PASSWORD", "_HEADERS")


def refuse_development_defaults() -> None:
    """Refuse a production with a development default in it.

    Raises:
        BadInputError: ``SETTLE_ENV`` is neither of :data:`ENVIRONMENTS`, or is production with such a default.
    """
    environment = os.environ.get("SETTLE_ENV") or ENVIRONMENTS[0]
    if environment not in ENVIRONMENTS:
        raise BadInputError(f"SETTLE_ENV={environment} is wrong: it is one of {', '.join(ENVIRONMENTS)}")
    if environment == "production":
        found = sorted(name for name, value in os.environ.items() if DEVELOPMENT_DEFAULT in value)
        if found:
            raise BadInputError(
                f"SETTLE_ENV=production refuses the development defaults of {', '.join(found)}: set them"
            )


def show() -> None:
    """Check the environment variables, and print those that are set; passwords are hidden."""
    from outbox_relay.settings import RelaySettings
    from processors.runtime.settings import ServiceSettings
    from producers.settings import ProducerSettings
    from tracing.setup import TracingSettings

    for kind in (ServiceSettings, ProducerSettings, RelaySettings, TracingSettings):
        kind()
    for name, value in sorted(os.environ.items()):
        if name.startswith(_PREFIXES):
            print(f"{name}={_without_password(name, value)}")


def _without_password(name: str, value: str) -> str:
    import re

    if name.endswith(_SECRETS):
        return "***"
    without = re.sub(r"(://[^:/@\s]*):[^@\s]*@", r"\1:***@", value)
    return re.sub(r"(password\s*=\s*)(?:'(?:\\.|[^\\'])*'|\S*)", r"\1***", without)
