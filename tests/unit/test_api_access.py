"""Who gets credentials: a name that could be somebody else's, or that can do nothing, is refused."""

import pytest

from api.access import ACCOUNTS, OPERATE, OPERATIONS, OPERATOR, READ, complaint, permissions


@pytest.mark.parametrize(
    ("caller", "role", "scopes", "said"),
    [
        ("shop", "client", [], None),
        ("shop.example:7", "client", ["withdrawals:read"], None),
        ("oidc:carol", "operator", [], "the OpenID provider"),
        ("", "client", [], "names no caller"),
        ("a b", "client", [], "names no caller"),
        ("a" * 65, "client", [], "names no caller"),
        ("shop\n", "client", [], "names no caller"),
        ("shop", "root", [], "there is no role"),
        ("shop", "client", ["everything"], "there is no scope"),
        ("shop", "client", ["accounts:read"], "a client lacks the permission"),
        ("watch", "viewer", [OPERATIONS], f"give {READ} and {ACCOUNTS} with it"),
        ("watch", "viewer", [OPERATIONS, READ], f"give {ACCOUNTS} with it"),
        ("watch", "viewer", [OPERATIONS, READ, ACCOUNTS], None),
        ("act", "operator", [OPERATE], None),
    ],
)
def test_what_is_wrong_with_who_gets_credentials(caller, role, scopes, said):
    found = complaint(caller, role, scopes)
    assert found is None if said is None else said in found


def test_a_stored_key_sees_what_operators_see_only_with_the_withdrawals_and_accounts_in_it():
    assert permissions(OPERATOR, [OPERATIONS, READ]) == {READ}
    assert permissions(OPERATOR, [OPERATIONS, ACCOUNTS, OPERATE]) == {ACCOUNTS, OPERATE}
    assert permissions(OPERATOR, [OPERATIONS, READ, ACCOUNTS]) == {OPERATIONS, READ, ACCOUNTS}
