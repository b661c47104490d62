"""Placeholders in the configuration file for what is not to stand there: ``${VARIABLE}`` and ``${file:/path}``."""

import os
import re
from urllib.parse import quote

from contracts.redaction import remember
from contracts.variables import contents

_PLACEHOLDER = re.compile(r"\$\{(?:file:(?P<file>[^}]+)|(?P<variable>\w+))\}")
_URL = re.compile(r"postgres(?:ql)?://")
_KEY_VALUE = re.compile(r"\w+\s*=")


def filled_in(text: str) -> str:
    """The text with what its placeholders stand for, written as the text needs it.

    In a part of a URL that is with per cent signs, in a key-value string in quotes; alone it is as it is.

    Raises:
        ValueError: a variable is not set, or a file cannot be read.
    """
    if _PLACEHOLDER.fullmatch(text.strip()):
        return _PLACEHOLDER.sub(lambda found: _value(found, secret=False), text.strip())
    return _PLACEHOLDER.sub(lambda found: _written(_value(found, secret=True), text), text)


def has_placeholder(text: str) -> bool:
    """Whether there is one."""
    return _PLACEHOLDER.search(text) is not None


def _value(found: re.Match[str], *, secret: bool) -> str:
    path, variable = found["file"], found["variable"]
    value = contents("file", path) if path is not None else os.environ.get(variable)
    if not value:
        raise ValueError(f"{variable} is not set")
    if secret:
        remember(value)
    return value


def _written(value: str, text: str) -> str:
    if _URL.match(text.strip()):
        return quote(value, safe="")
    if _KEY_VALUE.match(text.strip()):
        escaped = value.replace("\\", "\\\\").replace("'", "\\'")
        return f"'{escaped}'"
    return value
