"""Environment variables that are wrong, for a person: which ones, and why."""

from pydantic import ValidationError

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
