"""Texts without secrets: the one place that hides passwords in logs, errors, tracebacks and pages.

A text is searched for what a password looks like (in a URL, after ``password=``), and for the secrets that this
process has been given, wherever they stand: nobody has to know which library quotes what in an error.
"""

import json
import logging
import re
import sys
import threading
import traceback
from types import TracebackType
from typing import Any
from urllib.parse import quote, unquote

from contracts import standard_error

HIDDEN = "***"

LENGTH_MIN = 6
"""A shorter secret is hidden in a URL and after ``password=`` only: elsewhere it would hide parts of words."""

_IN_URL = re.compile(r"(://[^:/@\s]*):((?:(?!://)\S)*)@")
_AFTER_KEY = re.compile(
    r"((?:password|secret)\"?\s*[=:]\s*)('(?:\\.|[^\\'])*'|\"(?:\\.|[^\\\"])*\"|[^\s&'\"]+)", re.I
)

_known: frozenset[str] = frozenset()
_pattern: re.Pattern[str] | None = None


def hide(text: str) -> str:
    """The text with ``***`` in place of every password in it."""
    if _pattern is not None:
        text = _pattern.sub(HIDDEN, text)
    if "://" in text:
        text = _IN_URL.sub(rf"\1:{HIDDEN}@", text)
    return _AFTER_KEY.sub(rf"\1{HIDDEN}", text)


def hide_line(_logger: object, _method: str, line: Any) -> Any:
    """A processor of structlog, before its renderer and after it: hides passwords in texts, then in the line."""
    if isinstance(line, str):
        return hide(line)
    for name, value in line.items():
        if isinstance(value, str):
            line[name] = hide(value)
    return line


def remember(secret: str) -> None:
    """Hide a secret from now on, also as JSON, Python or a URL write it."""
    global _known, _pattern
    forms = {secret, unquote(secret)}
    forms |= {form.strip() for form in forms}
    forms |= {write(form) for form in forms for write in (_in_json, _in_python, _in_url)}
    new = {form for form in forms if len(form) >= LENGTH_MIN} - _known
    if new:
        _known |= new
        # The longest first: another secret may be a part of it.
        _pattern = re.compile("|".join(map(re.escape, sorted(_known, key=len, reverse=True))))


def _in_json(text: str) -> str:
    return json.dumps(text)[1:-1]


def _in_python(text: str) -> str:
    return repr(text)[1:-1]


def _in_url(text: str) -> str:
    return quote(text, safe="")


def remember_passwords(dsns: str) -> None:
    """Hide the passwords in database URLs and key-value strings from now on; a text that is neither as a whole."""
    if "://" not in dsns and "=" not in dsns:
        remember(dsns)
    for found in _IN_URL.finditer(dsns):
        remember(found[2])
    for found in _AFTER_KEY.finditer(dsns):
        written = found[2]
        if written[0] in "'\"":
            remember(re.sub(r"\\(.)", r"\1", written[1:-1]))
        remember(written)


def guard_tracebacks() -> None:
    """Print without passwords what nobody else formats: uncaught exceptions, and logs that are not configured."""
    sys.excepthook = _print
    threading.excepthook = _print_of_thread
    last_resort = logging.StreamHandler(standard_error.for_logs())
    last_resort.setLevel(logging.WARNING)
    last_resort.setFormatter(_Hiding())
    logging.lastResort = last_resort


class _Hiding(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return hide(super().format(record))


def _print(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if sys.stderr is not None:
        sys.stderr.write(hide("".join(traceback.format_exception(kind, error, trace))))


def _print_of_thread(ended: threading.ExceptHookArgs) -> None:
    if ended.exc_type is not SystemExit and ended.exc_value is not None:
        name = ended.thread.name if ended.thread is not None else "a thread"
        sys.stderr.write(f"Exception in thread {name}:\n")
        _print(ended.exc_type, ended.exc_value, ended.exc_traceback)
