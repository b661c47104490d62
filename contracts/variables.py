"""Environment variables: secrets from files (``…_FILE``), and error messages for invalid ones, without secrets."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contracts.redaction import HIDDEN, hide, remember, remember_passwords

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pydantic import ValidationError


class EnvironmentRefusedError(ValueError):
    """A variable is invalid, or not allowed in this ``SETTLE_ENV``; the text is one line that names it."""


PREFIXES = {"TracingSettings": "OTEL_"}
PREFIX = "SETTLE_"

FILE = "_FILE"
"""What is appended to a secret's name for the file that holds it."""

TREASURER_DSN = "SETTLE_TREASURER_DSN"
"""The account service's database for who opens accounts; without it, as the service has it."""

FILE_BYTES_MAX = 1_000_000

# What holds a password among other things; of these the rest may be shown.
_DATABASES = ("_DSN", "_SOURCES")
_URLS = ("_URL", "_ENDPOINT")
_WORDS = ("_PASSWORD", "_SECRET")
_CONFIG = "_KAFKA_CONFIG"
_SECRETS = (*_WORDS, "_HEADERS", "_API_KEY", "_HTTP_TOKEN", _CONFIG)
_KEY = "SETTLE_KAFKA_SSL_KEY"
_OURS = ("SETTLE_", "OTEL_", "POSTGRES_", "GRAFANA_", "PGPASSWORD")


def is_secret(name: str) -> bool:
    """Whether a variable's value is, or may contain, a secret: by the end of its name."""
    return name.startswith(_OURS) and name.endswith((*_DATABASES, *_URLS, *_SECRETS, "PGPASSWORD"))


def value(name: str, variables: Mapping[str, str] | None = None) -> str | None:
    """The value of a variable; a secret's may be in the file that ``<name>_FILE`` names. None if neither is set.

    A line break at the end of the file does not count.

    Args:
        name: of the variable.
        variables: by name, instead of the environment's.

    Raises:
        EnvironmentRefusedError: both are set, or the file cannot be read or is empty.
    """
    given = os.environ if variables is None else variables
    own = given.get(name) or None
    path = given.get(name + FILE) if is_secret(name) else None
    if not path:
        return own
    if own is not None:
        raise EnvironmentRefusedError(f"{name} and {name}{FILE} are both set: only one of them may be")
    return contents(name + FILE, path)


def secrets() -> dict[str, str]:
    """The secret variables that are set, by themselves or by a file, with their values.

    Raises:
        EnvironmentRefusedError: like :func:`value`.
    """
    names = {name.removesuffix(FILE) for name in os.environ}
    found = {name: value(name) for name in sorted(names) if is_secret(name)}
    return {name: secret for name, secret in found.items() if secret is not None}


def variable_of(secret: str) -> str | None:
    """The variable that gave a secret, or one of the databases that it lists; None where that is not known."""
    try:
        found = secrets()
    except EnvironmentRefusedError:  # a file that was there at the start
        return None
    for name, given in found.items():
        if given == secret or (name.endswith("_SOURCES") and secret in given):
            return f"{name}{FILE}" if os.environ.get(name + FILE) else name
    return None


def remember_secrets() -> None:
    """Have the values of all secret variables hidden from now on, wherever they appear.

    Raises:
        EnvironmentRefusedError: like :func:`value`.
    """
    for name, secret in secrets().items():
        if _is_path(name, secret):
            continue
        remember_passwords(secret)
        if name.endswith((*_SECRETS, "PGPASSWORD")):
            remember(secret)


def shown(name: str, text: str) -> str:
    """A variable's value for people: without its password, or where it is nothing but a secret, ``***``."""
    hidden = is_secret(name) and not name.endswith((*_DATABASES, *_URLS)) and not _is_path(name, text)
    return HIDDEN if hidden else hide(text)


def padded() -> Iterator[str]:
    """A line for each file of a password that begins or ends with white space, which counts and is not seen."""
    for name in sorted(os.environ):
        secret = name.removesuffix(FILE)
        if secret == name or not is_secret(secret) or not secret.endswith(_WORDS):
            continue
        if (password := value(secret)) is not None and password != password.strip():
            yield f"{name}={os.environ[name]} begins or ends with white space, which counts as part of it"


def exposed() -> Iterator[str]:
    """A line for each file with a secret that every user of this machine may read."""
    for name, path in sorted(os.environ.items()):
        held = is_secret(name.removesuffix(FILE)) if name.endswith(FILE) else _is_path(name, path) or name == _KEY
        if not held:
            continue
        with suppress(OSError, ValueError):  # whoever uses it says what is wrong
            if Path(path).stat().st_mode & stat.S_IROTH:
                yield f"{name}={path} can be read by every user of this machine: chmod o= {path}"


def complaint(error: ValidationError) -> str:
    """One line that names the invalid variables, and why; no secret's value is in it."""
    prefix = PREFIXES.get(error.title, PREFIX)
    # Only the first error of each variable: the others follow from it.
    wrong = {str(details["loc"][0] if details["loc"] else ""): details for details in reversed(error.errors())}
    return hide("; ".join(_reason(prefix, name, details) for name, details in reversed(wrong.items())))


def _reason(prefix: str, name: str, details: Mapping[str, Any]) -> str:
    """What is wrong with a variable; without its name, with several together, which the reason names."""
    reason = details["msg"].removeprefix("Value error, ")
    return f"{_named(f'{prefix}{name}'.upper(), details['input'])} is wrong: {reason}" if name else reason


def _named(name: str, given: object) -> str:
    """The variable as it was given. What is not a URL, though it should be, may hold a password anywhere."""
    if not is_secret(name) or (name.startswith("OTEL_") and "@" not in str(given)):
        return f"{name}={given!s}"
    return f"{name}{FILE}" if os.environ.get(name + FILE) else name


def _is_path(name: str, text: str) -> bool:
    """Whether a variable that holds a secret or the path of one is given as a path, which may be shown."""
    return name.endswith(_CONFIG) and text.startswith(("/", "./", "../", "~")) and "\n" not in text


def contents(name: str, path: str) -> str:
    """The contents of a secret's file, without a line break at its end.

    Args:
        name: what names the file, for people.
        path: of the file.

    Raises:
        EnvironmentRefusedError: it cannot be read, is empty or too large, or no UTF-8 text.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
        text = data.decode("utf-8-sig")  # editors of Windows begin a text with a mark, which nobody sees
    except OSError as error:
        raise EnvironmentRefusedError(f"{name}={path} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise EnvironmentRefusedError(f"{name}={path} is wrong: the file is not UTF-8 text") from None
    if len(data) > FILE_BYTES_MAX:
        raise EnvironmentRefusedError(f"{name}={path} is wrong: the file is larger than {FILE_BYTES_MAX:,} bytes")
    if not text.strip() or "\0" in text:
        raise EnvironmentRefusedError(f"{name}={path} is wrong: the file is empty, or not text")
    return text.rstrip("\r\n")
