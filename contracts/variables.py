"""Error messages for invalid environment variables, and the check for development defaults in production."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError

DEVELOPMENT_DEFAULT = "only-for-development"
"""Part of every value that ``docker-compose.yml`` and ``.env.example`` give to a secret."""

DEVELOPMENT, PRODUCTION = ENVIRONMENTS = ("development", "production")


class EnvironmentRefusedError(ValueError):
    """``SETTLE_ENV`` is invalid, or a value is not allowed in that environment."""


PREFIXES = {"TracingSettings": "OTEL_"}
PREFIX = "SETTLE_"
# A database's URL may hold a password.
_SECRET = ("_dsn", "_sources")


def complaint(error: ValidationError) -> str:
    """One line that names the invalid variables, and why."""
    prefix = PREFIXES.get(error.title, PREFIX)
    # Only the first error of each variable: the others follow from it.
    wrong = {str(details["loc"][0]): details for details in reversed(error.errors())}
    return "; ".join(
        f"{prefix}{name}".upper()
        + ("" if name.endswith(_SECRET) else f"={details['input']!s}")
        + f" is wrong: {details['msg'].removeprefix('Value error, ')}"
        for name, details in reversed(wrong.items())
    )


def refuse_development_defaults() -> None:
    """Refuse to run in production with a development default.

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
