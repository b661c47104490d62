"""Environment variables that are wrong, for a person: which ones, and why."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError

DEVELOPMENT_DEFAULT = "only-for-development"
"""Part of every value that ``docker-compose.yml`` and ``.env.example`` give to a secret."""

DEVELOPMENT, PRODUCTION = ENVIRONMENTS = ("development", "production")


class EnvironmentRefusedError(ValueError):
    """``SETTLE_ENV`` makes no sense, or what is set is not fit for it."""


PREFIXES = {"TracingSettings": "OTEL_"}
PREFIX = "SETTLE_"
# A database's URL may hold a password.
_SECRET = ("_dsn", "_sources")


def complaint(error: ValidationError) -> str:
    """One line about the variables that settings of ours could not be read from."""
    prefix = PREFIXES.get(error.title, PREFIX)
    # The first of each variable: what follows from it is no news.
    wrong = {str(details["loc"][0]): details for details in reversed(error.errors())}
    return "; ".join(
        f"{prefix}{name}".upper()
        + ("" if name.endswith(_SECRET) else f"={details['input']!s}")
        + f" is wrong: {details['msg'].removeprefix('Value error, ')}"
        for name, details in reversed(wrong.items())
    )


def refuse_development_defaults() -> None:
    """Refuse a production with a development default in it.

    Raises:
        EnvironmentRefusedError: ``SETTLE_ENV`` is neither of :data:`ENVIRONMENTS`, or is production with such a
            default.
    """
    environment = os.environ.get("SETTLE_ENV") or DEVELOPMENT
    if environment not in ENVIRONMENTS:
        raise EnvironmentRefusedError(f"SETTLE_ENV={environment} is wrong: it is one of {', '.join(ENVIRONMENTS)}")
    if environment == PRODUCTION:
        found = sorted(name for name, value in os.environ.items() if DEVELOPMENT_DEFAULT in value)
        if found:
            raise EnvironmentRefusedError(
                f"SETTLE_ENV=production refuses the development defaults of {', '.join(found)}: set them"
            )
