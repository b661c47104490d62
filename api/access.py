"""Who may do what: roles, the permissions of each, and the check of every request."""

from collections.abc import Collection

import msgspec

REQUEST, CANCEL, READ, ACCOUNTS = "withdrawals:request", "withdrawals:cancel", "withdrawals:read", "accounts:read"
OPERATIONS, OPERATE, KEYS, OPEN_ACCOUNTS = "operations:read", "operations:act", "keys:manage", "accounts:open"
PERMISSIONS = (REQUEST, CANCEL, READ, ACCOUNTS, OPERATIONS, OPERATE, KEYS, OPEN_ACCOUNTS)
"""What a route may ask for; a key may be limited to some of them, its scopes."""

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
    """The permissions of a key: those of its role, or of them those that its scopes name."""
    return MAY[role] & frozenset(scopes) if scopes else MAY[role]


def complaint(role: str, scopes: Collection[str]) -> str | None:
    """What is wrong with a role and its scopes; None where both are known."""
    if role not in ROLES:
        return f"there is no role {role!r}: it is one of {', '.join(ROLES)}"
    if wrong := [scope for scope in scopes if scope not in PERMISSIONS]:
        return f"there is no scope {wrong[0]!r}: there are {', '.join(PERMISSIONS)}"
    return None
