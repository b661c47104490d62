"""``settle settings``: the environment variables, checked, and the rules of ``SETTLE_ENV=production``.

A development stack has well-known passwords, which contain ``only-for-development``. Where ``SETTLE_ENV`` is
``production``, no command runs with one.
"""

import os
from typing import Annotated

import typer

from cli.errors import BadInputError
from cli.text import complain, say
from contracts.known import is_known
from contracts.production import is_production
from contracts.redaction import HIDDEN
from contracts.variables import exposed, shown

InProductionOption = Annotated[
    bool, typer.Option("--in-production", help="Do it although SETTLE_ENV is production.")
]

_PREFIXES = ("SETTLE_", "OTEL_", "POSTGRES_", "GRAFANA_")


def refuse_production(what: str, *, anyway: bool) -> None:
    """Refuse a command for development where ``SETTLE_ENV`` is production.

    Args:
        what: what the command does: ``settle load makes withdrawals of its own``.
        anyway: whether ``--in-production`` was given.

    Raises:
        BadInputError: ``SETTLE_ENV`` is production, and ``anyway`` is false.
    """
    if is_production() and not anyway:
        raise BadInputError(f"{what}, and SETTLE_ENV is production; if that is meant, pass --in-production")


def show() -> None:
    """Check the environment variables, and print those that are set; secrets are hidden."""
    from api.settings import ApiSettings
    from broker import security
    from outbox_relay.settings import RelaySettings
    from processors.runtime.settings import ServiceSettings
    from producers.settings import ProducerSettings
    from tracing.setup import TracingSettings

    for kind in (ServiceSettings, ApiSettings, ProducerSettings, RelaySettings, TracingSettings):
        kind()
    security.check()
    for line in exposed():
        complain(f"warning: {line}")
    for name, value in sorted(os.environ.items()):
        if not name.startswith(_PREFIXES):
            continue
        if is_known(name, value):
            say(f"{name}={shown(name, value)}")
        else:  # as a misspelt password's name does not say that it is one
            say(f"{name}={HIDDEN}  (nothing reads it)")
