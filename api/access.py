"""Who may do what: roles, the permissions of each, and the check of every request."""

import re
from collections.abc import Collection

import msgspec

REQUEST, CANCEL, READ, ACCOUNTS = "withdrawals:request", "withdrawals:cancel", "withdrawals:read", "accounts:read"
OPERATIONS, OPERATE, KEYS, OPEN_ACCOUNTS = "operations:read", "operations:act", "keys:manage", "accounts:open"
PERMISSIONS = (REQUEST, CANCEL, READ, ACCOUNTS, OPERATIONS, OPERATE, KEYS, OPEN_ACCOUNTS)
"""What a route may ask for; a key may be limited to some of them, its scopes."""

WITH_OPERATIONS = (READ, ACCOUNTS)
"""What belongs to :data:`OPERATIONS`: dead letters, outboxes and the console show whole events and accounts."""

OF_PROVIDER = "oidc:"
"""Before the name of whoever has a token of the OpenID provider."""

_NAME = re.compile(r"[A-Za-z0-9._:-]{1,64}")

CLIENT, VIEWER, OPERATOR, ADMIN = ROLES = ("client", "viewer", "operator", "admin")

MAY: dict[str, frozenset[str]] = {
    CLIENT: frozenset((REQUEST, CANCEL, READ)),
    VIEWER: frozenset((READ, ACCOUNTS, OPERATIONS)),
    OPERATOR: frozenset((READ, ACCOUNTS, OPERATIONS, CANCEL, OPERATE)),
    ADMIN: frozenset(PERMISSIONS),
}
"""The permissions of each role. A client has them for its own withdrawals alone."""


class Caller(msgspec.Struct, frozen=True):
    """Who makes a request.

    Attributes:
        name: whose idempotency keys and withdrawals these are; one caller may have several API keys.
        role: of :data:`ROLES`.
        permissions: what it may do.
        by_cookie: whether a browser sent the credentials by itself, so that other pages could have it do so.
    """

    name: str
    role: str
    permissions: frozenset[str]
    by_cookie: bool = False

    @property
    def sees_only_its_own(self) -> bool:
        """Whether withdrawals of others do not exist for it."""
        return self.role == CLIENT


def permissions(role: str, scopes: Collection[str]) -> frozenset[str]:
    """The permissions of a key: those of its role, or of them those that its scopes name.

    Without all of :data:`WITH_OPERATIONS`, what operators see is none of them.
    """
    found = MAY[role] & frozenset(scopes) if scopes else MAY[role]
    return found if found.issuperset(WITH_OPERATIONS) else found - {OPERATIONS}


def complaint(caller: str, role: str, scopes: Collection[str] = ()) -> str | None:
    """What is wrong with a caller, its role and its scopes that somebody gives credentials to; None if nothing."""
    if not _NAME.fullmatch(caller):
        return f"{caller!r} names no caller: 1 to 64 letters, digits, '.', '_', ':' or '-'"
    if caller.startswith(OF_PROVIDER):
        return f"{caller} is whom the OpenID provider knows by that name: nobody else gets {OF_PROVIDER}…"
    if role not in ROLES:
        return f"there is no role {role!r}: it is one of {', '.join(ROLES)}"
    if wrong := [scope for scope in scopes if scope not in PERMISSIONS]:
        return f"there is no scope {wrong[0]!r}: there are {', '.join(PERMISSIONS)}"
    if lacking := [scope for scope in scopes if scope not in MAY[role]]:
        return f"a {role} lacks the permission {lacking[0]}, so no key of one has it"
    if OPERATIONS in scopes and (lacking := [scope for scope in WITH_OPERATIONS if scope not in scopes]):
        return f"{OPERATIONS} shows whole events and every account: give {' and '.join(lacking)} with it"
    return None
