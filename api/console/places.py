"""Where the page of a thing is that another page, the audit or the operator log names. Pure functions."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode
from uuid import UUID

HOME = "/console"

COMMANDS: tuple[tuple[str, str, str], ...] = (
    (r"settle dead-letters show (?P<of>\S+)", "/dead-letters?state=all&payment_id={of}", "its dead letter"),
    (r"settle dead-letters list(?: --all)?", "/dead-letters?state=all", "the page of dead letters"),
    (r"settle outbox dead list", "/outboxes", "the page of outboxes"),
)
"""Commands that sentences of operations name and that have a page: their form, its path, what it is called."""

TARGETS_MAX = 10
"""Things that an action of the operator log names, each with its link; further ones are counted."""

_PLAIN = re.compile(r"[A-Za-z0-9._:-]+")

# Each finding of the audit begins with what it is about.
_FINDING = re.compile(r"(?P<name>.*?): (?P<words>.*)", re.DOTALL)


class Finding(NamedTuple):
    """What a check found: the name of what it is about, the path of its page, and what is wrong with it."""

    name: str
    path: str | None
    words: str


class Piece(NamedTuple):
    """Part of a sentence: words, a command as it is typed, or the path of the page that does the same."""

    words: str
    path: str | None = None
    is_command: bool = False


class Target(NamedTuple):
    """What an action was done to: its name, and the path of its page where it has one."""

    name: str
    path: str | None = None


def pieces(sentence: str) -> Iterator[Piece]:
    """A sentence of an operation for who looks at a page: commands in backquotes as pages, or as commands."""
    for place, part in enumerate(sentence.split("`")):
        if place % 2 == 0:
            yield Piece(part)
        else:
            yield _as_page(part) or Piece(part, is_command=True)


def _as_page(command: str) -> Piece | None:
    for form, path, words in COMMANDS:
        if (found := re.fullmatch(form, command)) is not None:
            named = {name: quote(text, safe="") for name, text in found.groupdict().items()}
            return Piece(words, f"{HOME}{path.format(**named)}")
    return None


def withdrawal_path(payment_id: UUID | str) -> str:
    """The page of a withdrawal."""
    return f"{HOME}/withdrawals/{payment_id}"


def account_path(account_id: str) -> str:
    """The page of an account, also of one whose ID is no segment of a path: ``..``, or with a slash."""
    if _PLAIN.fullmatch(account_id) and account_id not in (".", "..", "stream"):
        return f"{HOME}/accounts/{account_id}"
    return f"{HOME}/accounts?{urlencode({'id': account_id})}"


def findings(check: str, detail: str) -> list[Finding]:
    """What a check of the audit found.

    Args:
        check: its name; that of balances names accounts, others withdrawals, or services and topics.
        detail: of a check that does not hold.
    """
    return [_finding(check, one) for one in detail.split("; ")]


def _finding(check: str, text: str) -> Finding:
    found = _FINDING.fullmatch(text)
    if found is None:
        return Finding("", None, text)
    name, words = found["name"], found["words"]
    if check == "balances":
        return Finding(name, account_path(name), words)
    return Finding(name, withdrawal_path(name) if _is_uuid(name) else None, words)


def targets(action: str, subject: Any, result: Any) -> tuple[list[Target], int]:
    """What an action of the operator log was done to, and how many more there are.

    Args:
        action: as the log names it.
        subject: as it was stored, decoded.
        result: the same; None where there is none.
    """
    found = list(_targets(action, subject, result))
    return found[:TARGETS_MAX], max(len(found) - TARGETS_MAX, 0)


def _targets(action: str, subject: Any, result: Any) -> Iterator[Target]:
    match action, subject:
        case "cancel" | "nudge", str():
            yield Target(subject, withdrawal_path(subject) if _is_uuid(subject) else None)
        case "audit", _:
            name = _member(result, "audit_id")
            yield Target(name, f"{HOME}/audit/{name}") if name else Target("not begun")
        case "open accounts", {"account_ids": [*names]}:
            yield from (Target(str(name), account_path(str(name))) for name in names)
        case "create key", {"caller": caller, "role": role}:
            yield Target(f"{_member(result, 'key_id')} of {caller}, {role}".strip(), f"{HOME}/settings")
        case "revoke key", str():
            yield Target(subject, f"{HOME}/settings")
        case (
            ("redrive dead letters" | "redrive dead letters, also unverified" | "discard dead letters"),
            [*names],
        ):
            yield from (Target(str(name), f"{HOME}/dead-letters/{quote(str(name))}") for name in names)
        case "republish", {"payment_ids": [*names]}:
            yield from (Target(str(name), withdrawal_path(str(name))) for name in names)
        case "republish", _:
            yield Target("every withdrawal")
        case _, [*entries]:
            yield from (Target(_in_words(one)) for one in entries)
        case _, _:
            yield Target(_in_words(subject))


def _in_words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_in_words(one)}" for name, one in value.items())
    return str(value)


def _member(value: Any, name: str) -> str:
    found = value.get(name) if isinstance(value, Mapping) else None
    return found if isinstance(found, str) else ""


def _is_uuid(text: str) -> bool:
    try:
        return str(UUID(text)) == text.lower()
    except ValueError:
        return False
